"""Time that moves by hand."""

import asyncio
import heapq
from itertools import count


async def settle() -> None:
    """Let every task run until it waits for time, or for I/O."""
    for _ in range(25):  # the longest chain of wake-ups is far shorter
        await asyncio.sleep(0)


class FakeClock:
    """Both clocks of `proxy.clock.Clock`. They stand still unless the test moves them."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self.time = now
        self.wall_time = wall  # assign to it, and somebody has set the clock
        self.sleeps = 0  # how often anybody went to sleep: a hot loop shows here
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.wall_time

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, next(self._order), awake))
        await awake

    async def advance(self, seconds: float) -> None:
        """Time passes: each sleeper wakes at its own moment and runs before it goes on."""
        end = self.time + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self._move(max(self._sleepers[0][0], self.time))
            self._wake()
            await settle()
        self._move(end)
        await settle()

    async def jump(self, seconds: float) -> None:
        """The machine was suspended: nobody wakes before it is over."""
        self._move(self.time + seconds)
        self._wake()
        await settle()

    @property
    def sleepers(self) -> int:
        return sum(not awake.done() for _, _, awake in self._sleepers)

    def _move(self, time: float) -> None:
        self.wall_time += time - self.time
        self.time = time

    def _wake(self) -> None:
        while self._sleepers and self._sleepers[0][0] <= self.time:
            _, _, awake = heapq.heappop(self._sleepers)
            if not awake.done():
                awake.set_result(None)
