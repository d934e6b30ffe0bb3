"""Timeouts without a timer a request."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Deadlines(Generic[Key]):
    """All timeouts of one length, on one timer.

    They all wait equally long, so the order in which they were started is the order in which they fall due: a
    dict keeps it, starting and stopping one costs a dict entry, and only the first is ever looked at.
    """

    def __init__(self, seconds: float, expire: Callable[[Key], None]):
        self.seconds = seconds
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._due: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def start(self, key: Key) -> None:
        """Let `expire(key)` be called after the timeout, counted from now."""
        due = self._due
        due.pop(key, None)
        due[key] = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self.seconds, self._tick)

    def stop(self, key: Key) -> None:
        self._due.pop(key, None)

    def change(self, seconds: float) -> None:
        """Let all timeouts be this long from now on; none that runs lasts longer than that either."""
        self.seconds = seconds
        latest = self._loop.time() + seconds
        for key, when in self._due.items():
            self._due[key] = min(when, latest)  # which leaves their order as it is
        if self._timer is not None:
            self._timer.cancel()
            self._set_timer()

    def close(self) -> None:
        """Forget all of them."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        # `_timer` stays set meanwhile: an `expire` that starts its key again must not start a second timer.
        now = self._loop.time()
        try:
            while self._due:
                key, when = next(iter(self._due.items()))
                if when > now:
                    break
                del self._due[key]
                self._expire(key)
        finally:
            self._set_timer()

    def _set_timer(self) -> None:
        first = next(iter(self._due.values()), None)
        self._timer = None if first is None else self._loop.call_at(first, self._tick)
