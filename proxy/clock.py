"""The clocks that tokens, connections and backoff run on; tests hand in one that they move by hand."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

# A sleep is cut into slices this long (s), so that a laptop that wakes from suspend notices within one
# slice that the time has come: the event loop's own clock stands still during suspend.
SLICE = 15.0


class Clock(Protocol):
    """What the parts ask of time; all values in seconds."""

    def now(self) -> float:
        """Monotonic, and counting while the machine is suspended."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump when somebody sets the clock."""

    async def sleep(self, seconds: float) -> None:
        """Return when `now()` has advanced by that much."""


def _boot_clock() -> int | None:
    # Linux: CLOCK_MONOTONIC stops in suspend, CLOCK_BOOTTIME does not. macOS: time.monotonic() is
    # mach_absolute_time, which stops, but CLOCK_MONOTONIC goes on. Windows: time.monotonic() goes on.
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        if hasattr(time, name):
            return int(getattr(time, name))
    return None


_BOOT = _boot_clock()


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        # No Python frame in between: they are read several times a request.
        self.wall: Callable[[], float] = time.time
        self.now: Callable[[], float] = (
            time.monotonic if _BOOT is None else partial(time.clock_gettime, _BOOT)
        )

    async def sleep(self, seconds: float) -> None:
        until = self.now() + seconds
        while (left := until - self.now()) > 0:  # noqa: ASYNC110 (only time passes here)
            await asyncio.sleep(min(left, SLICE))
