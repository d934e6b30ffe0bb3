"""The figures, and what can be said of several rounds of them. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

PRODUCT, BASELINE = "fumage-proxy", "aiohttp"  # parties
FETCHED, FIXED = "client credentials", "fixed header"  # where a party's bearer comes from

Samples = dict[str, list[float]]  # figure -> its value in each round
Figures = dict[str, dict[str, Samples]]  # scheme of the upstream -> party -> samples

MEASURES = ("get", "post", "bulk", "single", "start", "relay", "growth")


@dataclass(frozen=True)
class Figure:
    title: str
    digits: int = 0


FIGURES = {
    "get.cpu_us": Figure("GET 3 KB, µs CPU", 1),
    "get.requests": Figure("GET/s"),
    "get.p50_ms": Figure("GET p50 ms", 2),
    "get.p99_ms": Figure("GET p99 ms", 2),
    "single.p50_ms": Figure("adds at one connection, p50 ms", 3),
    "single.p99_ms": Figure("p99 ms", 3),
    "post.cpu_us": Figure("POST 2 KB, µs CPU", 1),
    "post.requests": Figure("POST/s"),
    "bulk.mb": Figure("1 MiB, MB/s"),
    "bulk.cpu_gb": Figure("1 MiB, CPU s/GB", 3),
    "rss.idle": Figure("RSS idle, MB"),
    "rss.loaded": Figure("RSS after load, MB"),
    "start.ms": Figure("start to first answer, ms"),
}


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and the quartiles around it."""

    low: float
    median: float
    high: float

    @property
    def half(self) -> float:
        """Half of the distance between the quartiles."""
        return (self.high - self.low) / 2


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError of no values at all."""
    if not values:
        raise ValueError("no rounds")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def ratios(values: Sequence[float], to: Sequence[float]) -> Spread:
    """Of each round's value to the other's in the same round: what slows a round down slows both."""
    return spread([value / other for value, other in zip(values, to, strict=True)])


class Results(TypedDict):
    """A whole run, as it is recorded in JSON."""

    machine: dict[str, object]
    python: dict[str, str]
    versions: dict[str, str]
    plan: dict[str, int]  # rounds, seconds, connections
    tokens: dict[str, str]  # party -> where its bearer comes from
    skipped: dict[str, str]  # party -> why
    figures: Figures
    relay: Samples  # way -> ms of each call
    growth: dict[str, Samples]  # curve -> how many connections -> µs CPU a GET
