"""Links in the body of a JSON answer: what points at Fumage comes back as the address that the caller used.

The body streams through and is never parsed as a whole: Fumage's host, a rare and cheap sign, is looked for
at the speed of `bytes.find`, and only where it turns up the place is judged:

    "link": [ {"relation": "next", "url": "https://fumage-…/Patient?_count=10"} ]
    the owner, found backwards      the key, and the prefix of its value that is replaced

Two facts carry this. In valid JSON a quote after a character that is no backslash opens or ends a string, so
the bytes `"url"` with no backslash before them are that string, never a piece of a longer one. And every
quote inside a string follows a backslash while the opening one never does, so JSON can be read backwards
without knowing what came first.

Names and the base are known as serialisers write them: the host in lower case, as our requests have it, and
nothing escaped but perhaps slashes (`\\/`). A URL that is spelled otherwise stays.
"""

import json
import re

from proxy.rules.links import Base

# The elements of FHIR R4 that are Attachments. No other element of these names has a `url` of its own, so the
# name alone tells Attachment.url from Extension.url, RelatedArtifact.url, canonical URLs and
# CapabilityStatement.implementation.url, which stay (a test asks fhirclient's models).
_ATTACHMENTS = frozenset(
    b"attachment content contentAttachment defaultValueAttachment document fixedAttachment form image "
    b"legallyBindingAttachment patternAttachment photo presentedForm sequenceAttachment sourceAttachment "
    b"valueAttachment".split()
)

# How far before a `url` its owner's name may lie: earlier members of the object, earlier items of the array.
# A url that comes after a longer `data` in the same Attachment stays.
_LOOK_BACK = 16 * 1024
_STEPS = (160, 1024, _LOOK_BACK)  # the first is nearly always enough, and cheap to turn round
_NESTING = 8  # of what is skipped on the way: a complex value of an Extension in an Extension takes five

_JUDGED = 8  # of each kind that are remembered
_BLANK = rb"[ \t\r\n]"
_MAX_BLANK = 64  # on either side of a colon
_SLASH = rb"\\?/"
# What follows the base is no matter, but has to be told from more of its host or path, however it is written.
_ANY_SLASH = rb"(?:\\?/|\\u002[fF])"
_END = rb'(?=["?#]|\\?/|\\u00(?:2[3fF]|3[fF]))'
_ENDS = (b"/", b'"', b"?", b"#")  # the usual ones


def looks_like_json(content_type: bytes) -> bool:
    """Whether a Content-Type announces one JSON document (`ndjson`, of bulk exports, is many)."""
    kind = content_type.partition(b";")[0].strip(b" \t").lower()
    return kind in (b"application/json", b"text/json") or kind.endswith(b"+json")


class BodyLinks:
    """What to look for in answers of one base: Bundle links, by wish attachments, by wish made absolute.

    Bundles inside of a Bundle count too (a batch of searches answers with such, and their paging links are
    followed like any other), and Bundle.entry.link, which R4 defines as the same element.
    """

    def __init__(self, base: Base, *, attachments: bool = False, absolute: bool = False):
        self.absolute = absolute
        self.owners = frozenset((b"link", *_ATTACHMENTS)) if attachments else frozenset((b"link",))
        self.host = base.host if base.port is None else b"%b:%d" % (base.host, base.port)
        self.by_host = not absolute and not base.path  # otherwise paths count too
        self._member = re.compile(_member(base, absolute=absolute))
        self.members = self._member.finditer  # those that point at the base, whatever owns them
        # Key, blanks and colon, then the prefix, if all slashes are escaped, and what follows it.
        self.longest = 160 + len("https://:65535") + len(base.host) + 2 * len(base.path)

    def rewriter(self, caller: bytes) -> "LinkRewriter":
        """For one answer; `caller` is the authority that its request was sent to, as for `Links.location`."""
        return LinkRewriter(self, caller)

    def member(self, window: bytes, at: int) -> re.Match[bytes] | None:
        """The member `url`, if there is one, that has the base's host at this place."""
        key = window.rfind(b'"url"', max(0, at - self.longest), at)
        found = self._member.match(window, key) if key >= 0 else None
        return found if found and found.end() >= at else None


class _Judged:
    """How the text before some place ended, from the owner's name on, when it was judged.

    In one answer most places are alike, and what ends so need not be judged again: the owner is found from
    these bytes alone.
    """

    def __init__(self) -> None:
        self.ours: tuple[bytes, ...] = ()
        self.others: tuple[bytes, ...] = ()
        self.cut = 0  # bytes at the end of each of ours that are replaced

    def learn(self, tail: bytes, cut: int, *, ours: bool) -> None:
        if not ours:
            self.others = (tail, *self.others[: _JUDGED - 1])
            return
        known = self.ours[: _JUDGED - 1] if cut == self.cut else ()
        self.ours, self.cut = (tail, *known), cut


class LinkRewriter:
    """Rewrites one answer's body as it comes by. Whatever the bytes are, it raises nothing and loses none."""

    def __init__(self, links: BodyLinks, caller: bytes):
        self._links = links
        self._owners = links.owners
        # On a unix socket nobody has checked the Host: it must not end the string it is put in.
        safe = json.dumps(caller.decode("latin-1"))[1:-1].encode()
        self._here = b"http://" + safe if safe else b""
        self._held = b""  # may be the start of a member that is ours
        self._past = bytearray()  # at least the last _LOOK_BACK bytes before it, as they came
        self._begun = False
        self._idle = False  # not a JSON text in an encoding like ASCII: nothing to look for
        self._judged = _Judged()

    def feed(self, data: bytes) -> bytes:
        """What can go on its way: all but at most `BodyLinks.longest` bytes that need their continuation."""
        if not self._begun:
            self._begin(data)
        if self._idle or not data:
            return data
        window = self._held + data if self._held else data
        return self._pass(window, len(window) - self._links.longest)

    def end(self) -> bytes:
        """The rest."""
        return self._pass(self._held, len(self._held))

    def _begin(self, data: bytes) -> None:
        text = data.lstrip(b" \t\r\n")
        if text:
            self._begun = True
            self._idle = text[0] not in b"{["

    def _pass(self, window: bytes, decided: int) -> bytes:
        """Take the window's members that begin up to `decided`: the others are not to be seen whole yet."""
        out: list[bytes] = []
        by_host = self._links.by_host and self._here
        done = self._by_host(window, decided, out) if by_host else self._by_key(window, decided, out)
        kept = len(window)
        if decided < kept and (opening := _OPENING.search(window, max(done, decided, 0))):
            kept = opening.start()
        out.append(window[done:kept])
        self._held = window[kept:]
        self._past += window[max(0, kept - _LOOK_BACK) : kept]
        if len(self._past) > 4 * _LOOK_BACK:
            del self._past[:-_LOOK_BACK]
        return b"".join(out)

    # The two below put out what the window becomes up to the end of its last change, and return that place.

    def _by_host(self, window: bytes, decided: int, out: list[bytes]) -> int:
        done, host, judged = 0, self._links.host, self._judged
        at = window.find(host)
        while at >= 0:
            end = at + len(host)
            if at <= decided and window.endswith(judged.ours, 0, at) and window.startswith(_ENDS, end):
                out += (window[done : at - judged.cut], self._here)
                done = end
            elif not window.endswith(judged.others, 0, at) and (found := self._links.member(window, at)):
                if found.start() > decided:
                    break
                if self._is_ours(window, found.start(), at, at - found.start("old")):
                    out += (window[done : found.start("old")], self._replacement(found))
                    done = found.end()
            at = window.find(host, end)
        return done

    def _by_key(self, window: bytes, decided: int, out: list[bytes]) -> int:
        done, judged = 0, self._judged
        always = self._here if self._links.absolute else b""
        for found in self._links.members(window):
            start = found.start()
            if start > decided:
                break
            if window.endswith(judged.ours, 0, start) or (
                not window.endswith(judged.others, 0, start) and self._is_ours(window, start, start, 0)
            ):
                out += (window[done : found.start("old")], always or self._replacement(found))
                done = found.end()
        return done

    def _replacement(self, found: re.Match[bytes]) -> bytes:
        if found["authority"] and self._here:
            return self._here
        # The path alone, and it has to be one, as in `Links.location`: neither `?page=2` nor `//x`.
        following = _SLASHES_NEXT.match(found.string, found.end())
        if following is None:
            return b"/"
        return b"/." if following[1] else b""

    def _is_ours(self, window: bytes, start: int, at: int, cut: int) -> bool:
        """Whether the member that begins at `start` has an owner that counts; noted for places like `at`."""
        for length in _STEPS:
            before = window[max(0, start - length) : start]
            if start < length:
                before = bytes(self._past[start - length :]) + before
            if found := _OWNER.match(before[::-1]):
                ours = found[1][::-1] in self._owners
                if length == _STEPS[0]:
                    self._judged.learn(before[-found.end() - 1 :] + window[start:at], cut, ours=ours)
                return ours
            if len(before) < length:
                break
        return False


def _authority(base: Base) -> bytes:
    """A pattern for the base's authority with what may stand before it, in the forms that `Links` knows."""
    slashes, host = _SLASH * 2, re.escape(base.host)
    if base.port is not None:
        return rb"(?:https?:)?%b%b:%d" % (slashes, host, base.port)
    default = 443 if base.scheme == b"https" else 80
    forms = ((b"https:", 443), (b"http:", 80), (b"", default))
    return b"|".join(b"%b%b%b(?::%d)?" % (scheme, slashes, host, port) for scheme, port in forms)


def _member(base: Base, *, absolute: bool) -> bytes:
    """A pattern for the key `url` and the part `old` of its value that the caller's address replaces."""
    path = re.escape(base.path).replace(b"/", _SLASH)
    olds = [b"(?P<authority>%b)%b%b" % (_authority(base), path, _END)]
    if base.path:
        olds.append(path + _END)
    if absolute:
        olds.append(b"(?=%b(?!%b))" % (_SLASH, _ANY_SLASH))
    blanks = _BLANK + b"{0,%d}" % _MAX_BLANK
    return b'"url"%b:%b"(?P<old>%b)' % (blanks, blanks, b"|".join(olds))


def _owner() -> bytes:
    """A pattern on reversed text: from before a member back to the name of the element that it belongs to.

    No two of its ways begin alike, so it never tries one place twice, without the possessive groups that
    CPython 3.11 matches wrongly up to 3.11.4 (https://github.com/python/cpython/issues/106052).
    """
    text = rb'[^"]*+(?:"(?=\\)[^"]*+)*'
    step = rb'[^"{}\[\]]++|"' + text + rb'"(?!\\)'
    members = b"(?:" + step + b")*"
    for _ in range(_NESTING):
        members = b"(?:" + step + rb"|[}\]]" + members + rb"[{\[])*"
    blanks = _BLANK + b"*+"
    named = blanks + b":" + blanks + b'"(' + text + rb')"(?=[ \t\r\n,{])'
    return rb"(?!\\)" + members + rb"\{(?:" + members + rb"\[)??" + named


_OWNER = re.compile(_owner())
_SLASHES_NEXT = re.compile(b"%b(%b)?" % (_ANY_SLASH, _ANY_SLASH))
_OPENING = re.compile(rb'"(?:\Z|u(?:\Z|r(?:\Z|l(?:\Z|"))))')  # of what may become a key `url`
