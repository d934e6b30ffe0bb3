"""What was aimed for, and whether a run reached it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.figures import Figures, Spread, ratios, spread


@dataclass(frozen=True)
class Goal:
    """At most `limit`: of the figure, or of its ratio to that party's."""

    title: str
    scheme: str
    figure: str
    limit: float
    party: str | None = None


GOALS = (
    Goal("CPU of a GET over https, to Envoy's", "https", "get.cpu_us", 0.7, "envoy"),
    Goal("CPU of a GET over https, to Go's", "https", "get.cpu_us", 0.55, "go"),
    Goal("CPU of a GET over http, to Envoy's", "http", "get.cpu_us", 0.6, "envoy"),
    Goal("p99 at many connections, https, to Envoy's", "https", "get.p99_ms", 1, "envoy"),
    Goal("p99 at many connections, http, to Envoy's", "http", "get.p99_ms", 1, "envoy"),
    Goal("added p50 at one connection, https, to Envoy's", "https", "single.p50_ms", 1, "envoy"),
    Goal("CPU of 1 MiB bodies over https, to Envoy's", "https", "bulk.cpu_gb", 1.5, "envoy"),
    Goal("MB of memory after load, https", "https", "rss.loaded", 50),
    Goal("ms from start to the first answer, https", "https", "start.ms", 400),
    Goal("further: CPU of a GET over https, to nginx's", "https", "get.cpu_us", 1.5, "nginx"),
)


def reached(figures: Figures, product: str) -> Iterator[tuple[Goal, Spread]]:
    """Each goal that was measured, with what was measured."""
    for goal in GOALS:
        parties = figures.get(goal.scheme, {})
        ours = parties.get(product, {}).get(goal.figure)
        theirs = parties.get(goal.party or "", {}).get(goal.figure)
        if ours and goal.party is None:
            yield goal, spread(ours)
        elif ours and theirs:
            yield goal, ratios(ours, theirs)
