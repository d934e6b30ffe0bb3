"""Test doubles that speak HTTP/1.1 on the byte level. Here is what both sides share: a pipe of bytes that
tells EOF from reset, and a strict reading of messages, so that a test fails if the product writes wrongly."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Field = tuple[bytes, bytes]
Fields = Iterable[tuple[str | bytes, str | bytes]]
Ending = Literal["eof", "reset"]
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")


class Malformed(AssertionError):
    """The product wrote something that is not HTTP/1.1."""


class Ended(Exception):
    """The connection ended before the awaited bytes came."""


class Pulse:
    """Wakes all that wait for a condition, at each beat."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def beat(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(
        self, predicate: Callable[[], object], seconds: float | None, failure: Callable[[], str]
    ) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not predicate():
                    await self._event.wait()
        except TimeoutError:
            raise AssertionError(f"waited {seconds} s in vain: {failure()}") from None


class Pipe(asyncio.Protocol):
    """One end of a connection. asyncio's StreamReader would drop the bytes that came before a reset."""

    limit = 128 * 1024  # bytes kept unread before the kernel's window has to hold the peer back
    patience: float | None = 10.0  # seconds for any one wait

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.tap = bytearray()  # what was taken out of the buffer; a reader replaces it at a boundary
        self.ending: Ending | None = None
        self.lost = False
        self.pulse = Pulse()
        self.stalled = False  # the kernel takes no more, because the peer does not read
        self.plain = True

    def beat(self) -> None:
        self.pulse.beat()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.plain = transport.get_extra_info("sslcontext") is None  # now: asyncio's forgets it when aborted
        self.transport.set_write_buffer_limits(high=1, low=0)  # so that drain() means: the kernel has it

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > self.limit:
            self.transport.pause_reading()
        self.beat()

    def eof_received(self) -> bool:
        self.ending = self.ending or "eof"
        self.beat()
        return self.plain  # which stays half open

    def connection_lost(self, exc: Exception | None) -> None:
        self.ending = self.ending or ("reset" if exc else "eof")
        self.lost = True
        self.beat()

    def pause_writing(self) -> None:
        self.stalled = True
        self.beat()

    def resume_writing(self) -> None:
        self.stalled = False
        self.beat()

    def take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        self.tap += data
        self.beat()
        return data

    async def more(self) -> None:
        """Wait until the buffer grows; Ended if it will not."""
        size = len(self.buffer)
        if not self.ending:
            self.transport.resume_reading()
        await self.pulse.until(
            lambda: len(self.buffer) > size or self.ending,
            self.patience,
            lambda: (
                f"no more bytes came; unread {bytes(self.buffer[:200])!r}, before {bytes(self.tap[-200:])!r}"
            ),
        )
        if len(self.buffer) == size:
            raise Ended

    async def some(self, most: int = 2**30) -> bytes:
        while not self.buffer:
            await self.more()
        return self.take(most)

    async def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            await self.more()
        return self.take(size)

    async def line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            await self.more()
        line = self.take(end + 1)
        if line[-2:] != b"\r\n" or b"\r" in line[:-2]:
            raise Malformed(f"bare CR or LF: {line!r}")
        return line[:-2]

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the kernel has taken all (with TLS: all but 64 KiB)."""
        await asyncio.sleep(0)  # or the loop never comes to tell that the peer is gone: that does not stall
        await self.pulse.until(
            lambda: not self.stalled or self.lost, self.patience, lambda: "the peer does not read"
        )
        if self.lost:
            raise ConnectionResetError("the peer is gone")

    def close(self) -> None:
        """FIN, after all that was written; with TLS a close_notify first."""
        self.transport.close()

    def cut(self) -> None:
        """FIN at once: with TLS no close_notify."""
        self.transport.abort()

    def reset(self) -> None:
        """RST."""
        if not self.lost:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()


@dataclass(kw_only=True)
class Message:
    """A request or an answer; header names keep their case, order and repetitions."""

    version: str
    headers: list[Field]
    trailers: list[Field] = field(default_factory=list)
    raw_head: bytes = b""
    content: bytearray = field(default_factory=bytearray)  # grows while the body arrives
    raw_content: bytearray = field(default_factory=bytearray)

    @property
    def body(self) -> bytes:
        """Without the framing."""
        return bytes(self.content)

    @property
    def raw_body(self) -> bytes:
        return bytes(self.raw_content)

    def all(self, name: str) -> list[str]:
        return [
            value.decode("latin-1") for key, value in self.headers if key.lower() == name.lower().encode()
        ]

    def __getitem__(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        return json.loads(self.content)

    def declared(self) -> int | Literal["chunked"] | None:
        """What the headers say; Malformed if two parsers could understand it differently."""
        coding, length = self.all("Transfer-Encoding"), self.all("Content-Length")
        if not coding and not length:
            return None
        if coding == ["chunked"] and not length:
            return "chunked"
        if coding or not re.fullmatch("[0-9]+", ",".join(length)):
            raise Malformed(f"Transfer-Encoding {coding}, Content-Length {length}")
        return int(length[0])

    async def read_body(self, pipe: Pipe, framing: int | Literal["chunked"]) -> None:
        pipe.tap = self.raw_content
        if framing == "chunked":
            while size := await chunk_size(pipe):
                await self._read(pipe, size)
                if (end := await pipe.exactly(2)) != b"\r\n":
                    raise Malformed(f"a chunk ends with {end!r}")
            self.trailers = await read_fields(pipe)
        else:
            await self._read(pipe, framing)

    async def _read(self, pipe: Pipe, size: int) -> None:
        end = len(self.content) + size
        while len(self.content) < end:
            self.content += await pipe.some(end - len(self.content))


async def chunk_size(pipe: Pipe) -> int:
    line = await pipe.line()
    if not (match := re.fullmatch(rb"([0-9A-Fa-f]+)(;[^\r\n]*)?", line)):
        raise Malformed(f"chunk size: {line!r}")
    return int(match[1], 16)


async def read_fields(pipe: Pipe) -> list[Field]:
    fields = []
    while line := await pipe.line():
        if not (match := FIELD.fullmatch(line)):
            raise Malformed(f"header field: {line!r}")
        fields.append((match[1], match[2]))
    return fields


def octets(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def head(start: str | bytes, fields: Fields = ()) -> bytes:
    lines = [octets(start), *(octets(name) + b": " + octets(value) for name, value in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields = ()) -> bytes:
    return head("0", trailers)


def unused_port() -> int:
    """A TCP port that nobody listens on; the kernel hardly hands it out again soon."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
