"""Callers that do not read, and a way to wait for the product's inner state."""

import asyncio
import socket
from collections.abc import Callable

from tests.support.caller import Caller


async def until(predicate: Callable[[], object]) -> None:
    """Let the loop turn until it is so; nothing signals what the product does inside."""
    async with asyncio.timeout(10):
        while not predicate():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def deaf(port: int) -> Caller:
    """A caller whose kernel takes little, and that does not read until `resume_reading`."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    caller: Caller = (await loop.create_connection(Caller, sock=sock))[1]
    caller.transport.pause_reading()
    return caller
