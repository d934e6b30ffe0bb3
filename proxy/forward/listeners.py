"""The sockets that callers connect to: served, and closed without losing a connection."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from proxy.forward.inbound import CallerConnection
from proxy.listen import BACKLOG, Bound

_HANDSHAKES = 0.1  # seconds in which those that have begun come to their end


class Listeners:
    """Serves what connects to the `bound` sockets; `connection(tcp=…)` makes a connection's protocol."""

    def __init__(self, bound: Sequence[Bound], connection: Callable[..., CallerConnection]):
        self._bound = bound
        self._connection = connection
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self._bound:
            serve = loop.create_server if one.path is None else loop.create_unix_server
            # A duplicate, so that the socket outlives asyncio's server: see `stop`.
            server = await serve(self._protocol(one), sock=one.sock.dup(), backlog=BACKLOG)
            self._servers.append(server)

    def _protocol(self, bound: Bound) -> Callable[[], asyncio.Protocol]:
        # It does not inherit from asyncio.Protocol, since mypyc makes native classes only of those without
        # interpreted bases; a loop asks for the methods alone.
        made = partial(self._connection, tcp=bound.path is None)
        return cast(Callable[[], asyncio.Protocol], made)

    async def stop(self) -> None:
        """Close them, and serve all connections that the kernel has completed."""
        for one in self._bound:
            one.take_no_more()
        await asyncio.sleep(_HANDSHAKES)
        loop = asyncio.get_running_loop()
        if isinstance(
            loop, asyncio.SelectorEventLoop
        ):  # not uvloop, whose accepted connections are transports at once
            for server in self._servers:
                loop.remove_reader(server.sockets[0].fileno())
            # What asyncio has accepted becomes a transport next turn; since Python 3.12 that fails, and
            # the connection is lost, once its server is closed.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        last = []
        for server, one in zip(self._servers, self._bound, strict=True):
            server.close()
            last += [loop.connect_accepted_socket(self._protocol(one), sock) for sock in one.accept_rest()]
        await asyncio.gather(*last, return_exceptions=True)

    def close(self) -> None:
        """Close them at once."""
        for server in self._servers:
            server.close()
        for one in self._bound:
            one.close()
