"""The caller's body on its way to Fumage, and the bounded copy of it that a replay needs."""

from typing import Final

from proxy.forward.outbound import Connection
from proxy.forward.request import Request, RequestBody
from proxy.rules.headers import trailer_lines

GATHER: Final = 64 * 1024  # bytes that are received before a connection to Fumage is taken


class ReplayMemory:
    """What all kept bodies together may take, in bytes."""

    def __init__(self, total: int):
        self._free = total

    def take(self, size: int) -> bool:
        if size > self._free:
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        self._free += size


class Upload:
    """One request's body: gathered, sent, kept up to `limit` bytes, and sent again.

    `replayable` turns false for good when limit or memory is used up.
    """

    def __init__(self, request: Request, body: RequestBody, limit: int, memory: ReplayMemory):
        self._body = body
        self._connection_field = request.noted.get(b"connection")
        self._limit = limit
        self._memory = memory
        self._held: list[bytes] = []  # from the first byte on, as long as the body is replayable
        self._size = 0
        self._reserved = 0
        self.replayable = body.length is None or body.length <= limit

    @property
    def arrived(self) -> bool:
        """Whether all of the body is here: then nothing below has to wait for the caller."""
        return self._body.complete

    @property
    def complete(self) -> bool:
        """Whether all of the body has been taken from the caller."""
        return self._body.exhausted

    async def gather(self) -> None:
        """Receive a short body whole, of a chunked one the first 64 KiB: slow callers hold no connection."""
        body = self._body
        if body.length is not None and body.length > GATHER:
            return
        while self._size < GATHER and (chunk := body.take() or await body.read()):
            self._hold(chunk)

    async def whole(self) -> bytes | None:
        """Receive all of the body, and keep it for `at_hand`; None as soon as it is too much to be kept."""
        body = self._body
        while self.replayable and (chunk := body.take() or await body.read()):
            self._hold(chunk)
        if not self.replayable:
            return None
        self._held = [b"".join(self._held)]
        return self._held[0]

    def _hold(self, chunk: bytes) -> None:
        self._held.append(chunk)
        self._size += len(chunk)
        if not self.replayable:
            return
        if self._size > self._limit or not self._memory.take(len(chunk)):
            self.replayable = False
        else:
            self._reserved += len(chunk)

    def at_hand(self) -> bytes:
        """All that has been taken from the caller so far, framed; with the end of the body if it is here."""
        data = self._framed(b"".join(self._held))
        if self.complete:
            data += self._end()
        self._forget()
        return data

    async def send_rest(self, connection: Connection) -> None:
        """Send what comes after `at_hand`. Raises ProxyError of either side."""
        while chunk := await self._body.read():
            self._hold(chunk)
            connection.write(self._framed(chunk))
            self._forget()
            await connection.writable()
        connection.write(self._end())
        connection.sent_all()

    def spare(self) -> None:
        """Keep nothing any more: no replay will come."""
        self.replayable = False
        self._forget()

    def _forget(self) -> None:
        if not self.replayable:
            self._held.clear()
            self.release()

    def _framed(self, data: bytes) -> bytes:
        if self._body.length is not None or not data:
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    def _end(self) -> bytes:
        if self._body.length is not None:
            return b""
        return b"0\r\n" + trailer_lines(self._body.trailers, self._connection_field) + b"\r\n"

    def release(self) -> None:
        """Give the memory back."""
        self._memory.give_back(self._reserved)
        self._reserved = 0
