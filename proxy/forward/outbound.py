"""A connection to Fumage: one exchange at a time, bytes in both directions."""

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import httptools

from proxy.forward.tls import TLS
from proxy.rules.errors import (
    FumageConnectionLost,
    FumageError,
    FumageNotHTTP,
    FumageResponseTimeout,
    FumageTLS,
    FumageUntrusted,
    ProxyError,
)
from proxy.rules.headers import Fields

if TYPE_CHECKING:
    from proxy.forward.deadlines import Deadlines

HIGH_WATER = 256 * 1024  # bytes of an answer held for a caller that reads slowly; then reading stops
MAX_HEAD = 256 * 1024  # bytes of an answer's head, interim answers and trailers included


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _not_http() -> FumageNotHTTP:
    return FumageNotHTTP("What Fumage sent is not HTTP/1.1.")


def _tls_error(error: ssl.SSLError) -> FumageError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FumageUntrusted(f"Fumage's certificate is not trusted: {error.verify_message}.")
    return FumageTLS(f"TLS with Fumage failed: {error.reason or 'unknown reason'}.")


if hasattr(select, "poll"):

    def _readable(descriptor: int) -> bool:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
else:  # Windows, whose select() knows no limit of 1024

    def _readable(descriptor: int) -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])


class Answer:
    """The head of an answer; its body is read from the connection."""

    __slots__ = ("framing", "headers", "reason", "status", "trailers")

    def __init__(self, status: int, reason: bytes, headers: Fields, framing: str):
        self.status = status
        self.reason = reason
        self.headers = headers
        self.framing = framing  # "length", "chunked", "close" (ends with the connection), "none"
        self.trailers: Fields = []


class Connection(asyncio.Protocol):
    """One connection to Fumage, over TCP or TLS.

    `begin` and `write` send a request, `answer` waits for its head, `read` for its body; `fail` and `abort` end it.
    All waits raise FumageError when the connection ends before what was waited for.
    """

    def __init__(
        self, waiting: "Deadlines[Connection] | None" = None, stalled: "Deadlines[Connection] | None" = None
    ):
        self._waiting = waiting  # for the first byte of an answer
        self._stalled = stalled  # between two chunks
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anybody has this object
        self._tls: TLS | None = None
        self._tls_started: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self.error: ProxyError | None = None
        self.closed = False
        self.on_close: Callable[[Connection], None] | None = None
        # The pool's notes, by its clock (s):
        self.kept_alive = False  # it carried an exchange before, or waited for one
        self.retire_at = 0.0
        self.idle_since = 0.0
        self.ready()

    def ready(self) -> None:
        """Nothing has been asked yet: the next `begin` is the first."""
        self._reset(head_only=False)
        self.complete = self._sent_all = self._keep_alive = True

    def _reset(self, *, head_only: bool) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_only = head_only
        self._headers: Fields = []
        self._reason = b""
        self._head_bytes = 0
        self._answers: list[Answer] = []
        self._final: Answer | None = None
        self._body: list[bytes] = []
        self._buffered = 0
        self._keep_alive = False
        self._chunked = False
        self._length: bytes | None = None
        self.complete = False  # the whole answer is here
        self.answered = False  # a byte of the answer is here
        self.sent = False  # a byte of the request went out
        self._sent_all = False

    # --- the request ---

    def begin(self, data: bytes, *, head_only: bool) -> None:
        """Send the first bytes of a request. `head_only`: its answer has no body, whatever its head says (HEAD)."""
        self._reset(head_only=head_only)
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes of the request; dropped when the connection has ended, which `answer` tells."""
        if self.closed or self.error is not None:
            return
        self.sent = True
        self._transport.write(data if self._tls is None else self._tls.send(data))

    async def writable(self) -> None:
        """Return when the peer takes more bytes; raises FumageError."""
        if self._write_paused and not self.closed:
            if self._stalled is not None:
                self._stalled.start(self)
            self._write_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._write_waiter
            finally:
                self._write_waiter = None
                if self._stalled is not None:
                    self._stalled.stop(self)
        if self.error is not None:
            raise self.error

    def sent_all(self) -> None:
        """The whole request is out: from now on counts the time to the first byte of the answer."""
        self._sent_all = True
        if self._waiting is not None and not self.answered:
            self._waiting.start(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _wake(self._write_waiter)

    # --- the answer ---

    async def answer(self) -> Answer:
        """The next head: interim answers (1xx) as they come, then the final one. Raises FumageError."""
        while not self._answers:
            if self.error is not None:
                raise self.error
            await self._wait()
        return self._answers.pop(0)

    async def read(self) -> bytes:
        """The next bytes of the body, empty at its end. Raises FumageError when it breaks off."""
        while not self._body:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            if self._stalled is not None:
                self._stalled.start(self)
            try:
                await self._wait()
            finally:
                if self._stalled is not None:
                    self._stalled.stop(self)
        return self.take()

    def take(self) -> bytes:
        """The bytes of the body that are here already, maybe none; does not wait."""
        body = self._body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        self._buffered = 0
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        return data

    @property
    def reusable(self) -> bool:
        """Whether another request may go out here once this answer has been read."""
        return (
            self.complete and self._sent_all and self._keep_alive and self.error is None and not self.closed
        )

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # --- what llhttp found ---

    def on_message_begin(self) -> None:
        if self._final is not None:
            raise FumageNotHTTP("Fumage sent an answer that was not asked for.")
        self._headers = []
        self._reason = b""
        self._length = None
        self._chunked = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._final is not None:
            self._final.trailers.append((name, value))
            return
        self._headers.append((name, value))
        if len(name) == 14 and name.lower() == b"content-length":
            self._length = value
        elif len(name) == 17 and name.lower() == b"transfer-encoding":
            if value.lower() != b"chunked":
                # Other codings were not asked for (TE is ours to send, RFC 9110 section 10.1.4).
                raise FumageNotHTTP("Fumage used a transfer coding other than chunked.")
            self._chunked = True

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if parser.get_http_version() not in ("1.1", "1.0") or not 100 <= status <= 999 or status == 101:
            raise FumageNotHTTP(
                "The answer's status line is not one of HTTP/1.1, or switches protocols unasked."
            )
        answer = Answer(status, self._reason, self._headers, self._framing(status))
        self._answers.append(answer)
        if status >= 200:
            self._final = answer
            self._keep_alive = answer.framing != "close" and parser.should_keep_alive()
            if self._head_only:
                self.complete = True
                # llhttp cannot be told that this answer has no body: whatever follows is not ours to read.
                self._keep_alive = self._keep_alive_of_head()

    def _framing(self, status: int) -> str:
        if self._head_only or status < 200 or status in (204, 304):
            return "none"
        if self._chunked:
            return "chunked"
        return "close" if self._length is None else "length"

    def _keep_alive_of_head(self) -> bool:
        # `should_keep_alive` says no where the body would have ended with the connection. Here there is none.
        options = [value.lower() for name, value in self._headers if name.lower() == b"connection"]
        if self._parser.get_http_version() == "1.0":
            return any(b"keep-alive" in value for value in options)
        return not any(b"close" in value for value in options)

    def on_body(self, data: bytes) -> None:
        if self._head_only:
            self._keep_alive = False
            return
        self._body.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        if self._final is not None:
            self.complete = True

    # --- the wire ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Shake hands. Raises FumageUntrusted, FumageTLS or FumageConnectionLost."""
        self._tls = TLS(context, host, self._tls)
        self._tls_started = asyncio.get_running_loop().create_future()
        self._transport.write(self._tls.start())
        try:
            await self._tls_started
        finally:
            self._tls_started = None

    def data_received(self, data: bytes) -> None:
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except ssl.SSLError as error:
                self._send_pending()
                self.fail(_tls_error(error))
                return
            self._send_pending()
            if self._tls_started is not None and self._tls.ready:
                _wake(self._tls_started)
            if self._tls.closed_by_peer:
                self._parse(data)
                self._ended(clean=True)
                return
        self._parse(data)

    def _send_pending(self) -> None:
        assert self._tls is not None
        if out := self._tls.pending():
            self._transport.write(out)

    def _parse(self, data: bytes) -> None:
        if not data:
            return
        if self.complete:
            # Idle, or the answer is over: nothing may come. (408 before a close is what servers send here.)
            self.abort()
            return
        if not self.answered:
            self.answered = True
            if self._waiting is not None and self._final is None:
                self._waiting.start(self)  # the head has to come as a whole, however slowly
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self.fail(cause if isinstance(cause, FumageError) else _not_http())
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not (self._head_only and self.complete):
                self.fail(_not_http())
                return
            self._keep_alive = False
        if self._final is not None:
            if self._waiting is not None:
                self._waiting.stop(self)
        else:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.fail(FumageNotHTTP("The head of Fumage's answer is too large."))
                return
        if self._buffered > HIGH_WATER and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        _wake(self._waiter)

    def eof_received(self) -> bool:
        # Without close_notify the end of a TLS connection may be anybody's work (RFC 9112 section 9.8).
        self._ended(clean=self._tls is None)
        return False

    def _ended(self, *, clean: bool) -> None:
        if clean and self._final is not None and self._final.framing == "close":
            self.complete = True
        self._keep_alive = False
        if not self.complete:
            self.fail(self._lost())
        else:
            self._close()
        _wake(self._waiter)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.complete and self.error is None:
            self.error = self._lost()
        self._closed()

    def _lost(self) -> FumageConnectionLost:
        what = "in the middle of its answer" if self.answered else "before it answered"
        return FumageConnectionLost(f"Fumage closed the connection {what}.", sent=self.sent)

    # --- the end ---

    def gone(self) -> bool:
        """Whether the peer has closed an idle connection, or sent something unasked, that the loop has not seen yet."""
        if self.closed:
            return True
        return _readable(self._transport.get_extra_info("socket").fileno())

    def fail(self, error: ProxyError) -> None:
        """End the connection at once; whoever waits on it gets `error`."""
        if self.error is None:
            self.error = error
        self.abort()

    def timed_out(self) -> None:
        self.fail(FumageResponseTimeout("Fumage did not begin to answer within response_timeout."))

    def stalled(self) -> None:
        self.fail(FumageResponseTimeout("Fumage's side of the connection stood still for idle_timeout."))

    def abort(self) -> None:
        """Close without waiting for anything."""
        if not self.closed:
            self._transport.abort()
            self._closed()

    def _close(self) -> None:
        if not self.closed:
            if self._tls is not None and (out := self._tls.close()):
                self._transport.write(out)
            self._transport.close()
            self._closed()

    def close(self) -> None:
        """Close an idle connection, with close_notify where there is TLS."""
        self._keep_alive = False
        self._close()

    def _closed(self) -> None:
        if self.closed:
            return
        self.closed = True
        for deadlines in (self._waiting, self._stalled):
            if deadlines is not None:
                deadlines.stop(self)
        if self._tls_started is not None and not self._tls_started.done():
            self._tls_started.set_exception(self.error or self._lost())
        _wake(self._waiter)
        _wake(self._write_waiter)
        if self.on_close is not None:
            self.on_close(self)
