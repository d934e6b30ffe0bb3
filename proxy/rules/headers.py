"""The header fields of both directions: strip, then add.

A head goes on as parsed parts, never as copied raw bytes. Fields lie as `(name, value)` pairs of bytes, in
the order, case and number in which they came, up to the one join that makes them a head.
"""

from collections.abc import Set as AbstractSet
from typing import Final

Fields = list[tuple[bytes, ...]]  # pairs; of no said length, or mypyc makes each anew when it is passed on

# RFC 9110 section 7.6.1, and what predates it. Content-Length is not hop-by-hop, but framing is ours: it is
# written anew from what llhttp parsed, so that no `Connection: content-length` can take it away.
HOP_BY_HOP: Final = frozenset(
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
_TAKEN: Final = HOP_BY_HOP | _IDENTITY | {b"host", b"content-length", b"expect"}
_NOTED: Final = (
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

_RESPONSE_DROPPED: Final = HOP_BY_HOP | frozenset(
    (
        b"set-cookie",  # a cookie jar shared by all callers would be one more credential
        b"set-cookie2",
        b"x-request-id",  # ours is set: it is the one in the log
    )
)
_RESPONSE_NOTED: Final = _RESPONSE_DROPPED | {
    b"content-length",  # stays where it stood, for as long as it is that of what the caller gets
    b"content-location",
    b"fumage-correlation-id",
    b"location",
}

# Noted, under this name, when there is any of the fields that only browsers send.
BROWSER: Final = b"sec-fetch-*"
NOSNIFF: Final = frozenset((b"x-content-type-options",))
LENGTH: Final = frozenset((b"content-length",))

# True only of the bytes that Fumage sent: a body whose links are rewritten is not described by them.
OF_THE_BYTES = frozenset((b"accept-ranges", b"content-digest", b"content-md5", b"digest", b"repr-digest"))

VIA: Final = b"1.1 fumage-proxy"
PSEUDONYM: Final = b"fumage-proxy"
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


_UNDERSCORE: Final = ord("_")  # a number, because `b"_" in …` takes ten times as long
_BY_PREFIX: Final = (b"x-forwarded-", b"sec-fetch-", b"x-http-method")
_CONTROL: Final = frozenset((b"close", b"", b"content-length"))  # no names of fields, or not to be taken out
_PLAIN: Final = frozenset((b"keep-alive", b"close"))  # Connection fields that name no field to be taken out
_REQUEST_ID: Final = frozenset((b"x-request-id",))


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
    return b"".join(_lines(fields, []))


def _lines(fields: Fields, pieces: list[bytes]) -> list[bytes]:
    for name, value in fields:
        pieces.append(name)
        pieces.append(b": ")
        pieces.append(value)
        pieces.append(b"\r\n")
    return pieces


def request_head(method: bytes, path: bytes, target: bytes, fields: bytes, request_id: bytes | None) -> bytes:
    """A request head up to, and without, the Authorization field that `authorized` sets last.

    `path` is the base URL's own, before the target; `request_id` goes in if it is not among the fields.
    """
    if request_id is None:
        return b"".join((method, b" ", path, target, b" HTTP/1.1\r\n", fields))
    own = b"X-Request-Id: "
    return b"".join((method, b" ", path, target, b" HTTP/1.1\r\n", fields, own, request_id, b"\r\n"))


def authorized(head: bytes, authorization: bytes) -> bytes:
    """The finished head: nothing comes after our credential."""
    return b"".join((head, b"Authorization: ", authorization, b"\r\n\r\n"))


def response_head(status: int, reason: bytes, fields: Fields) -> bytes:
    """The head of an answer, whole."""
    pieces = _lines(fields, [b"HTTP/1.1 ", str(status).encode(), b" ", reason, b"\r\n"])
    pieces.append(b"\r\n")
    return b"".join(pieces)


def note_response(headers: Fields) -> tuple[Fields, dict[bytes, bytes]]:
    """Like `note_request`, for an answer: the fields that go on, and the noted ones.

    Location and Content-Location go on as they came: what links make of them is the exchange's.
    """
    kept: Fields = []
    noted: dict[bytes, bytes] = {}
    for field in headers:
        name, value = field
        lower = name.lower()
        if lower in _RESPONSE_NOTED:
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
