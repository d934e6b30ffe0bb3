"""Callers that do not read."""

import asyncio
import socket

from tests.support.caller import Caller


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
