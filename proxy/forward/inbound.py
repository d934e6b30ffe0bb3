"""A caller's connection: bytes to the reader, requests to the exchange one at a time, answers back."""

import asyncio
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, cast

from proxy.forward.look import hung_up, readable
from proxy.forward.reader import RequestReader
from proxy.forward.request import HIGH_WATER, Request
from proxy.forward.strand import Strand
from proxy.rules.errors import CallerTooSlow, MalformedRequest, ProxyError, TooManyCallers

if TYPE_CHECKING:
    from proxy.forward.callers import Callers

_AHEAD: Final = 64 * 1024  # bytes of pipelined requests that wait for their turn
_PIECE: Final = 4 * 1024  # of them are looked at together: each time they are copied
_LINGER_AT_MOST: Final = 30.0  # seconds altogether; see CallerConnection.end
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class CallerConnection:
    """One local connection, an asyncio.Protocol. Its requests are served one after the other, in order."""

    def __init__(self, callers: "Callers", *, tcp: bool):
        self._callers = callers
        self.tcp = tcp
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(callers.limits, self._want_body)
        self._ahead = bytearray()  # of requests after the one that is served
        self._deaf = False  # what still comes is dropped
        self._linger_until = 0.0
        self._strand = Strand(self._loop)  # answers the request
        self.busy = False  # a request is being answered
        self._reading = True
        self._ended = False  # the caller closed its sending side
        self._write_waiter: asyncio.Future[None] | None = None
        self._unread = 0  # bytes that the caller had not taken when that was last looked at
        self.congested = False  # the caller does not take more bytes: await `writable`
        self.closed = False

    # --- what the exchange says ---

    @property
    def keep_alive(self) -> bool:
        """Whether the connection stays open after the answer that is about to be written."""
        reader = self._reader
        return reader.keep_alive and reader.body is None and not self._deaf and not self._callers.draining

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._transport.write(data)

    async def writable(self) -> None:
        """Return when the caller takes more bytes, or is gone; for tasks."""
        if self.congested and not self.closed:
            self._write_waiter = self._loop.create_future()
            try:
                await self._write_waiter
            finally:
                self._write_waiter = None

    def end(self, *, keep_alive: bool) -> None:
        """The answer is written: wait for the next request, or close.

        While the caller may still send, a close would reset the connection and could destroy the answer on
        its way: then the rest is read and dropped for a moment first (RFC 9112 section 9.6).
        """
        reader = self._reader
        if self.closed:
            return
        if keep_alive:
            reader.begin()
            self._callers.idle.start(self)
            if self._ahead or not self._reading:
                self._turn()
        elif self._deaf or reader.keep_alive or reader.body is not None or self._ahead:
            self._linger()
        else:  # the caller asked for it, and sends no more
            self.close()

    def _turn(self) -> None:
        """Go on, unless answers wait for the caller: unread ones must not pile up."""
        if self._ahead:
            self._loop.call_soon(self._go_on)
        elif not self.congested:
            self._resume()

    def _go_on(self) -> None:
        while self._ahead and self._takes_more():
            piece = bytes(self._ahead[:_PIECE])
            rest = self._consume(piece)
            del self._ahead[: len(piece) - len(rest)]
        if self._reader.body is None and len(self._ahead) <= _AHEAD:  # who reads the body asks for more
            self._resume()
        self._serve()

    def _linger(self) -> None:
        self._deaf = True
        self._ahead.clear()
        callers = self._callers
        callers.upload.stop(self)
        if self._ended or len(callers.linger) >= callers.most:
            self.close()
            return
        self._resume()
        self._linger_until = self._loop.time() + _LINGER_AT_MOST
        callers.linger.start(self)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def lingered(self) -> None:
        # Closing drops what the caller has not taken yet, should it send on: give it the time for that.
        if self._transport.get_write_buffer_size() and self._loop.time() < self._linger_until:
            self._callers.linger.start(self)
        else:
            self.close()

    def close(self) -> None:
        """Close after what was written is out."""
        if not self.closed:
            self._stop()
            self._transport.close()
            self._watch_unread()

    def abort(self) -> None:
        """Break off so that no caller takes what it got for a whole answer.

        A plain close sends FIN, which ends a close-delimited body; with SO_LINGER 0 it is a reset.
        """
        if self in self._callers.open:
            sock = self._transport.get_extra_info("socket")
            if sock is not None and sys.platform != "win32":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
            self._stop()

    # --- time ---

    def head_timed_out(self) -> None:
        if self._reader.partial:
            self._refuse(CallerTooSlow("The request head did not arrive within client_timeout."))
        elif not self.close_if_unused():
            self._callers.head.start(self)

    def idle_timed_out(self) -> None:
        if not self.close_if_unused():
            self._callers.idle.start(self)

    def close_if_unused(self) -> bool:
        """Close, unless a request or a part of one has come, or an answer is not out yet; whether it did."""
        # Where the loop is late, a request may wait in the kernel.
        if self._reader.partial or self._ahead or self.congested or readable(self._descriptor):
            return False
        self.close()
        return True

    def body_stalled(self) -> None:
        self._refuse(CallerTooSlow("The request body stood still for idle_timeout."))

    def answer_stalled(self) -> None:
        """Break off when the caller has not taken a byte of its answer for idle_timeout."""
        if self._transport.get_write_buffer_size() < self._unread:
            self._watch_unread()
        else:
            self.abort()

    def unheard(self) -> None:
        """See whether a caller that nobody reads is still there: its end stands behind bytes that wait.

        One that wrote more than the kernel holds has not sent its end yet, and is for the other timeouts.
        """
        if hung_up(self._descriptor):
            self.abort()
        else:
            self._callers.unheard.start(self)

    def _watch_unread(self) -> None:
        self._unread = self._transport.get_write_buffer_size()
        if self._unread:
            self._callers.unread.start(self)

    @property
    def _descriptor(self) -> int:
        return cast(int, self._transport.get_extra_info("socket").fileno())

    # --- bytes ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        full = self._callers.full
        self._callers.open.add(self)
        if full:
            self._refuse(TooManyCallers("As many local connections are open as max_clients allows."))
        else:
            self._callers.head.start(self)

    def data_received(self, data: bytes) -> None:
        waits = self._ahead or self._deaf or self.congested or self.closed
        # The usual request comes whole, and by itself.
        if not waits and (request := self._reader.again(data)) is not None:
            self._callers.idle.stop(self)
            self._begin(request)
        elif not self._deaf:
            # What waits for its turn must not be overtaken.
            if rest := data if self._ahead else self._consume(data):
                self._ahead += rest
                if len(self._ahead) > _AHEAD:
                    self._pause()
            self._serve()
        elif self in self._callers.linger:
            if self._loop.time() < self._linger_until:
                self._callers.linger.start(self)
            else:
                self.close()

    def _takes_more(self) -> bool:
        reader = self._reader
        return not self._deaf and (
            reader.body is not None or (reader.request is None and not self.congested and not self.closed)
        )

    def _consume(self, data: bytes) -> bytes:
        """Read as far as it goes now; returns what has to wait."""
        try:
            while data and self._takes_more():
                data = self._feed_head(data) if self._reader.body is None else self._feed_body(data)
        except ProxyError as error:
            self._refuse(error)
            return b""
        return data

    def _feed_head(self, data: bytes) -> bytes:
        reader, callers = self._reader, self._callers
        had_begun = reader.partial
        rest = reader.feed(data)
        if reader.request is not None:
            callers.head.stop(self)
            callers.idle.stop(self)
        elif reader.partial and not had_begun:
            callers.idle.stop(self)
            callers.head.start(self)
        return rest

    def _feed_body(self, data: bytes) -> bytes:
        reader = self._reader
        body = reader.body
        assert body is not None
        self._callers.upload.stop(self)
        reader.expects_continue = False  # RFC 9110 section 10.1.1: it does not wait for it any more
        rest = reader.feed(data)
        if body.buffered > HIGH_WATER and not body.complete:
            self._pause()
        body.wake()
        return rest

    def _want_body(self) -> None:
        """The exchange waits for more of the body."""
        if self._reader.expects_continue:
            self._reader.expects_continue = False
            self.write(_CONTINUE)
        self._callers.upload.start(self)
        self._resume()

    def _serve(self) -> None:
        request = self._reader.request
        if request is not None and not self.busy and not self._deaf and not self.closed:
            self._begin(request)

    def _begin(self, request: Request) -> None:
        self.busy = True
        self._strand.start(self._callers.exchanges.serve(request, self, self._strand))

    def served(self) -> None:
        """The exchange is over."""
        self.busy = False
        if self._reader.request is not None and not self._deaf and not self.closed:
            self.abort()  # it did not come to an `end`, and nobody would answer any more

    def _refuse(self, error: ProxyError) -> None:
        """The bytes are at fault: an error for whoever reads the body, or an answer at once; then close."""
        reader = self._reader
        self._deaf = True
        if not self.busy:
            self._callers.head.stop(self)
            self._callers.idle.stop(self)
            self._callers.exchanges.refuse(error, self, reader.request)
        elif reader.body is not None:
            reader.body.fail(error)

    # --- flow, and the end ---

    def _pause(self) -> None:
        if self._reading and not self.closed:
            self._reading = False
            self._transport.pause_reading()
            self._callers.unheard.start(self)

    def _resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._transport.resume_reading()
            self._callers.unheard.stop(self)

    def pause_writing(self) -> None:
        self.congested = True
        self._watch_unread()

    def resume_writing(self) -> None:
        self.congested = False
        self._callers.unread.stop(self)
        self._wake()
        if self.closed:
            self._watch_unread()
        elif self._reader.request is None:
            self._turn()

    def _wake(self) -> None:
        if self._write_waiter is not None and not self._write_waiter.done():
            self._write_waiter.set_result(None)

    def eof_received(self) -> bool:
        self._ended = True
        if self.busy:
            # A caller that closes and one that only closes its sending side look the same from here; like
            # other servers, we take the request for abandoned.
            self.abort()
        elif self._reader.partial and not self._deaf:
            self._refuse(MalformedRequest("The connection ended in the middle of the request head."))
        else:
            self.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._callers.unread.stop(self)
        self._stop()
        self._callers.lost(self)

    def _stop(self) -> None:
        """Nothing more is read or written, and who works for this connection ends."""
        if self.closed:
            return
        self.closed = True
        callers = self._callers
        for deadlines in (callers.head, callers.idle, callers.upload, callers.linger, callers.unheard):
            deadlines.stop(self)
        self._wake()
        if self.busy and not self._strand.running:
            self._strand.cancel()
