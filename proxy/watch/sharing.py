"""How it goes with the store that replicas share their token through. The metrics' tally has the counts."""

from typing import Protocol

from proxy.clock import Clock
from proxy.watch.metrics import STORE_OUTCOMES


class Told(Protocol):
    """Why the store was of no use; `str()` says it."""

    advice: str


class Sharing:
    """`where`: the store, as it may be shown. Times by the wall clock, in seconds."""

    def __init__(self, where: str, clock: Clock):
        self.where = where
        self.last: tuple[str, float] | None = None  # an outcome, and when
        self.failing_since: float | None = None
        self.why: tuple[str, str] | None = None  # what failed last, and what to do; None since it went well
        self._clock = clock

    def __call__(self, event: str, error: Told | None) -> bool:
        """Note the event; whether it ends a failure."""
        if event not in STORE_OUTCOMES:
            return False
        now = self._clock.wall()
        failed, self.last = self.failing_since is not None, (event, now)
        if error is not None:
            self.failing_since = self.failing_since if failed else now
            self.why = str(error), error.advice
            return False
        self.failing_since = self.why = None
        return failed
