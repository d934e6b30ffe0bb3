"""Windows, percentiles and the latest errors: right, bounded, and free of PHI."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from proxy.rules.errors import FumageConnectionLost, FumageNameUnknown
from proxy.watch.recent import ERRORS, WINDOW, WINDOWS, Recent
from proxy.watch.record import Record
from tests.watch.test_log import phi, shapes


class Time:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def recent(time: Time) -> Recent:
    return Recent(time)


def note(
    recent: Recent, time: Time, seconds: float = 0.1, target: bytes = b"/Patient/1", **attributes: Any
) -> None:
    """A request that ends now."""
    record = Record(time.at - seconds, b"GET", target, b"a" * 32)
    record.ended, record.status, record.origin = time.at, 200, "fumage"
    for name, value in attributes.items():
        setattr(record, name, value)
    recent([record])


def counts(recent: Recent) -> list[tuple[int, int]]:
    return [(window.requests, window.errors) for window in recent.windows()]


def test_at_first_there_is_the_window_that_runs(recent: Recent, time: Time) -> None:
    time.at += 3
    (window,) = recent.windows()
    assert (window.start, window.seconds, window.requests, window.errors) == (1000, 3, 0, 0)
    assert window.latency == {"p50": None, "p90": None, "p99": None}


def test_a_request_counts_in_the_window_in_which_it_ends(recent: Recent, time: Time) -> None:
    time.at += WINDOW - 0.001
    note(recent, time)
    time.at = 1000 + WINDOW
    note(recent, time, seconds=8, status=500)
    assert counts(recent) == [(1, 0), (1, 1)]


def test_windows_without_a_request_are_there_too(recent: Recent, time: Time) -> None:
    note(recent, time)
    time.at += 3 * WINDOW
    assert counts(recent) == [(1, 0), (0, 0), (0, 0), (0, 0)]
    note(recent, time)
    assert counts(recent) == [(1, 0), (0, 0), (0, 0), (1, 0)]


def test_only_so_many_windows_are_kept(recent: Recent, time: Time) -> None:
    for _ in range(3 * WINDOWS):
        note(recent, time)
        time.at += WINDOW
    assert counts(recent) == [(1, 0)] * WINDOWS + [(0, 0)]
    assert len(recent._windows) <= WINDOWS + 1
    time.at += 10 * WINDOWS * WINDOW
    assert counts(recent) == [(0, 0)] * (WINDOWS + 1)


def test_percentiles_are_right_within_a_tenth(recent: Recent, time: Time) -> None:
    dice = random.Random(7)
    latencies = sorted(dice.lognormvariate(-3, 1) for _ in range(2000))
    for seconds in latencies:
        note(recent, time, seconds)
    (window,) = recent.windows()
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert window.latency[name] == pytest.approx(latencies[int(share * 2000) - 1], rel=0.1)


@pytest.mark.parametrize(("seconds", "told"), [(0, 0.0005), (1e6, 145)])
def test_the_shortest_and_the_longest_have_a_bound(
    seconds: float, told: float, recent: Recent, time: Time
) -> None:
    note(recent, time, seconds)
    assert next(recent.windows()).latency["p99"] == pytest.approx(told, rel=0.01)


@pytest.mark.parametrize(
    ("attributes", "code", "says"),
    [
        ({"status": 502, "error": FumageNameUnknown("No name.")}, "dns_error", "No name."),
        ({"broken": FumageConnectionLost("Lost.", sent=True)}, "connection_terminated", "Lost."),
        ({"status": 500}, None, "error of its own"),
        ({"status": 503, "replay": "ok"}, None, "error of its own"),
        ({"status": 429, "replay": "ok"}, None, "fewer"),
        ({"status": 401, "replay": "rejected"}, None, "a fresh token as well"),
        ({"status": 401, "replay": "suppressed"}, None, "no new one was fetched"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_what_counts_as_an_error_and_what_it_says(
    attributes: dict[str, Any], code: str | None, says: str, recent: Recent, time: Time
) -> None:
    note(recent, time, **attributes)
    (trouble,) = recent.troubles
    assert (trouble.method, trouble.route, trouble.code) == ("GET", "Patient/{id}", code)
    assert trouble.status == attributes.get("status", 200)
    assert says in trouble.error
    assert trouble.advice
    assert counts(recent) == [(1, 1)]


@pytest.mark.parametrize("status", [0, 200, 304, 400, 403, 404, 412])
def test_what_is_between_the_app_and_fumage_is_no_error(status: int, recent: Recent, time: Time) -> None:
    note(recent, time, status=status)
    assert recent.troubles == []


def test_the_same_error_again_is_counted_and_comes_first(recent: Recent, time: Time) -> None:
    note(recent, time, status=500)
    note(recent, time, status=503)
    time.at += 1
    note(recent, time, status=500, target=b"/Patient/2")
    assert [(each.status, each.count, each.at) for each in recent.troubles] == [
        (500, 2, 1001),
        (503, 1, 1000),
    ]


def test_only_so_many_errors_are_kept(recent: Recent, time: Time) -> None:
    for status in range(500, 500 + 2 * ERRORS):
        note(recent, time, status=status)
    assert [each.status for each in recent.troubles] == list(reversed(range(500 + ERRORS, 500 + 2 * ERRORS)))


@settings(max_examples=200)
@given(shapes, phi, phi)
def test_no_path_query_or_id_is_kept(shape: bytes, value: bytes, other: bytes) -> None:
    time = Time()
    recent = Recent(time)
    made: Callable[[], FumageConnectionLost] = lambda: FumageConnectionLost("Lost.", sent=False)  # noqa: E731
    for attributes in ({"status": 500}, {"broken": made()}, {"error": made()}):
        note(recent, time, target=shape.replace(b"%b", value), method=value, request_id=other, **attributes)
    assert "Zq" not in repr(recent.troubles)
