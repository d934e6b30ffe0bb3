"""Durations, sizes, counts: text becomes a number, or a ValueError says what is wrong and what to write."""

import re

from proxy.settings.values import quote

_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, None: 1000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]{1,12})?)(ms|s|m|h)?")
_LONGEST, _LONGEST_SHOWN = 365 * 86_400, "8760h (a year)"


def duration(text: str, *, zero: bool = False) -> float:
    """Seconds of `250ms`, `10s`, `5m`, `1h` or a number of seconds; 0 only where it makes sense."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{quote(text)} is not a duration; write 250ms, 10s, 5m or a number of seconds")
    seconds = float(found[1]) * _MILLISECONDS[found[2]] / 1000
    if seconds > _LONGEST:
        raise ValueError(f"{quote(text)} is too long; at most {_LONGEST_SHOWN}")
    if seconds == 0 and not zero:
        raise ValueError("must be more than 0")
    return seconds


def show_duration(seconds: float) -> str:
    """The duration in a form that `duration` reads back."""
    if seconds >= 120 and seconds % 60 == 0:
        return f"{seconds / 60:.0f}m"
    if seconds == 0 or seconds >= 1:
        return f"{seconds:.12g}s"
    return f"{seconds * 1000:.12f}".rstrip("0").rstrip(".") + "ms"


_UNITS = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10}
_LARGEST = 512 * 2**30
_SIZE = re.compile(r"([0-9]+)(KiB|MiB|GiB|TiB|PiB|EiB)?")


def size(text: str, *, least: int = 0) -> int:
    """Bytes of `64KiB`, `4MiB`, `1GiB` or a number of bytes."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{quote(text)} is not a size; write 64KiB, 4MiB or a number of bytes")
    number, unit = found.groups()
    # Python refuses to read numbers of thousands of digits.
    if len(number) > 15 or unit not in (None, *_UNITS) or int(number) * _UNITS.get(unit, 1) > _LARGEST:
        raise ValueError(f"{quote(text)} is too large; at most {show_size(_LARGEST)}")
    bytes_ = int(number) * _UNITS.get(unit, 1)
    if bytes_ < least:
        raise ValueError(f"must be at least {show_size(least)}")
    return bytes_


def show_size(bytes_: int) -> str:
    """The size in a form that `size` reads back."""
    for unit, factor in _UNITS.items():
        if bytes_ and bytes_ % factor == 0:
            return f"{bytes_ // factor}{unit}"
    return str(bytes_)


_MOST = 999_999_999


def count(text: str) -> int:
    """A whole number from 1."""
    if not re.fullmatch("[0-9]+", text) or not text.strip("0"):
        raise ValueError(f"{quote(text)} is not a whole number from 1")
    if len(text) > len(str(_MOST)):
        raise ValueError(f"{quote(text)} is too large; at most {_MOST}")
    return int(text)
