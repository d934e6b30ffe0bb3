"""A caller's connection: bytes become requests, one at a time; answers become bytes.

llhttp reads the grammar, strictly. This module keeps what llhttp leaves to its user: sizes, time, the start line's
single spaces and version, Host, framing of HTTP/1.0, and where one message ends and the next begins.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import httptools

from proxy.forward.deadlines import Deadlines
from proxy.forward.request import HIGH_WATER, Request, RequestBody
from proxy.rules.errors import (
    BodyTooLarge,
    CallerTooSlow,
    HeadTooLarge,
    MalformedRequest,
    MethodUnknown,
    ProxyError,
    TargetTooLong,
    TooManyCallers,
)
from proxy.rules.guard import split_target
from proxy.rules.headers import Fields, note_request

_AHEAD = 64 * 1024  # bytes of pipelined requests that wait, unread, for their turn
_LINGER = 2.0  # seconds; see CallerConnection.end
_LINGER_BYTES = 1 << 20
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchanges(Protocol):
    """What serves the requests that a connection reads."""

    def serve(self, request: Request, caller: "CallerConnection") -> Coroutine[Any, Any, None]:
        """Answer one request through `caller.write`; never raises ProxyError."""

    def refuse(self, error: ProxyError, caller: "CallerConnection", request: Request | None) -> None:
        """Answer what could not even be read as a request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes; `max_body` 0 means no limit."""

    max_head: int
    max_body: int


class Callers:
    """All callers' connections and what they share: limits, timeouts (seconds), and who serves their requests."""

    def __init__(
        self, exchanges: Exchanges, limits: Limits, *, head: float, keepalive: float, idle: float, most: int
    ):
        self.exchanges = exchanges
        self.limits = limits
        self.most = most
        self.head: Deadlines[CallerConnection] = Deadlines(head, CallerConnection.head_timed_out)
        self.idle: Deadlines[CallerConnection] = Deadlines(keepalive, CallerConnection.close)
        self.stalled: Deadlines[CallerConnection] = Deadlines(idle, CallerConnection.stalled)
        self.flush: Deadlines[CallerConnection] = Deadlines(idle, CallerConnection.give_up)
        self.linger: Deadlines[CallerConnection] = Deadlines(_LINGER, CallerConnection.close)
        self.open: set[CallerConnection] = set()
        self.draining = False
        self._none_left: asyncio.Future[None] | None = None

    def connection(self, *, tcp: bool) -> "CallerConnection":
        """The protocol of a new connection; `tcp`: the Host guard applies."""
        return CallerConnection(self, tcp=tcp)

    def drain(self) -> None:
        """Take no new request; close each connection when its answer is out."""
        self.draining = True
        for connection in list(self.open):
            connection.drain()

    async def gone(self) -> None:
        """Return when no connection is left."""
        if self.open:
            self._none_left = asyncio.get_running_loop().create_future()
            await self._none_left

    def closed(self, connection: "CallerConnection") -> None:
        self.open.discard(connection)
        if not self.open and self._none_left is not None and not self._none_left.done():
            self._none_left.set_result(None)

    def abort(self) -> None:
        """Break all of them off."""
        for connection in list(self.open):
            connection.abort()
        for deadlines in (self.head, self.idle, self.stalled, self.flush, self.linger):
            deadlines.close()


class CallerConnection(asyncio.Protocol):
    """One local connection. Its requests are served one after the other, in their order."""

    def __init__(self, callers: Callers, *, tcp: bool):
        self._callers = callers
        self.tcp = tcp
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._partial = b""  # of a head that is not complete yet
        self._ahead = b""  # of requests after the one that is served
        self._request: Request | None = None
        self._body: RequestBody | None = None  # of that request, as long as it is not complete
        self._task: asyncio.Task[None] | None = None
        self._keep_alive = False
        self._continue = False  # the caller waits for 100 Continue
        self._reading = True
        self._write_waiter: asyncio.Future[None] | None = None
        self.congested = False  # the caller does not take more bytes: await `writable`
        self._lingering = -1  # bytes that came while lingering
        self._ended = False  # the caller closed its sending side
        self.closed = False
        self._begin_message()

    def _begin_message(self) -> None:
        self._target = b""
        self._headers: Fields = []
        self._head_complete = False
        self._message_complete = False
        self._tail = b""
        self._overhead = 0

    # --- what the exchange says ---

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after the answer that is about to be written."""
        return self._keep_alive and self._body is None and not self._callers.draining

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._transport.write(data)

    async def writable(self) -> None:
        """Return when the caller takes more bytes, or is gone."""
        if self.congested and not self.closed:
            self._write_waiter = self._loop.create_future()
            self._callers.stalled.start(self)
            try:
                await self._write_waiter
            finally:
                self._write_waiter = None
                self._callers.stalled.stop(self)

    def end(self, *, keep_alive: bool) -> None:
        """The answer is written: wait for the next request, or close.

        While the caller still sends, a close would reset the connection and could destroy the answer on its way:
        then the rest is read and dropped for a moment first (RFC 9112 section 9.6).
        """
        self._request = None
        if self.closed:
            return
        if keep_alive:
            self._begin_message()
            self._callers.idle.start(self)
            self._resume()
            if self._ahead:
                self._loop.call_soon(self._go_on)
        elif self._body is None and not self._ahead:
            self.close()
        else:
            self._linger()

    def _go_on(self) -> None:
        ahead, self._ahead = self._ahead, b""
        self._consume(ahead)

    def _linger(self) -> None:
        self._partial = self._ahead = b""
        self._body = None
        self._lingering = 0
        if self._ended:
            self.close()
            return
        self._resume()
        self._callers.linger.start(self)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close after what was written is out."""
        if not self.closed:
            if self._transport.get_write_buffer_size():
                self._callers.flush.start(self)
            self._transport.close()
            self._closed()

    def give_up(self) -> None:
        """The caller has not read the end of its answer for idle_timeout."""
        self._transport.abort()

    def abort(self) -> None:
        """Break off so that no caller takes what it got for a whole answer.

        A plain close sends FIN, which ends a close-delimited body; without lingering (SO_LINGER 0) it is a reset.
        """
        if self.closed:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        self._closed()

    def drain(self) -> None:
        """Close if no request is under way."""
        if self._task is None and self._lingering < 0 and not self._partial:
            self.close()

    # --- time ---

    def head_timed_out(self) -> None:
        if self._partial:
            self._refuse(CallerTooSlow("The request head did not arrive within client_timeout."))
        else:
            self.close()

    def stalled(self) -> None:
        if self._write_waiter is not None:
            self.abort()
        elif self._body is not None:
            self._body.fail(CallerTooSlow("The request body stood still for idle_timeout."))

    # --- bytes ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        callers = self._callers
        if len(callers.open) >= callers.most:
            self._refuse(TooManyCallers("As many local connections are open as max_clients allows."))
        else:
            callers.open.add(self)
            callers.head.start(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering >= 0:
            self._lingering += len(data)
            if self._lingering > _LINGER_BYTES:
                self.close()
            return
        self._consume(data)

    def _consume(self, data: bytes) -> None:
        try:
            while data and not self.closed:
                if self._body is not None:
                    data = self._feed_body(self._body, data)
                elif self._request is None:
                    data = self._feed_head(data)
                else:
                    self._ahead += data
                    if len(self._ahead) > _AHEAD:
                        self._pause()
                    break
        except ProxyError as error:
            self._refuse(error)
            return
        if self._request is not None and self._task is None and not self.closed:
            self._serve(self._request)

    def _serve(self, request: Request) -> None:
        task = _start(self._run(request), self._loop)
        if not task.done():
            self._task = task

    async def _run(self, request: Request) -> None:
        await self._callers.exchanges.serve(request, self)
        self._task = None

    def _refuse(self, error: ProxyError) -> None:
        """The bytes are at fault: an error for the body that is being read, or an answer at once; then close."""
        self._keep_alive = False
        if self._request is not None and self._task is not None:
            assert self._body is not None
            self._body.fail(error)
            return
        self._callers.head.stop(self)
        self._callers.exchanges.refuse(error, self, self._request)
        if not self.closed:
            self._request = None
            self._linger()

    # --- heads ---

    def _feed_head(self, data: bytes) -> bytes:
        """Read a head, or a part of one; returns what comes after it."""
        known = len(self._partial)
        if not known:
            # RFC 9112 section 2.2: empty lines before a request line are ignored.
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")
                if not data:
                    return b""
            self._callers.idle.stop(self)
            head = data
        else:
            head = self._partial + data
        end = head.find(b"\r\n\r\n", max(0, known - 3)) + 4
        if end == 3:
            if not known:
                self._callers.head.start(self)
            self._partial = head
            self._parse(data)
            if len(head) > self._callers.limits.max_head:
                raise self._too_large()
            return b""
        self._partial = b""
        self._callers.head.stop(self)
        if end > self._callers.limits.max_head:
            self._parse(data[: end - known])
            raise self._too_large()
        raw = head[:end]
        self._parse(raw[known:])
        self._request = self._read_request(raw)
        return head[end:]

    def _too_large(self) -> ProxyError:
        if self._headers or len(self._target) < self._callers.limits.max_head // 2:
            return HeadTooLarge("The request head is larger than max_head.")
        return TargetTooLong("The request target is longer than max_head allows.")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._message_complete = True  # `_read_request` sees to it
        except httptools.HttpParserInvalidMethodError:
            raise _unknown_method(self._partial or data) from None
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"The request is not well-formed HTTP/1.1: {error}.") from None

    def _read_request(self, raw: bytes) -> Request:
        parser = self._parser
        version = parser.get_http_version()
        method: bytes = parser.get_method()
        # llhttp takes several spaces, a missing version, RTSP and HTTP/2.0 in its stride.
        if not self._head_complete or not raw.startswith(
            b"%b %b HTTP/%b\r\n" % (method, self._target, version.encode())
        ):
            raise MalformedRequest("The request line is not `method SP target SP HTTP-version`.")
        if version not in ("1.1", "1.0"):
            raise MalformedRequest("The HTTP version is neither 1.1 nor 1.0.")
        http11 = version == "1.1"
        lines, noted = note_request(self._headers)
        if b"upgrade" in noted and method != b"CONNECT":
            self._parse_again(method, version, raw)
        authority, target = (
            (None, self._target) if method == b"CONNECT" else split_target(method, self._target)
        )
        body = self._read_framing(noted, http11)
        self._keep_alive = method != b"CONNECT" and self._parser.should_keep_alive()
        self._continue = http11 and noted.get(b"expect", b"").lower() == b"100-continue"
        self._body = body
        return Request(method, authority, target, http11, lines, noted, body)

    def _parse_again(self, method: bytes, version: str, raw: bytes) -> None:
        """After `Upgrade: h2c` (Java's HttpClient sends it) llhttp takes a body for another protocol's bytes.

        We never upgrade, so the head is read once more without the field, and the body follows as it should.
        """
        self._parser = httptools.HttpRequestParser(self)
        headers = [(name, value) for name, value in self._headers if name.lower() != b"upgrade"]
        head = b"%b %b HTTP/%b\r\n" % (method, self._target, version.encode())
        head += b"".join(b"%b: %b\r\n" % field for field in headers)
        self._begin_message()
        self._parse(head + b"\r\n")

    def _read_framing(self, noted: dict[bytes, bytes], http11: bool) -> RequestBody | None:
        coding = noted.get(b"transfer-encoding")
        if coding is not None:
            if not http11:
                # RFC 9112 section 6.1: its framing must be taken for faulty.
                raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
            if coding.lower() != b"chunked":
                raise MalformedRequest("The only transfer coding that is served is chunked.")
            return RequestBody(None, self._want_body)
        length = int(noted.get(b"content-length", b"0"))
        if self._callers.limits.max_body and length > self._callers.limits.max_body:
            raise BodyTooLarge("The request body is larger than max_body.")
        return RequestBody(length, self._want_body) if length else None

    def on_message_begin(self) -> None:
        pass

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_complete:
            assert self._body is not None
            self._body.trailers.append((name, value))
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_complete = True

    def on_message_complete(self) -> None:
        self._message_complete = True

    # --- bodies ---

    def _feed_body(self, body: RequestBody, data: bytes) -> bytes:
        """Read a part of a body; returns what comes after it."""
        rest = self._feed_sized(body, data) if body.length is not None else self._feed_chunked(body, data)
        if self._callers.limits.max_body and body.received > self._callers.limits.max_body:
            raise BodyTooLarge("The request body is larger than max_body.")
        if self._message_complete:
            body.complete = True
            self._body = None
        elif body.buffered > HIGH_WATER:
            self._pause()
        self._callers.stalled.stop(self)
        body.wake()
        return rest

    def _feed_sized(self, body: RequestBody, data: bytes) -> bytes:
        assert body.length is not None
        left = body.length - body.received
        self._parse(data[:left])
        return data[left:]

    def _feed_chunked(self, body: RequestBody, data: bytes) -> bytes:
        """llhttp does not say where in `data` a message ended. A chunked one always ends with an empty line, so
        what is fed ends at each empty line, and the end of the message falls on the end of something fed."""
        known = len(self._tail)
        seen = self._tail + data
        start = search = 0
        before = body.received
        while True:
            at = seen.find(b"\r\n\r\n", search)
            stop = len(data) if at < 0 else at + 4 - known
            self._parse(data[start:stop])
            if self._message_complete:
                return data[stop:]
            if at < 0:
                break
            start, search = stop, at + 2
        self._tail = seen[-3:]
        self._overhead += len(data) - (body.received - before)
        if self._overhead > self._callers.limits.max_head + 8 * body.received:
            raise MalformedRequest("Chunk extensions and trailers are larger than max_head.")
        return b""

    def on_body(self, data: bytes) -> None:
        assert self._body is not None
        self._body.feed(data)

    def _want_body(self) -> None:
        """The exchange waits for more of the body."""
        if self._continue:
            self._continue = False
            self.write(_CONTINUE)
        self._callers.stalled.start(self)
        self._resume()

    # --- flow, and the end ---

    def _pause(self) -> None:
        if self._reading and not self.closed:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._wake()

    def _wake(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    def eof_received(self) -> bool:
        self._ended = True
        if self._lingering >= 0:
            self.close()
        elif self._task is not None:
            # A caller that closes and one that only closes its sending side look the same from here; like other
            # servers, we take the request for abandoned.
            self.abort()
        elif self._partial:
            self._refuse(MalformedRequest("The connection ended in the middle of the request head."))
        else:
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._callers.flush.stop(self)
        self._closed()

    def _closed(self) -> None:
        if self.closed:
            return
        self.closed = True
        callers = self._callers
        for deadlines in (callers.head, callers.idle, callers.stalled, callers.linger):
            deadlines.stop(self)
        self._wake()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        callers.closed(self)


_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _unknown_method(start: bytes) -> MalformedRequest:
    # RFC 9110 section 5.6.2 says what a method may look like.
    method = start.split(b" ", 1)[0]
    if method and b" " in start and _TOKEN.issuperset(method):
        return MethodUnknown("The request's method is not known to this proxy.")
    return MalformedRequest("The request does not begin with an HTTP method.")


if sys.version_info >= (3, 12):

    def _start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        # Runs at once, up to its first wait: the request is on its way to Fumage without a turn of the loop.
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
else:

    def _start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        return loop.create_task(coroutine)
