"""The last minutes, for a person who looks: rates, latencies, the latest errors. Bounded, and no PHI."""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.clock import Clock
from proxy.rules.errors import ProxyError
from proxy.rules.fhir import OTHER
from proxy.watch.record import METHODS, Record

WINDOW: Final = 10.0  # seconds
WINDOWS = 30  # kept, besides the one that runs
ERRORS = 20  # kept; the same one again is counted
_STEP = 1.2  # from one bound of latencies to the next: a percentile is right within a tenth
_BOUNDS: Final = tuple(0.0005 * _STEP**step for step in range(70))  # seconds; up to 145 s

# Errors that Fumage answers with, by status or by what became of the replay: what happened, and what to do.
_FUMAGE: dict[object, tuple[str, str]] = {
    "rejected": (
        "Fumage rejected a fresh token as well.",
        "Check that base_url and token_url name the same Canvas instance, and the scope of the client.",
    ),
    "suppressed": (
        "Fumage rejected the token; no new one was fetched, since new ones were rejected too.",
        "Check that base_url and token_url name the same Canvas instance, and the scope of the client.",
    ),
    429: ("Fumage asks for fewer requests.", "Send fewer at a time, and heed Retry-After."),
    500: (
        "Fumage answered with an error of its own.",
        "Look for fumage-correlation-id in the request's log line: Canvas support asks for it.",
    ),
}


class _Window:
    __slots__ = ("errors", "latencies", "number")

    def __init__(self, number: int):
        self.number = number
        self.latencies = [0] * (len(_BOUNDS) + 1)
        self.errors = 0


@dataclass(slots=True)
class Trouble:
    """An error, how often it was seen, and when last (`at`, boot clock).

    `code` and `details` are those of Proxy-Status.
    """

    method: str
    route: str
    status: int
    code: str | None
    details: str | None
    error: str
    advice: str
    at: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """One window. Times in seconds: `start` by the boot clock; latencies None without a request."""

    start: float
    seconds: float
    requests: int
    errors: int
    latency: dict[str, float | None]


class Recent:
    """Notes the latency of requests, and whether they went wrong."""

    def __init__(self, clock: Clock):
        self.started = clock.now()
        self._now = clock.now
        self._windows: deque[_Window] = deque([_Window(0)], WINDOWS + 1)
        self._end = self.started + WINDOW  # of the window that runs
        self._latencies = self._windows[-1].latencies
        self._troubles: dict[tuple[str, str, int, str], Trouble] = {}  # the latest last

    def __call__(self, records: Sequence[Record]) -> None:
        """Note requests that are over."""
        for record in records:
            ended = record.ended
            if ended >= self._end:
                self._turn(ended)
            self._latencies[bisect_left(_BOUNDS, ended - record.started)] += 1
            status = record.status
            if status in (401, 429) or status >= 500 or record.error is not None or record.broken is not None:
                self._windows[-1].errors += 1
                self._note(record)

    def _turn(self, now: float) -> None:
        number = int((now - self.started) // WINDOW)
        self._windows.append(_Window(number))
        self._latencies = self._windows[-1].latencies
        self._end = self.started + (number + 1) * WINDOW

    def _note(self, record: Record) -> None:
        code, details, error, advice = _described(record)
        method = METHODS.get(record.method, OTHER)
        key = (method, record.route.template, record.status, error)
        trouble = self._troubles.pop(key, None)
        if trouble is None:
            trouble = Trouble(method, record.route.template, record.status, code, details, error, advice)
            if len(self._troubles) >= ERRORS:
                del self._troubles[next(iter(self._troubles))]
        trouble.at, trouble.count = record.ended, trouble.count + 1
        self._troubles[key] = trouble

    @property
    def troubles(self) -> list[Trouble]:
        """The latest errors, the last first."""
        return list(reversed(self._troubles.values()))

    def windows(self) -> Iterator[Figures]:
        """The windows up to now, the oldest first and none left out; the last one is not over yet."""
        now = self._now()
        running = int((now - self.started) // WINDOW)
        known = {window.number: window for window in self._windows}
        for number in range(max(0, running - WINDOWS), running + 1):
            start = self.started + number * WINDOW
            window = known.get(number) or _Window(number)
            yield Figures(
                start=start,
                seconds=min(WINDOW, now - start),
                requests=sum(window.latencies),
                errors=window.errors,
                latency={f"p{share}": _percentile(window.latencies, share / 100) for share in (50, 90, 99)},
            )


def _described(record: Record) -> tuple[str | None, str | None, str, str]:
    """Code and details of Proxy-Status, what happened, what to do."""
    if isinstance(error := record.error or record.broken, ProxyError):
        return error.error, error.details, str(error), error.advice
    what = record.replay if record.status == 401 else record.status
    return None, None, *_FUMAGE.get(what, _FUMAGE[500])


def _percentile(counts: list[int], share: float) -> float | None:
    """The latency (s) that this share of the requests did not exceed, interpolated within its bucket."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for at, count in enumerate(counts):
        if count and below + count >= wanted:
            if at == len(_BOUNDS):
                return _BOUNDS[-1]
            return _BOUNDS[at] * math.pow(_STEP, (wanted - below) / count - 1)
        below += count
    return None
