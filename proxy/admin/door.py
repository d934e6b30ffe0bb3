"""How many connections the admin listener has: idle ones must not use up all descriptors."""

import asyncio
from collections.abc import Callable
from typing import cast


class Door:
    """Makes protocols with `inside`, for `limit` connections at a time: for one more, the one that has been
    silent for longest is cut off. To refuse the newcomer would let idle ones keep the health probes out."""

    def __init__(self, inside: Callable[[], asyncio.Protocol], limit: int):
        self.inside = inside
        self._limit = limit
        self._open: dict[asyncio.Transport, None] = {}  # first the one that has been silent for longest

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    def enter(self, transport: asyncio.Transport) -> None:
        while len(self._open) >= self._limit:
            silent = next(iter(self._open))
            self.leave(silent)
            silent.abort()  # close() would wait for a peer that does not read
        self._open[transport] = None

    def heard(self, transport: asyncio.Transport) -> None:
        self.leave(transport)
        self._open[transport] = None

    def leave(self, transport: asyncio.Transport) -> None:
        self._open.pop(transport, None)


class _Connection(asyncio.Protocol):
    """Passes on all that happens, and counts for as long as its descriptor is open."""

    def __init__(self, door: Door):
        self._door = door
        self._inside = door.inside()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        # aiohttp waits for what is paused: it closes no transport that still holds bytes, which uvloop would
        # not abort any more.
        self._transport.set_write_buffer_limits(high=0)
        self._door.enter(self._transport)
        self._inside.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._door.heard(self._transport)
        self._inside.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inside.eof_received()

    def pause_writing(self) -> None:
        self._inside.pause_writing()

    def resume_writing(self) -> None:
        self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self._transport)
        self._inside.connection_lost(exc)
