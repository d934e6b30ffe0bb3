"""The pool of connections to Fumage: which one a request rides, and when one is opened or closed."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.clock import Clock
from proxy.forward.outbound import Connection
from proxy.rules.errors import AllConnectionsBusy

RECENT: Final = 2.0  # seconds; a connection used so recently is most unlikely to have been closed meanwhile
# Seconds in which a server hardly closes a connection, or sends what nobody asked for: when all are busy, the
# system call that would look for it is spared.
_MOMENT: Final = 0.005
_JITTER: Final = 0.1  # of max_age, so that connections opened together do not retire together


class _Turn:
    """One who waits while the pool is full; granted None is the right to open a connection."""

    __slots__ = ("fresh", "granted")

    def __init__(self, fresh: bool):
        self.fresh = fresh
        self.granted: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()


class Pool:
    """At most `limit` connections, the last used first.

    `keepalive`: seconds a connection may be idle; `max_age`: seconds after which it takes no new request;
    `busy_timeout`: seconds to wait for a free one.
    """

    def __init__(
        self,
        dial: Callable[[], Awaitable[Connection]],
        *,
        limit: int,
        keepalive: float,
        max_age: float,
        busy_timeout: float,
        clock: Clock,
    ):
        self._dial = dial
        self._limit = limit
        self._keepalive = keepalive
        self._max_age = max_age
        self._busy_timeout = busy_timeout
        self._now = clock.now
        self._idle: dict[Connection, None] = {}  # the last one was used last
        self._sweeper: asyncio.TimerHandle | None = None
        self._open: set[Connection] = set()  # idle ones included
        self._dialing = 0
        self._waiting: deque[_Turn] = deque()
        self._granted: set[Connection] = set()  # on their way to who waited for them
        self._closing = False

    @property
    def counts(self) -> dict[str, int]:
        """Connections by state."""
        return {
            "idle": len(self._idle),
            "active": len(self._open) - len(self._idle),
            "opening": self._dialing,
        }

    def take(self, now: float, *, recent: bool) -> Connection | None:
        """An idle connection that is fit for a request, if there is one; does not wait.

        `now` by the pool's clock; `recent`: only one that was used in the last two seconds, since this
        request must not be sent twice.
        """
        if self._waiting:
            return None  # nobody overtakes those who wait
        while self._idle:
            connection, _ = self._idle.popitem()
            if recent and now - connection.idle_since > RECENT:
                self._idle[connection] = None  # and all others are older still
                return None
            if self._fit(connection, now, recent):
                return connection
            connection.close()
        return None

    def _fit(self, connection: Connection, now: float, recent: bool) -> bool:
        idle = now - connection.idle_since
        if connection.closed or idle > self._keepalive or now >= connection.retire_at:
            return False
        return not ((recent or idle > _MOMENT) and connection.gone())

    async def open(self, *, fresh: bool = False) -> Connection:
        """A new connection, or one that becomes free while the pool is full.

        `fresh`: never one that was used before, even if that means to close one. Raises AllConnectionsBusy
        and FumageError.
        """
        freed = await self._slot(fresh)
        if freed is not None:
            return freed
        try:
            connection = await self._dial()
        except BaseException:
            self._free_slot()
            raise
        self._dialing -= 1
        self._admit(connection)
        return connection

    async def _slot(self, fresh: bool) -> Connection | None:
        """The right to open a connection (None, and counted as dialing), or a connection instead."""
        if len(self._open) + self._dialing >= self._limit:
            if not self._idle:
                return await self._wait(fresh)
            self._exchange_for_slot(next(iter(self._idle)))  # none that `take` would have given
        else:
            self._dialing += 1
        return None

    def _exchange_for_slot(self, connection: Connection) -> None:
        self._dialing += 1  # first, so that the slot goes to nobody else
        connection.close()

    def _admit(self, connection: Connection) -> None:
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 (no secret)
        connection.retire_at = self._now() + self._max_age * jitter
        connection.on_close = self._on_close
        self._open.add(connection)
        if connection.closed:
            self._on_close(connection)

    async def _wait(self, fresh: bool) -> Connection | None:
        turn = _Turn(fresh)
        self._waiting.append(turn)
        try:
            await asyncio.wait([turn.granted], timeout=self._busy_timeout)
        except asyncio.CancelledError:
            self._give_up(turn)
            raise
        if not turn.granted.done():
            self._waiting.remove(turn)
            raise AllConnectionsBusy("All connections to Fumage were in use for connect_timeout.")
        return self._collect(turn.granted.result())

    def _collect(self, granted: Connection | None) -> Connection | None:
        """What was granted, or None and the slot of a connection that has closed meanwhile."""
        if granted is None:
            return None
        self._granted.discard(granted)
        if granted.closed:
            return None  # `_on_close` has kept the slot
        if granted.gone():
            self._exchange_for_slot(granted)
            return None
        return granted

    def _give_up(self, turn: _Turn) -> None:
        if not turn.granted.done():
            self._waiting.remove(turn)
        elif (connection := self._collect(turn.granted.result())) is not None:
            self.release(connection, self._now())
        else:
            self._free_slot()

    def _grant(self, connection: Connection | None) -> None:
        if connection is not None:
            self._granted.add(connection)
        self._waiting.popleft().granted.set_result(connection)

    def _free_slot(self) -> None:
        self._dialing -= 1
        self._offer_slot()

    def _offer_slot(self) -> None:
        """Let the first who waits open a connection, if the limit allows."""
        if len(self._open) + self._dialing < self._limit and self._waiting:
            self._dialing += 1
            self._grant(None)

    def release(self, connection: Connection, now: float) -> None:
        """Give back a connection whose exchange is over, or was broken off; `now` by the pool's clock."""
        if not connection.reusable or self._closing or now >= connection.retire_at:
            if connection.complete:
                connection.close()
            else:
                connection.abort()
            return
        connection.kept_alive = True
        if self._waiting:
            if self._waiting[0].fresh:
                connection.close()  # which lets that one open its own
            else:
                self._grant(connection)
        else:
            connection.idle_since = now
            self._idle[connection] = None
            if self._sweeper is None:
                self._sweep()

    def _sweep(self) -> None:
        """Close those that have been idle for too long, and look again when the next one's time has come."""
        self._sweeper = None
        for connection in list(self._idle):
            left = connection.idle_since + self._keepalive - self._now()
            if left > 0:
                self._sweeper = asyncio.get_running_loop().call_later(left, self._sweep)
                break
            connection.close()

    def _on_close(self, connection: Connection) -> None:
        if connection in self._idle:
            del self._idle[connection]
        self._open.discard(connection)
        if connection in self._granted:
            self._dialing += 1  # the slot stays with whom the connection was granted to
        self._offer_slot()

    async def warm(self) -> None:
        """Open one connection ahead of the first request. Raises FumageError."""
        if not self._open:
            self.release(await self.open(), self._now())

    def close(self) -> None:
        """Close the idle ones now, and the others when they are given back."""
        self._closing = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._idle):
            connection.close()

    def abort(self) -> None:
        """Close all of them now."""
        self.close()
        for connection in list(self._open):
            connection.abort()
