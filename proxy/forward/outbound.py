"""A connection to Fumage: one exchange at a time, bytes in both directions."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

from proxy.forward.answer import Answer as Answer  # part of this module's face
from proxy.forward.answer import AnswerReader
from proxy.forward.deadlines import Deadlines
from proxy.forward.look import watcher
from proxy.forward.strand import Source
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

HIGH_WATER: Final = 256 * 1024  # bytes of an answer held for a caller that reads slowly; then reading stops


News = Callable[["Connection"], Awaitable[None]]  # waits for the next bytes, or for the end


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _tls_error(error: ssl.SSLError) -> FumageError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return FumageUntrusted(f"Fumage's certificate is not trusted: {error.verify_message}.")
    return FumageTLS(f"TLS with Fumage failed: {error.reason or 'unknown reason'}.")


class Outbox:
    """Requests that came whole leave together, before the loop looks for news again.

    uvloop writes what a turn has queued in no order. Where callers and Fumage's end of the wire share a core
    (an egress proxy, a mesh), each write to one of them interrupts the other. Kept apart they do not: that is
    half of the context switches, and a quarter of p99 (tests/bench/NOTES.md).
    """

    def __init__(self) -> None:
        self._waiting: list[Connection] = []

    def add(self, connection: "Connection") -> None:
        """Let its `flush` be called."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(connection)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            connection.flush()


class Connection(Source):
    """One connection to Fumage, over TCP or TLS: an asyncio.Protocol. Its news: bytes, or the end.

    `begin` and `write` send a request, `answer` waits for its head, `read` for its body; `fail` and `abort`
    end it. All waits raise the ProxyError of a connection that ends before what was waited for.
    """

    def __init__(
        self,
        waiting: "Deadlines[Connection] | None" = None,
        stalled: "Deadlines[Connection] | None" = None,
        outbox: Outbox | None = None,
    ):
        super().__init__()
        self._outbox = outbox
        self._held = b""  # what `flush` sends
        self._waiting = waiting  # for the first byte of an answer, then for its head
        self._stalled = stalled  # between two chunks
        self._reader = AnswerReader()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anybody has this object
        self._readable: Callable[[], object] = lambda: True
        self._tls: TLS | None = None
        self._tls_started: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._write_paused = False
        self._read_paused = False
        self._waits = 0
        self.answered = False  # a byte of the answer is here
        self._sent = False  # a byte of the request went out
        self._sent_all = True
        self.error: ProxyError | None = None
        self.closed = False
        self.on_close: Callable[[Connection], None] | None = None
        # The pool's notes, by its clock (s):
        self.kept_alive = False  # it carried an exchange before, or waited for one
        self.retire_at = 0.0
        self.idle_since = 0.0

    # --- the request ---

    def begin(self, data: bytes, *, head_only: bool, whole: bool) -> None:
        """Send the first bytes of a request, or (`whole`) all of it.

        `head_only`: its answer has no body, whatever its head says.
        """
        self._reader.expect(head_only=head_only)
        self.answered = self._sent = self._sent_all = False
        if self.closed and self.error is None:
            self.error = self._lost()
        if not whole or self._outbox is None:
            self.write(data)
        elif self.error is None and (data := self._sealed(data)):
            self._held = data
            self._outbox.add(self)
        if whole:
            self.sent_all()

    def write(self, data: bytes) -> None:
        """Send bytes of the request; dropped when the connection has ended, which `answer` tells."""
        if data and not self.closed and self.error is None and (data := self._sealed(data)):
            self._sent = True
            self._put(data)

    def flush(self) -> None:
        """Send what `begin` left to the outbox."""
        data, self._held = self._held, b""
        if data and not self.closed:
            self._sent = True
            self._transport.write(data)

    def _sealed(self, data: bytes) -> bytes:
        """The bytes as they go on the wire; none if TLS failed."""
        if self._tls is None:
            return data
        try:
            return self._tls.send(data)
        except ssl.SSLError as error:  # the server is in the middle of a renegotiation (TLS 1.2)
            self.fail(_tls_error(error))
            return b""

    def _put(self, data: bytes) -> None:
        self.flush()
        self._transport.write(data)

    async def writable(self) -> None:
        """Return when the peer takes more bytes; raises ProxyError."""
        if self._write_paused and not self.closed:
            self._wait_for_peer(1)
            self._write_waiter = asyncio.get_running_loop().create_future()
            try:
                await self._write_waiter
            finally:
                self._write_waiter = None
                self._wait_for_peer(-1)
        if self.error is not None:
            raise self.error

    def sent_all(self) -> None:
        """The whole request is out: from now on counts the time to the first byte of the answer."""
        self._sent_all = True
        if self._waiting is not None and self._reader.final is None and not self.closed:
            self._waiting.start(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        _wake(self._write_waiter)

    # --- the answer ---

    def answer(self) -> Answer | None:
        """The next head: interim answers (1xx) as they come, then the final one. Raises ProxyError.

        None: it is not here yet, wait for news.
        """
        if self._reader.answers:
            return self._reader.answers.pop(0)
        if self.error is not None:
            raise self.error
        return None

    async def read(self, news: News) -> bytes:
        """The next bytes of the body, empty at its end. Raises ProxyError when it breaks off."""
        while not self._reader.has_body:
            if self._reader.complete:
                return b""
            if self.error is not None:
                raise self.error
            self._wait_for_peer(1)
            try:
                await news(self)
            finally:
                self._wait_for_peer(-1)
        return self.take()

    def _wait_for_peer(self, more: int) -> None:
        """One more waits for the peer, or one less: who sends the body may, and who reads the answer. What
        one of them gets gives the other its whole time again."""
        self._waits += more
        if self._stalled is not None:
            if self._waits and not self.closed:
                self._stalled.start(self)
            else:
                self._stalled.stop(self)

    def take(self) -> bytes:
        """The bytes of the body that are here already, maybe none; does not wait."""
        data = self._reader.take()
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        return data

    @property
    def complete(self) -> bool:
        """The whole answer is here, or nothing has been asked yet."""
        return self._reader.complete

    @property
    def reusable(self) -> bool:
        """Whether another request may go out here once this answer has been read."""
        return self._reader.complete and self._reader.keep_alive and self._sent_all and not self.closed

    # --- the wire ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        if self._outbox is not None:
            self._transport.set_write_buffer_limits(high=0)  # or a flush would only queue
        self._readable = watcher(self._transport.get_extra_info("socket").fileno())

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Shake hands; twice through a tunnel. Raises FumageUntrusted, FumageTLS or FumageConnectionLost."""
        self._reader = AnswerReader()
        self._sent, self.answered, self._sent_all = False, False, True  # CONNECT was no request to Fumage
        if not self.closed:
            tls = self._tls = TLS(context, host, self._tls)
            self._put(tls.start())
            if tls.error is not None:
                raise _tls_error(tls.error)
            self._tls_started = asyncio.get_running_loop().create_future()
            try:
                await self._tls_started
            finally:
                self._tls_started = None
        if self.closed:
            raise self.error or self._lost()

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            self._parse(data)
            self.tell()
            return
        data = tls.receive(data)
        if out := tls.pending():
            self._put(out)
        if self._tls_started is not None and tls.ready:
            _wake(self._tls_started)
        if data:
            self._parse(data)
        if tls.error is not None:
            self.fail(_tls_error(tls.error))
        elif tls.ended:
            self._ended(clean=tls.closed_by_peer)
        self.tell()

    def _parse(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        if reader.complete:
            # Idle, or the answer is over: nothing may come. (408 before a close is what servers send here.)
            self.abort()
            return
        first, self.answered = not self.answered, True
        try:
            reader.feed(data)
        except FumageNotHTTP as error:
            self.fail(error)
            return
        if waiting is not None:
            if reader.final is not None:
                waiting.stop(self)
            elif first and self._sent_all:
                waiting.start(self)  # the head has to come as a whole, however slowly
        if reader.buffered > HIGH_WATER and not reader.complete and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # Without close_notify the end of a TLS connection may be anybody's work (RFC 9112 section 9.8).
        self._ended(clean=self._tls is None)
        return False

    def _ended(self, *, clean: bool) -> None:
        if clean:
            self._reader.end()
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._sent_all and not self.closed:
            self._hear_last_words()
        self._closed()

    def _hear_last_words(self) -> None:
        """A server may refuse a body that it does not want to read, and reset the connection: then a write
        fails while the answer lies in the kernel, unread."""
        try:
            with self._transport.get_extra_info("socket").dup() as sock:
                while not self._reader.complete and not self.closed and (data := sock.recv(HIGH_WATER)):
                    self.data_received(data)
        except OSError:
            pass  # the reset itself; or no descriptor is left

    def _lost(self) -> FumageConnectionLost:
        what = "in the middle of its answer" if self.answered else "before it answered"
        return FumageConnectionLost(f"Fumage closed the connection {what}.", sent=self._sent)

    # --- the end ---

    def gone(self) -> bool:
        """Whether the peer has closed an idle connection, or sent what nobody asked for; not seen yet."""
        return self.closed or bool(self._readable())

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

    def close(self) -> None:
        """Close a connection on which nothing is under way, with close_notify where there is TLS."""
        if self.closed:
            return
        if self._tls is not None and (out := self._tls.close()):
            self._put(out)
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # or the socket stays open for as long as the peer does not read
        else:
            self._transport.close()
        self._closed()

    def _closed(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.error is None and not self._reader.complete:
            self.error = self._lost()
        for deadlines in (self._waiting, self._stalled):
            if deadlines is not None:
                deadlines.stop(self)
        _wake(self._tls_started)
        if self.listener is not None:
            asyncio.get_running_loop().call_soon(self.tell)
        _wake(self._write_waiter)
        if self.on_close is not None:
            self.on_close(self)
