import pytest

from tests.bench.load import costs, figures
from tests.bench.record import optimised
from tests.bench.single import _whole, added, percentiles

PRINTED = """\
Running 1s test @ http://127.0.0.1:4000
  1 threads and 32 connections
figures {"requests": 2000, "bytes": 4000000, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 9.25, "failed": 0}
"""


def test_what_a_load_cost_is_told_a_request_and_a_gigabyte() -> None:
    assert costs(figures(PRINTED), cpu_seconds=0.1) == pytest.approx(
        {"cpu_us": 50, "requests": 1000, "p50_ms": 1.5, "p99_ms": 9.25, "mb": 2, "cpu_gb": 25}
    )


@pytest.mark.parametrize(("whole", "instead"), [('"failed": 0', '"failed": 1'), ("2000,", "0,")])
def test_a_load_with_a_failed_request_or_none_at_all_has_no_figures(whole: str, instead: str) -> None:
    with pytest.raises(RuntimeError, match="failed"):
        figures(PRINTED.replace(whole, instead))


def test_percentiles_of_latencies() -> None:
    assert percentiles([float(each) for each in range(101)]) == {"p50_ms": 50, "p99_ms": 99}


def test_what_a_party_adds_is_the_difference_to_the_direct_connection() -> None:
    assert added({"p50_ms": 3.0, "p99_ms": 7.0}, {"p50_ms": 1.0, "p99_ms": 8.0}) == {
        "p50_ms": 2.0,
        "p99_ms": -1.0,
    }


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Le", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
    ],
)
def test_the_caller_knows_when_it_has_the_whole_answer(answer: bytes, whole: bool) -> None:
    assert _whole(answer) is whole


@pytest.mark.parametrize(
    ("config_args", "prefix", "system", "expected"),
    [
        ("'--enable-optimizations' '--with-lto'", "/opt/python", "debian", "yes"),
        ("'--prefix=/usr' '--enable-shared'", "/usr", "debian", "yes, as Debian builds it"),
        ("'--prefix=/opt/python'", "/opt/python", "debian", "no"),
        ("'--prefix=/usr'", "/usr", "", "no"),
    ],
)
def test_a_build_says_whether_it_is_optimised(
    config_args: str, prefix: str, system: str, expected: str
) -> None:
    assert optimised(config_args, prefix, system) == expected
