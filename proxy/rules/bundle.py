"""Links in the body of a JSON answer: what points at Fumage comes back as the address that the caller used.

The body streams through and is never parsed as a whole: a rare and cheap sign (Fumage's host, an escaped
ASCII character) is looked for at the speed of `bytes.find`, and only where it turns up the place is judged:

    "link": [ {"relation": "next", "url": "https://fumage-…/Patient?_count=10"} ]
    the owner, found backwards      the key, and the prefix of its value that is replaced

Two facts carry this. In valid JSON a quote after a character that is no backslash opens or ends a string, so
the bytes `"url"` with no backslash before them are that string, never a piece of a longer one. And every
quote inside a string follows a backslash while the opening one never does, so JSON can be read backwards
without knowing what came first.
"""

import json
import re
from collections.abc import Iterator

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

_BLANK = rb"[ \t\r\n]"
_MAX_BLANK = 64  # on either side of a colon


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
        self._host = re.compile(_in_any_case(base.host))
        self._relative = absolute or base.path != b""
        self._plain = re.compile(_member(base, absolute=absolute, escaped=False))
        self._escaped = re.compile(_member(base, absolute=absolute, escaped=True))
        # Key, blanks and colon, then the prefix and what follows it, if every character of them is escaped.
        self.longest = 160 + 6 * (len("https://:65535") + len(base.host) + len(base.path) + 2)

    def rewriter(self, caller: bytes) -> "LinkRewriter":
        """For one answer; `caller` is the authority that its request was sent to, as for `Links.location`."""
        return LinkRewriter(self, caller)

    def members(self, window: bytes) -> Iterator[re.Match[bytes]]:
        """Members `url` that point at the base, in their order, whatever owns them."""
        if b"\\" in window and _ESCAPED_ASCII.search(window):
            yield from self._escaped.finditer(window)
        elif self._relative:
            yield from self._plain.finditer(window)
        else:
            for host in self._host.finditer(window):
                at = host.start()
                key = window.rfind(b'"url"', max(0, at - self.longest), at)
                if key >= 0 and (found := self._plain.match(window, key)) and found.end() >= at:
                    yield found


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
        done = 0
        for found in self._links.members(window):
            if found.start() > decided:
                break
            if not self._is_ours(window, found.start()):
                continue
            start, end = found.span("old")
            out += (window[done:start], self._replacement(found))
            done = end
        kept = len(window)
        if decided < kept and (opening := _OPENING.search(window, max(done, decided, 0))):
            kept = opening.start()
        out.append(window[done:kept])
        self._held = window[kept:]
        self._past += window[max(0, kept - _LOOK_BACK) : kept]
        if len(self._past) > 4 * _LOOK_BACK:
            del self._past[:-_LOOK_BACK]
        return b"".join(out)

    def _replacement(self, found: re.Match[bytes]) -> bytes:
        if self._here and (self._links.absolute or found["authority"]):
            return self._here
        # The path alone, and it has to be one, as in `Links.location`: neither `?page=2` nor `//x`.
        following = _SLASHES_NEXT.match(found.string, found.end())
        if following is None:
            return b"/"
        return b"/." if following[1] else b""

    def _is_ours(self, window: bytes, start: int) -> bool:
        for length in _STEPS:
            before = window[max(0, start - length) : start]
            if start < length:
                before = bytes(self._past[start - length :]) + before
            if found := _OWNER.match(before[::-1]):
                name = found[1][::-1]
                return name in self._owners or (b"\\" in name and _unescaped(name) in self._owners)
            if len(before) < length:
                break
        return False


def _in_any_case(host: bytes) -> bytes:
    # A pattern that begins with a character that has no case, and is rare, is searched for ten times as fast.
    dot = max(0, host.find(b"."))
    whole, tail = re.escape(host), re.escape(host[dot + 1 :])
    return rb"\.(?i:%b)(?<=(?i:%b))" % (tail, whole) if dot else b"(?i:%b)" % whole


def _unescaped(name: bytes) -> bytes:
    try:
        return str(json.loads(b'"%b"' % name)).encode("utf-8", "surrogatepass")
    except ValueError:
        return name


def _spelled(text: bytes, *, escaped: bool, any_case: bool = False) -> bytes:
    """A pattern for all ways to write the text in a JSON string; without `escaped`, less those with `\\u`."""
    return b"".join(_character(character, escaped, any_case) for character in text.decode("latin-1"))


def _character(character: str, escaped: bool, any_case: bool) -> bytes:
    ways = []
    for one in sorted({character.lower(), character.upper()} if any_case else {character}):
        ways.append(re.escape(one.encode("latin-1")))
        if escaped:
            digits = "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in f"{ord(one):04x}")
            ways.append(rb"\\u" + digits.encode())
    if character == "/":
        ways.append(rb"\\/")
    return ways[0] if len(ways) == 1 else b"(?:" + b"|".join(ways) + b")"


def _authority(base: Base, *, escaped: bool) -> bytes:
    """The base's authority with what may stand before it, in the forms that `Links` knows."""

    def text(value: bytes) -> bytes:
        return _spelled(value, escaped=escaped, any_case=True)

    host = text(base.host)
    if base.port is not None:
        scheme = b"(?:" + text(b"http") + text(b"s") + b"?" + text(b":") + b")?"
        return scheme + text(b"//") + host + text(b":%d" % base.port)
    default = b":443" if base.scheme == b"https" else b":80"
    forms = ((b"https://", b":443"), (b"http://", b":80"), (b"//", default))
    return b"|".join(text(before) + host + b"(?:" + text(port) + b")?" for before, port in forms)


def _member(base: Base, *, absolute: bool, escaped: bool) -> bytes:
    """A pattern for the key `url` and the part `old` of its value that the caller's address replaces."""
    slash = _spelled(b"/", escaped=escaped)
    end = b'(?=["?#]|' + slash + (rb"|\\u00(?:23|3[fF])" if escaped else b"") + b")"
    path = _spelled(base.path, escaped=escaped)
    olds = [b"(?P<authority>" + _authority(base, escaped=escaped) + b")" + path + end]
    if base.path:
        olds.append(path + end)
    if absolute:
        olds.append(b"(?=" + slash + b"(?!" + slash + b"))")
    blanks = _BLANK + b"{0,%d}" % _MAX_BLANK
    key = b'"' + _spelled(b"url", escaped=escaped) + b'"'
    return key + blanks + b":" + blanks + b'"(?P<old>' + b"|".join(olds) + b")"


def _owner() -> bytes:
    """A pattern on reversed text: from before a member back to the name of the element that it belongs to."""
    text = rb'[^"]*+(?:"(?=\\)[^"]*+)*+'
    step = rb'[^"{}\[\]]++|"' + text + b'"'
    members = b"(?:" + step + b")*+"
    for _ in range(_NESTING):
        members = b"(?:" + step + rb"|[}\]]" + members + rb"[{\[])*+"
    blanks = _BLANK + b"*+"
    named = blanks + b":" + blanks + b'"(' + text + rb')"(?=[ \t\r\n,{])'
    return rb"(?!\\)" + members + rb"\{(?:" + members + rb"\[)??" + named


_OWNER = re.compile(_owner())
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_SLASHES_NEXT = re.compile(b"%b(%b)?" % (_spelled(b"/", escaped=True), _spelled(b"/", escaped=True)))
_OPENING = re.compile(rb'"(?:\\|\Z|u(?:\\|\Z|r(?:\\|\Z|l(?:\Z|"))))')  # of what may become a key `url`
