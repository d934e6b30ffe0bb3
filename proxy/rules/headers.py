"""The header fields of both directions: strip, then add.

A head goes on as parsed parts, never as copied raw bytes. Fields lie as `(name, value)` pairs of bytes, in
the order, case and number in which they came, up to the one join that makes them a head.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import NamedTuple

Fields = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and what predates it. Content-Length is not hop-by-hop, but framing is ours: it is
# written anew from what llhttp parsed, so that no `Connection: content-length` can take it away.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",  # never standardised, still sent
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",  # rides with `Upgrade: h2c` (Java's HttpClient)
    )
)

# The caller's word on who it is does not reach Fumage: the proxy alone vouches for the request.
_IDENTITY = frozenset((b"authorization", b"cookie", b"cookie2", b"forwarded"))

# Fields that make some servers act on another method or path than the request line's. The first stands for
# all that begin so.
OVERRIDES = frozenset((b"x-http-method*", b"x-method-override", b"x-original-url", b"x-rewrite-url"))

# What `allow` looks at. WSGI servers read `X_Original_URL` as `X-Original-URL`, so that one is noted as well.
_JUDGED = OVERRIDES | {b"content-encoding", b"content-type", b"if-none-exist"}

# Fields of a request that do not go on as they came, or that a station looks at. All else is copied unseen.
_TAKEN = HOP_BY_HOP | _IDENTITY | {b"host", b"content-length", b"expect"}
_NOTED = (
    _TAKEN
    | _JUDGED
    | {
        b"origin",
        b"via",
        b"x-request-id",
        b"access-control-request-method",
        b"access-control-request-headers",
    }
)

# Framing and routing have no place in a trailer section (RFC 9110 section 6.5.1), nor has what is stripped
# above, nor what would speak for a field that the proxy itself adds, changes or leaves out.
_NOT_IN_TRAILERS = (_TAKEN | _JUDGED) | frozenset(
    (
        b"content-location",
        b"content-range",
        b"content-security-policy",
        b"location",
        b"origin",
        b"proxy-status",
        b"set-cookie",
        b"set-cookie2",
        b"trailer",
        b"vary",
        b"via",
        b"x-content-type-options",
        b"x-request-id",
    )
)
_NOT_BEGINNING_TRAILERS = (b"x-forwarded-", b"sec-fetch-", b"access-control-", b"x-http-method")

_RESPONSE_DROPPED = HOP_BY_HOP | frozenset(
    (
        b"set-cookie",  # a cookie jar shared by all callers would be one more credential
        b"set-cookie2",
        b"x-request-id",  # ours is set: it is the one in the log
    )
)
_RESPONSE_NOTED = _RESPONSE_DROPPED | {
    b"content-length",  # stays where it stood, for as long as it is that of what the caller gets
    b"content-location",
    b"fumage-correlation-id",
    b"location",
}

BROWSER = b"sec-fetch-*"  # noted, under this name, when there is any of the fields that only browsers send
NOSNIFF = frozenset((b"x-content-type-options",))
LENGTH = frozenset((b"content-length",))

# True only of the bytes that Fumage sent: a body whose links are rewritten is not described by them.
OF_THE_BYTES = frozenset((b"accept-ranges", b"content-digest", b"content-md5", b"digest", b"repr-digest"))

VIA = b"1.1 fumage-proxy"
PSEUDONYM = b"fumage-proxy"
EXPOSED = (
    b"Location, Content-Location, ETag, Last-Modified, Retry-After, Proxy-Status, X-Request-Id, "
    b"fumage-correlation-id"
)


def note_request(headers: Fields) -> tuple[Fields, dict[bytes, bytes]]:
    """Read the fields of a request once: those that go on, and what the stations look at.

    Of fields that came several times, the noted value is their list (RFC 9110 section 5.3).
    """
    kept: Fields = []
    noted: dict[bytes, bytes] = {}
    for field in headers:
        name, value = field
        lower = name.lower()
        if lower in _NOTED:
            noted[lower] = noted[lower] + b", " + value if lower in noted else value
            if lower in _TAKEN:
                continue
        elif lower.startswith(_BY_PREFIX) or _UNDERSCORE in lower:
            if lower.startswith(b"x-forwarded-"):
                continue
            _note_rare(lower, value, noted)
        kept.append(field)
    if noted.get(b"connection", b"close").lower() not in _PLAIN:
        kept = without(kept, connection_options(noted[b"connection"]) - HOP_BY_HOP - _CONTROL)
    if b"x-request-id" in noted and (not noted[b"x-request-id"] or _is_named(b"x-request-id", noted)):
        # One that does not go on is none: the answer and the log must not show another than Fumage's.
        kept = without(kept, _REQUEST_ID)
        del noted[b"x-request-id"]
    return kept, noted


def _note_rare(lower: bytes, value: bytes, noted: dict[bytes, bytes]) -> None:
    name = lower
    if lower.startswith(b"sec-fetch-"):
        noted[BROWSER] = b""
    else:
        name = lower.replace(b"_", b"-")
        if name.startswith(b"x-http-method"):
            name = b"x-http-method*"
        elif name not in _JUDGED:
            return
    noted[name] = noted[name] + b", " + value if name in noted else value


_UNDERSCORE = ord("_")  # a number, because `b"_" in …` takes ten times as long
_BY_PREFIX = (b"x-forwarded-", b"sec-fetch-", b"x-http-method")
_CONTROL = frozenset((b"close", b"", b"content-length"))  # no names of fields, or not to be taken out
_PLAIN = frozenset((b"keep-alive", b"close"))  # Connection fields that name no field to be taken out
_REQUEST_ID = frozenset((b"x-request-id",))


def connection_options(value: bytes) -> set[bytes]:
    """The lower-cased options of a Connection field (RFC 9110 section 7.6.1)."""
    return {option.strip(b" \t") for option in value.lower().split(b",")}


def _is_named(name: bytes, noted: dict[bytes, bytes]) -> bool:
    return b"connection" in noted and name in connection_options(noted[b"connection"])


def without(fields: Fields, names: AbstractSet[bytes]) -> Fields:
    """The fields less those of these lower-cased names."""
    return [field for field in fields if field[0].lower() not in names]


def loops(noted: dict[bytes, bytes]) -> bool:
    """Whether the Via field shows that the request has been here before."""
    via = noted.get(b"via")
    if via is None or PSEUDONYM not in via:
        return False
    return any(PSEUDONYM in hop.split()[1:2] for hop in via.split(b","))


def request_fields(host: bytes, fields: Fields, added: Fields) -> bytes:
    """The lines of a request's fields: Fumage's authority, the caller's fields, and those added."""
    return section([(b"Host", host), *fields, *added])


def section(fields: Fields) -> bytes:
    """The lines of the fields, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def request_head(method: bytes, path: bytes, target: bytes, fields: bytes, request_id: bytes | None) -> bytes:
    """A request head up to, and without, the Authorization field that `authorized` sets last.

    `path` is the base URL's own, before the target; `request_id` goes in if it is not among the fields.
    """
    if request_id is None:
        return b"".join((method, b" ", path, target, b" HTTP/1.1\r\n", fields))
    own = (b" HTTP/1.1\r\n", fields, b"X-Request-Id: ", request_id, b"\r\n")
    return b"".join((method, b" ", path, target, *own))


def authorized(head: bytes, authorization: bytes) -> bytes:
    """The finished head: nothing comes after our credential."""
    return b"".join((head, b"Authorization: ", authorization, b"\r\n\r\n"))


def response_head(status: int, reason: bytes, fields: Fields) -> bytes:
    """The head of an answer, whole."""
    return b"\r\n".join((b"HTTP/1.1 %d %b" % (status, reason), *map(b": ".join, fields), b"", b""))


def note_response(headers: Fields) -> tuple[Fields, dict[bytes, bytes]]:
    """Like `note_request`, for an answer: the fields that go on, and the noted ones.

    Location and Content-Location go on as they came: what links make of them is the exchange's.
    """
    # A server sends the same fields in one order again and again, so what becomes of them is decided once
    # for a sequence of names. Values decide only where Connection names a field, and where one comes twice.
    if len(headers) > 1:
        names, values = zip(*headers)  # noqa: B905 (pairs; being told `strict` takes half as long again)
        plan = _PLANS.get(names)
        if plan is None:
            plan = _remember(names)
        if plan.holds:
            noted = dict(zip(plan.noted, plan.values(values)))  # noqa: B905 (the same)
            if noted.get(b"connection", b"close").lower() in _PLAIN:
                return list(plan.kept(headers)), noted
    return _note_each(headers)


class _Plan(NamedTuple):
    """What becomes of the fields of an answer that have these names; `holds` if the names alone say it."""

    holds: bool
    noted: tuple[bytes, ...]
    values: Callable[[Sequence[bytes]], tuple[bytes, ...]]  # those of the noted fields, of all values
    kept: Callable[[Fields], tuple[tuple[bytes, bytes], ...]]

    @classmethod
    def of(cls, names: Sequence[bytes]) -> "_Plan":
        lower = [name.lower() for name in names]
        noted = [at for at, name in enumerate(lower) if name in _RESPONSE_NOTED]
        kept = [at for at, name in enumerate(lower) if name not in _RESPONSE_DROPPED]
        unique = tuple(dict.fromkeys(lower[at] for at in noted))
        holds = len(unique) == len(noted) > 1 and len(kept) > 1  # of one, itemgetter makes no tuple
        return cls(holds, unique, itemgetter(*noted or (0,)), itemgetter(*kept or (0,)))


_MOST_PLANS, _LONGEST_PLAN = 256, 4096  # names are the server's choice: together, and bytes of one
_PLANS: dict[tuple[bytes, ...], _Plan] = {}


def _remember(names: tuple[bytes, ...]) -> _Plan:
    plan = _Plan.of(names)
    if sum(map(len, names)) <= _LONGEST_PLAN:
        if len(_PLANS) >= _MOST_PLANS:
            del _PLANS[next(iter(_PLANS))]
        _PLANS[names] = plan
    return plan


def _note_each(headers: Fields) -> tuple[Fields, dict[bytes, bytes]]:
    kept: Fields = []
    noted: dict[bytes, bytes] = {}
    for field in headers:
        lower = field[0].lower()
        if lower in _RESPONSE_NOTED:
            value = field[1]
            noted[lower] = noted[lower] + b", " + value if lower in noted else value
            if lower in _RESPONSE_DROPPED:
                continue
        kept.append(field)
    if noted.get(b"connection", b"close").lower() not in _PLAIN:
        kept = without(kept, connection_options(noted[b"connection"]) - HOP_BY_HOP - _CONTROL)
    return kept, noted


def without_cors(fields: Fields) -> Fields:
    """The fields less what Fumage says of CORS: for an allowed origin the proxy answers that itself."""
    return [field for field in fields if not field[0].lower().startswith(b"access-control-")]


def trailer_lines(
    trailers: Fields, connection: bytes | None, besides: AbstractSet[bytes] = frozenset()
) -> bytes:
    """A trailer section without what must not stand in one, and without its closing CRLF.

    `connection` is the message's Connection field, which may name trailer fields too; `besides` go as well.
    """
    if not trailers:
        return b""
    dropped = _NOT_IN_TRAILERS | besides
    if connection is not None:
        dropped |= connection_options(connection)
    return section([field for field in trailers if _may_trail(field[0].lower(), dropped)])


def _may_trail(lower: bytes, dropped: AbstractSet[bytes]) -> bool:
    dashed = lower.replace(b"_", b"-")  # see _JUDGED
    return dropped.isdisjoint((lower, dashed)) and not dashed.startswith(_NOT_BEGINNING_TRAILERS)


def values_of(fields: Fields, names: AbstractSet[bytes]) -> dict[bytes, bytes]:
    """The fields of these lower-cased names; of one that came several times, the list."""
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if (lower := name.lower()) in names:
            found[lower] = found[lower] + b", " + value if lower in found else value
    return found
