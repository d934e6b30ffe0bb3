"""The Prometheus metrics (section 8 of the contract). A request costs a few additions; what they mean is put
together when somebody scrapes."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any, Final

from proxy.rules.fhir import OTHER, Route
from proxy.watch.record import METHODS, Record

if TYPE_CHECKING:  # imported at the first scrape: it would be a tenth of the time to start
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.core import CounterMetricFamily

# A refusal takes under 1 ms, an answer of Canvas 30 ms to some seconds, timeouts are 10 and 60 s.
_MILLISECONDS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)
BUCKETS: Final = tuple(each / 1000 for each in _MILLISECONDS)  # seconds; of no known length, for mypyc's sake

# What labels may say. Series known beforehand exist from the start, so that their first increase shows.
REPLAYS = ("ok", "rejected", "suppressed", "too_large", "no_token")
GRANTS = ("client_credentials", "refresh_token")
OUTCOMES = ("ok", "refused", "unusable", "unreachable", "timeout")
STORE_OUTCOMES = ("hit", "fetched", "fallback")
# 0, as in the log: the caller was gone before an answer began.
STATUSES = {0: "0"} | {int(status): str(int(status)) for status in HTTPStatus}


class Tally:
    """Counts what requests and token requests leave behind."""

    __slots__ = (
        "_requests",
        "durations",
        "replays",
        "request_bytes",
        "response_bytes",
        "seconds",
        "store_outcomes",
        "store_unreadable",
        "store_waits",
        "token_requests",
        "upstream_durations",
        "upstream_seconds",
    )

    def __init__(self) -> None:
        self._requests: dict[tuple[bytes, Route, int, str], list[int]] = {}  # each a single number
        self.durations = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.upstream_durations = [0] * (len(BUCKETS) + 1)
        self.upstream_seconds = 0.0
        self.request_bytes = 0
        self.response_bytes = 0
        self.replays = dict.fromkeys(REPLAYS, 0)
        self.token_requests = dict.fromkeys(product(GRANTS, OUTCOMES), 0)
        self.store_outcomes = dict.fromkeys(STORE_OUTCOMES, 0)
        self.store_waits = 0
        self.store_unreadable = 0

    def __call__(self, records: Sequence[Record]) -> None:
        """Count requests that are over."""
        requests, durations, upstream_durations = self._requests, self.durations, self.upstream_durations
        for record in records:
            # Few methods, routes and statuses get through to here; what becomes a label, `requests` says.
            kind = record.method, record.route, record.status, record.origin
            if (count := requests.get(kind)) is None:
                requests[kind] = count = [0]
            count[0] += 1
            seconds = record.ended - record.started
            durations[bisect_left(BUCKETS, seconds)] += 1
            self.seconds += seconds
            if seconds := record.upstream_seconds:
                upstream_durations[bisect_left(BUCKETS, seconds)] += 1
                self.upstream_seconds += seconds
            self.request_bytes += record.request_bytes
            self.response_bytes += record.response_bytes
            if record.replay:
                self.replays[record.replay] += 1  # a word that is not in REPLAYS is a defect of ours

    @property
    def requests(self) -> dict[tuple[str, str, str, str, str], int]:
        """How many, by method, resource, interaction, status and origin."""
        counts: Counter[tuple[str, str, str, str, str]] = Counter()
        for (method, (_, resource, interaction), status, origin), (count,) in self._requests.items():
            word = METHODS.get(method, OTHER)
            counts[word, resource, interaction, STATUSES.get(status, OTHER), origin or "proxy"] += count
        return counts

    def token_request(self, grant: str, outcome: str) -> None:
        """A token request came to an end."""
        self.token_requests[grant, outcome] += 1

    def store_event(self, event: str) -> None:
        """Something happened with the shared token store."""
        if event == "waited":
            self.store_waits += 1
        elif event == "unreadable":
            self.store_unreadable += 1
        else:
            self.store_outcomes[event] += 1


@dataclass(kw_only=True, eq=False)  # a registry wants its collectors hashable
class Metrics:
    """What a scrape gets: the tally, and what is looked up at that moment."""

    tally: Tally
    version: str
    in_flight: Callable[[], int]
    connections: Callable[[], Mapping[str, int]]  # to Fumage, by state
    token_expiry: Callable[[], float | None]  # seconds since the epoch

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Body and Content-Type, in the format that the Accept field prefers."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    @cached_property
    def _registry(self) -> "CollectorRegistry":
        from prometheus_client import CollectorRegistry, ProcessCollector

        registry = CollectorRegistry()
        registry.register(self)
        ProcessCollector(
            registry=registry
        )  # process_resident_memory_bytes and the like, where there is /proc
        return registry

    def collect(self) -> "Iterator[Metric]":
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()

    def _counters(self) -> "Iterator[Metric]":
        tally = self.tally
        yield _counter(
            "fumage_proxy_requests",
            "Requests that are over, by whose answer they got (origin); status 0: the caller left before it.",
            tally.requests,
            ("method", "resource", "interaction", "status", "origin"),
        )
        yield _counter(
            "fumage_proxy_replays",
            "What became of requests whose token Fumage rejected with a 401.",
            {(outcome,): count for outcome, count in tally.replays.items()},
            ("outcome",),
        )
        yield _counter(
            "fumage_proxy_token_requests",
            "Requests to the EMR's token endpoint.",
            tally.token_requests,
            ("grant", "outcome"),
        )
        yield _counter(
            "fumage_proxy_token_store_tokens",
            "Tokens wanted with a shared store: found there, fetched for all, or asked for without it.",
            {(outcome,): count for outcome, count in tally.store_outcomes.items()},
            ("outcome",),
        )
        yield _counter(
            "fumage_proxy_token_store_waits",
            "Times that another replica's lease was waited for.",
            {(): tally.store_waits},
        )
        yield _counter(
            "fumage_proxy_token_store_unreadable",
            "Values in the store that were not sealed with our keys for us, and were ignored.",
            {(): tally.store_unreadable},
        )
        yield _counter(
            "fumage_proxy_request_bytes", "Bytes of request bodies received.", {(): tally.request_bytes}
        )
        yield _counter(
            "fumage_proxy_response_bytes", "Bytes of response bodies sent.", {(): tally.response_bytes}
        )

    def _histograms(self) -> "Iterator[Metric]":
        from prometheus_client.core import HistogramMetricFamily

        tally = self.tally
        yield HistogramMetricFamily(
            "fumage_proxy_request_duration_seconds",
            "From a request's head to the end of its answer.",
            _cumulative(tally.durations),
            tally.seconds,
        )
        yield HistogramMetricFamily(
            "fumage_proxy_upstream_duration_seconds",
            "Of that, waiting for the head of Fumage's answer (of both, with a replay).",
            _cumulative(tally.upstream_durations),
            tally.upstream_seconds,
        )

    def _gauges(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield GaugeMetricFamily(
            "fumage_proxy_in_flight_requests", "Requests that are being answered.", self.in_flight()
        )
        connections = GaugeMetricFamily(
            "fumage_proxy_upstream_connections", "Connections to Fumage.", labels=("state",)
        )
        for state, count in self.connections().items():
            connections.add_metric((state,), count)
        yield connections
        yield GaugeMetricFamily(
            "fumage_proxy_token_expiry_timestamp_seconds",
            "When the current token expires; 0 while there is no valid one.",
            self.token_expiry() or 0.0,
        )
        yield InfoMetricFamily("fumage_proxy_build", "The version that runs.", {"version": self.version})


def _counter(
    name: str, help: str, series: Mapping[Any, int], labels: Sequence[str] = ()
) -> "CounterMetricFamily":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, help, labels=labels)
    for values, count in series.items():
        family.add_metric(values, count)
    return family


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    return list(zip((*map(str, BUCKETS), "+Inf"), accumulate(counts), strict=True))
