"""Timeouts without a timer a request."""

import asyncio
from collections.abc import Callable, Iterator
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
        self._since: dict[Key, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._since)

    def __contains__(self, key: Key) -> bool:
        return key in self._since

    def start(self, key: Key) -> None:
        """Let `expire(key)` be called after the timeout, counted from now."""
        since = self._since
        if key in since:
            del since[key]  # it goes to the end
        since[key] = self._loop.time()
        if self._timer is None:
            self._set_timer()

    def stop(self, key: Key) -> None:
        self._since.pop(key, None)

    def change(self, seconds: float) -> None:
        """Let all timeouts be this long from now on, those that run as well."""
        self.seconds = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._set_timer()

    def close(self) -> None:
        """Forget all of them."""
        self._since.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        # `_timer` stays set meanwhile: an `expire` that starts its key again must not start a second timer.
        latest = self._loop.time() - self.seconds
        try:
            while self._since:
                key, when = next(iter(self._since.items()))
                if when > latest:
                    break
                del self._since[key]
                self._expire(key)
        finally:
            self._set_timer()

    def _set_timer(self) -> None:
        first = next(iter(self._since.values()), None)
        self._timer = None if first is None else self._loop.call_at(first + self.seconds, self._tick)
