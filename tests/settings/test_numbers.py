from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import numbers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("5m", 300), ("1h", 3600), ("10", 10), ("0.5", 0.5), ("1.5s", 1.5)],
)
def test_durations_are_written_with_a_unit_or_in_seconds(text: str, seconds: float) -> None:
    assert numbers.duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1s",
        "-1",
        "nan",
        "inf",
        "1e3",
        "10x",
        "10 s",
        "s",
        "1d",
        "\uff15s",
        "5M",
        "1_000",
        "+1",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write 250ms"):
        numbers.duration(text)


def test_a_duration_of_zero_is_refused_unless_it_makes_sense() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        numbers.duration("0s")
    assert numbers.duration("0s", zero=True) == 0


@given(st.integers(0, 10**9))
def test_a_shown_duration_reads_back_as_itself(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert numbers.duration(numbers.show_duration(seconds), zero=True) == pytest.approx(seconds, rel=1e-11)


@given(st.integers(0, 2**39))
def test_a_shown_size_reads_back_as_itself(size: int) -> None:
    assert numbers.size(numbers.show_size(size)) == size


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("64KiB", 65536), ("4MiB", 4194304), ("1GiB", 2**30)])
def test_sizes_are_written_with_a_unit_or_in_bytes(text: str, size: int) -> None:
    assert numbers.size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.5MiB", "64KB", "64k", "1e3", "nan", "KiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write 64KiB"):
        numbers.size(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "00"])
def test_a_count_is_a_whole_number_from_one(text: str) -> None:
    with pytest.raises(ValueError, match="whole number from 1"):
        numbers.count(text)


@pytest.mark.parametrize(
    ("read", "text", "most"),
    [
        (numbers.duration, "99999999999999999999", "is too long; at most 8760h"),
        (numbers.duration, "9" * 5000, "is too long; at most 8760h"),
        (numbers.duration, "8761h", "is too long; at most 8760h"),
        (numbers.size, "1TiB", "is too large; at most 512GiB"),
        (numbers.size, "513GiB", "is too large; at most 512GiB"),
        (numbers.size, "9" * 15, "is too large; at most 512GiB"),
        (numbers.size, "9" * 5000, "is too large; at most 512GiB"),
        (numbers.count, "999999999999", "is too large; at most 999999999"),
        (numbers.count, "9" * 5000, "is too large; at most 999999999"),
    ],
)
def test_what_is_too_much_is_told_the_most(read: Callable[[str], float], text: str, most: str) -> None:
    with pytest.raises(ValueError, match=most):
        read(text)


def test_the_most_is_not_too_much() -> None:
    assert numbers.duration("8760h") == 365 * 86_400
    assert numbers.size("512GiB") == 2**39
    assert numbers.count("999999999") == 999_999_999
