"""A caller's bytes become requests, one at a time. No I/O, no time.

llhttp reads the grammar, strictly. Here is what llhttp leaves to its user: sizes, the start line's single
spaces and version, Host, framing of HTTP/1.0, and where one message ends and the next begins.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httptools

from proxy.forward.request import Memo, Request, RequestBody
from proxy.rules.errors import (
    BodyTooLarge,
    HeadTooLarge,
    MalformedRequest,
    MethodUnknown,
    ProxyError,
    TargetTooLong,
)
from proxy.rules.guard import split_target
from proxy.rules.headers import Fields, note_request, section, without

_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_VERSIONS: Final = {b" HTTP/1.1\r\n": True, b" HTTP/1.0\r\n": False}
# What llhttp takes for a path and query, less what needs a second look.
_PLAIN_LINE: Final = re.compile(rb"(GET|HEAD|DELETE) (/[!\"$-~]*) HTTP/1\.1\r\n")
_OF_ONE_MESSAGE: Final = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_UPGRADE = frozenset((b"upgrade",))
_LONGEST_METHOD = 31  # the longest registered one, UPDATEREDIRECTREF, has 17
_LONGEST_LENGTH = 19  # digits; llhttp bounds the value only, and int() refuses 5,000 zeros


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes; `max_body` 0 means no limit."""

    max_head: int
    max_body: int


class RequestReader:
    """Reads the requests of one connection, the same whatever pieces their bytes come in.

    `request` is there once its head is, `body` until the last of it; `partial` tells that a head has begun.
    """

    def __init__(self, limits: Limits, want_body: Callable[[], None]):
        self._limits = limits
        self._want_body = want_body
        self._parser = httptools.HttpRequestParser(self)
        # Of the request before, if it was plain: its fields as they came, and what was read in them.
        self._before: tuple[bytes, Fields, dict[bytes, bytes], Memo] | None = None
        self._pristine = False  # as `begin` leaves it, but for the request
        self.begin()

    def begin(self) -> None:
        """The message is over: what comes is the next one."""
        self.request: Request | None = None
        if self._pristine:
            return
        self._pristine = True
        self.body: RequestBody | None = None
        self.keep_alive = False  # the caller's wish
        self.expects_continue = False
        self._half_line = False  # a CR is here of what may be an empty line
        self._head = bytearray()  # of a head that is not complete yet
        self._parsed = 0  # bytes of it
        self._target = b""
        self._headers: Fields = []
        self._head_complete = self._message_complete = False
        self._tail = b""
        self._overhead = self._barren = 0

    @property
    def partial(self) -> bool:
        return bool(self._head)

    def feed(self, data: bytes) -> bytes:
        """Read on; returns what comes after the head or the body that ended in `data`. Raises ProxyError."""
        if self.body is None:
            return self._feed_head(data)
        if self.body.length is not None:
            rest = self._feed_sized(self.body, self.body.length, data)
        else:
            rest = self._feed_chunked(self.body, data)
        self._check_size(self.body)
        if self._message_complete:
            self.body.complete = True
            self.body = None
        return rest

    # --- heads ---

    def _feed_head(self, data: bytes) -> bytes:
        self._pristine = False
        known = len(self._head)
        if not known and (self._half_line or data[0] in b"\r\n") and not (data := self._skip_lines(data)):
            return b""
        if known:
            self._head += data
        head = self._head if known else data
        end = head.find(b"\r\n\r\n", max(0, known - 3)) + 4
        if end == 3:
            self._head = self._head or bytearray(data)
            self._parse_part(self._head)
            return b""
        if end > self._limits.max_head:
            self._parse_part(head[: self._limits.max_head + 1])
        raw = bytes(head[:end])
        self._parse(raw[self._parsed :], raw)
        if known:
            self._head = bytearray()
        self.request = self._read_request(raw)
        if not known:
            self._remember(raw, self.request)
        if self.body is not None:
            self._check_size(self.body)
        return data[end - known :]

    def _skip_lines(self, data: bytes) -> bytes:
        """Empty lines before a request line are ignored (RFC 9112 section 2.2)."""
        if self._half_line:
            data = b"\r" + data
        while data.startswith(b"\r\n"):
            data = data[2:]
        self._half_line = data == b"\r"
        if self._half_line:
            return b""
        if data[:1] in (b"\r", b"\n"):
            raise MalformedRequest("There is a lone CR or LF before the request line.")
        return data

    def again(self, data: bytes) -> Request | None:
        """The request in `data`, if nothing but its line is new: most callers send the same fields, byte for
        byte, each time, and llhttp has read them already. The line has to be as plain as they come."""
        if self._before is None or self.request is not None or self._head or self._half_line:
            return None
        raw, fields, noted, memo = self._before
        if not data.endswith(raw) or len(data) > self._limits.max_head:
            return None
        found = _PLAIN_LINE.fullmatch(data, 0, len(data) - len(raw))
        if found is None:
            return None
        method, target = found.groups()
        self.request = Request(method, None, target, True, fields, noted, None, memo)
        self.keep_alive = True
        return self.request

    def _remember(self, raw: bytes, request: Request) -> None:
        """Keep what `again` may use: not where a field says something of this message alone."""
        self._before = None
        if request.http11 and self.keep_alive and _OF_ONE_MESSAGE.isdisjoint(request.noted):
            request.memo = Memo()
            self._before = (raw[raw.index(b"\r\n") + 2 :], request.fields, request.noted, request.memo)

    def _parse_part(self, head: bytes | bytearray) -> None:
        """Look at a head whose end is not here yet: what is wrong already is refused already."""
        if not self._parsed and len(head) <= _LONGEST_METHOD and _TOKEN.issuperset(head):
            return  # half a method is not an unknown method
        part = bytes(head[self._parsed : self._limits.max_head])
        self._parsed += len(part)
        self._parse(part, head)
        if self._head_complete or self._message_complete:  # by a line end that is none of HTTP/1.1's
            raise _bad_request_line()
        if len(head) > self._limits.max_head:
            if len(self._target) < self._limits.max_head // 2:
                raise HeadTooLarge("The request head is larger than max_head.")
            raise TargetTooLong("The request target is longer than max_head allows.")

    def _parse(self, data: bytes, head: bytes | bytearray = b"") -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._message_complete = True  # `_read_request` sees to it
        except httptools.HttpParserInvalidMethodError:
            raise _unknown_method(head) from None
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            if self._head_complete and self.request is None:  # it ended earlier than any head of HTTP/1.1
                raise _bad_request_line() from None
            hint = " What is no ASCII in a target has to be percent-encoded." if "url" in str(error) else ""
            raise MalformedRequest(f"The request is not well-formed HTTP/1.1: {error}.{hint}") from None

    def _read_request(self, raw: bytes) -> Request:
        method: bytes = self._parser.get_method()
        # llhttp takes several spaces, a missing version, RTSP and HTTP/2.0 in its stride.
        line = b"%b %b" % (method, self._target)
        http11 = _VERSIONS.get(raw[len(line) : len(line) + 11]) if raw.startswith(line) else None
        if http11 is None or not self._head_complete:
            raise _bad_request_line()
        if b" \r\n" in raw or b"\t\r\n" in raw:  # RFC 9112 section 5.1; llhttp leaves these in
            self._headers = [(name, value.rstrip(b" \t")) for name, value in self._headers]
        fields, noted = note_request(self._headers)
        if b"," in noted.get(b"host", b","):
            # RFC 9112 section 3.2. Of HTTP/1.0 too: what the guard cannot judge must not pass.
            raise MalformedRequest("The request has no Host field, or more than one.")
        authority, target = None, self._target
        if method == b"CONNECT":  # its target is an authority; the guard refuses it
            self.keep_alive = False
        else:
            authority, target = split_target(method, target)
            if b"upgrade" in noted:
                self._parse_again(raw[: len(line) + 11])
        self.body = self._read_framing(noted, http11)
        if b"expect" in noted:
            self.expects_continue = http11 and noted[b"expect"].lower() == b"100-continue"
        return Request(method, authority, target, http11, fields, noted, self.body)

    def _parse_again(self, request_line: bytes) -> None:
        """After `Upgrade: h2c` (Java's HttpClient sends it) llhttp takes a body for another protocol's bytes.

        We never upgrade, so the head is read once more without the field, and the body follows as it should.
        """
        lines = section(without(self._headers, _UPGRADE))
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._headers = b"", []
        self._head_complete = self._message_complete = False
        self._parse(b"%b%b\r\n" % (request_line, lines))

    def _read_framing(self, noted: dict[bytes, bytes], http11: bool) -> RequestBody | None:
        coding = noted.get(b"transfer-encoding")
        if coding is not None:
            if not http11:
                # RFC 9112 section 6.1: its framing must be taken for faulty.
                raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                raise MalformedRequest("The only transfer coding that is served is chunked.")
            return RequestBody(None, self._want_body)
        length = noted.get(b"content-length")
        if length is None:
            return None
        if len(length) > _LONGEST_LENGTH:
            raise MalformedRequest("The Content-Length has too many digits.")
        return RequestBody(int(length), self._want_body) if int(length) else None

    # --- bodies ---

    def _check_size(self, body: RequestBody) -> None:
        most = self._limits.max_body
        if most and (body.received > most or (body.length or 0) > most):
            raise BodyTooLarge("The request body is larger than max_body.")

    def _feed_sized(self, body: RequestBody, length: int, data: bytes) -> bytes:
        left = length - body.received
        self._parse(data[:left])
        return data[left:]

    def _feed_chunked(self, body: RequestBody, data: bytes) -> bytes:
        """llhttp does not say where in `data` a message ended. A chunked one ends with an empty line, so
        what is fed ends at each empty line, and the end of the message falls on the end of something fed."""
        before = body.received
        known = len(self._tail)
        seen = self._tail + data
        start = search = 0
        while (at := seen.find(b"\r\n\r\n", search)) >= 0:
            stop = at + 4 - known
            self._parse(data[start:stop])
            if self._message_complete:
                return data[stop:]
            start, search = stop, at + 2
        self._parse(data[start:])
        self._tail = seen[-3:]
        self._check_overhead(len(data), body.received, body.received - before)
        return b""

    def _check_overhead(self, size: int, received: int, grown: int) -> None:
        """Bound what is no content: chunk extensions, and trailers, which are kept until the body is over."""
        self._overhead += size - grown
        self._barren = 0 if grown else self._barren + size
        if self._overhead > self._limits.max_head + 8 * received or self._barren > self._limits.max_head:
            raise MalformedRequest("Chunk extensions and trailers are larger than max_head.")

    # --- what llhttp found ---

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            assert self.body is not None
            self.body.trailers.append((name, value.rstrip(b" \t")))
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_complete = True
        self.keep_alive = self._parser.should_keep_alive()  # at the end of the message llhttp forgets it

    def on_body(self, data: bytes) -> None:
        assert self.body is not None
        self.body.feed(data)

    def on_message_complete(self) -> None:
        self._message_complete = True


def _bad_request_line() -> ProxyError:
    return MalformedRequest("The request line is not `method SP target SP HTTP/1.1` (or HTTP/1.0).")


def _unknown_method(head: bytes | bytearray) -> ProxyError:
    # RFC 9110 section 5.6.2 says what a method may look like.
    method, space, _ = head[: _LONGEST_METHOD + 1].partition(b" ")
    if method and space and _TOKEN.issuperset(method):
        return MethodUnknown("The request's method is not known to this proxy.")
    return MalformedRequest("The request does not begin with an HTTP method.")
