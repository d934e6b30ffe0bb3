"""The header fields of both directions: strip, then add.

A head goes on as parsed parts, never as copied raw bytes. Fields lie as `(name, value)` pairs of bytes, in
the order, case and number in which they came; what is built is a list of bytes that one join turns into a head.
"""

from collections.abc import Iterable

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

# Fields of a request that do not go on as they came, or that a station looks at. Everything else is copied unseen.
_TAKEN = HOP_BY_HOP | _IDENTITY | {b"host", b"content-length", b"expect"}
_NOTED = _TAKEN | frozenset(
    (
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"sec-fetch-user",
        b"via",
        b"x-request-id",
        b"access-control-request-method",
        b"access-control-request-headers",
        b"content-type",
    )
)

# Framing and routing have no place in a trailer section (RFC 9110 section 6.5.1), nor has anything stripped above.
_NOT_IN_TRAILERS = _TAKEN | {b"x-request-id", b"via", b"set-cookie", b"content-encoding", b"content-type"}

_RESPONSE_DROPPED = HOP_BY_HOP | frozenset(
    (
        b"content-length",
        b"set-cookie",  # a cookie jar shared by all callers would be one more credential
        b"set-cookie2",
        b"x-request-id",  # ours is set: it is the one in the log
    )
)
_RESPONSE_NOTED = _RESPONSE_DROPPED | {b"location", b"content-location", b"fumage-correlation-id"}

VIA = b"1.1 fumage-proxy"
PSEUDONYM = b"fumage-proxy"
EXPOSED = (
    b"Location, Content-Location, ETag, Last-Modified, Retry-After, Proxy-Status, X-Request-Id, "
    b"fumage-correlation-id"
)


def note_request(headers: Fields) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Read the fields of a request once: the pieces of the lines that go on, and what the stations look at.

    Of fields that came several times, the noted value is their list (RFC 9110 section 5.3).
    """
    lines: list[bytes] = []
    noted: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _NOTED:
            noted[lower] = noted[lower] + b", " + value if lower in noted else value
            if lower in _TAKEN:
                continue
        elif lower.startswith(b"x-forwarded-"):
            continue
        lines += (name, b": ", value, b"\r\n")
    if b"connection" in noted and (named := connection_options(noted[b"connection"]) - HOP_BY_HOP - _CONTROL):
        lines = _without(lines, named)
    return lines, noted


_CONTROL = frozenset((b"close", b""))


def connection_options(value: bytes) -> set[bytes]:
    """The lower-cased options of a Connection field (RFC 9110 section 7.6.1)."""
    return {option.strip(b" \t") for option in value.lower().split(b",")}


def _without(lines: list[bytes], names: set[bytes]) -> list[bytes]:
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if lines[at].lower() not in names:
            kept += lines[at : at + 4]
    return kept


def loops(noted: dict[bytes, bytes]) -> bool:
    """Whether the Via field shows that the request has been here before."""
    via = noted.get(b"via")
    if via is None or PSEUDONYM not in via:
        return False
    return any(PSEUDONYM in hop.split()[1:2] for hop in via.split(b","))


def request_head(
    method: bytes, target: bytes, host: bytes, lines: list[bytes], added: Iterable[bytes]
) -> bytes:
    """A request head up to, and without, the Authorization field that `authorized` sets last.

    `host` is Fumage's authority; `added` are pieces of lines, each with its CRLF.
    """
    return b"".join((method, b" ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n", *lines, *added))


def authorized(head: bytes, authorization: bytes) -> bytes:
    """The finished head: nothing comes after our credential."""
    return b"".join((head, b"Authorization: ", authorization, b"\r\n\r\n"))


def note_response(headers: Fields) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Like `note_request`, for an answer: the pieces of the lines that go on, and the noted fields.

    Location and Content-Location stand in the lines as they came; `replace` puts in what links make of them.
    """
    lines: list[bytes] = []
    noted: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _RESPONSE_NOTED:
            noted[lower] = noted[lower] + b", " + value if lower in noted else value
            if lower in _RESPONSE_DROPPED:
                continue
        lines += (name, b": ", value, b"\r\n")
    if b"connection" in noted and (named := connection_options(noted[b"connection"]) - HOP_BY_HOP - _CONTROL):
        lines = _without(lines, named)
    return lines, noted


def without_cors(lines: list[bytes]) -> list[bytes]:
    """The lines less what Fumage says of CORS: for an allowed origin the proxy answers that itself."""
    kept: list[bytes] = []
    for at in range(0, len(lines), 4):
        if not lines[at].lower().startswith(b"access-control-"):
            kept += lines[at : at + 4]
    return kept


def trailer_lines(trailers: Fields) -> bytes:
    """A trailer section without what must not stand in one, and without its closing CRLF."""
    return b"".join(
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if name.lower() not in _NOT_IN_TRAILERS and not name.lower().startswith(b"x-forwarded-")
    )
