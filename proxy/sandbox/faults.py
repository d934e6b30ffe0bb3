"""What the sandbox gets wrong on command, and for how many requests."""

import re
from dataclasses import dataclass
from typing import Any

# What each side can be told to do. The control endpoint, the flags and their help are made from this.
KINDS: dict[str, dict[str, str]] = {
    "token_endpoint": {
        "down": "closes the connection without an answer",
        "error-500": "answers 500",
        "slow": "answers late",
        "refusing": "answers invalid_client to everybody",
        "garbage": "answers 200 with a web page instead of a token",
    },
    "fumage": {
        "slow": "answers late",
        "reset": "resets the connection (TCP RST) without an answer",
        "cut": "sends half of the announced body and closes; an answer without a body does not come",
        "always-401": "rejects every token",
        "error-500": "answers 500",
        "error-429": "answers 429 with Retry-After",
        "edge-block": "answers 403 with a web page, as an IP allow-list in front of Fumage does",
    },
}
OFF = "off"
SLOW_BY = 5.0

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}


def seconds(text: str) -> float:
    """`250ms`, `10s`, `5m` or plain seconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write 250ms, 10s, 5m, or seconds")
    return float(match[1]) * _UNITS[match[2]]


@dataclass
class _Active:
    kind: str
    left: int | None  # requests it still strikes; None: all


class Faults:
    """The faults in force. Values that make no sense raise ValueError, and then nothing has changed."""

    def __init__(
        self,
        *,
        token_endpoint: str | None = None,
        fumage: str | None = None,
        slow_by: float | str = SLOW_BY,
        times: int | str | None = None,
    ):
        self.slow_by = SLOW_BY
        self._active: dict[str, _Active] = {}
        self.set(token_endpoint=token_endpoint, fumage=fumage, slow_by=slow_by, times=times)

    def set(
        self,
        *,
        token_endpoint: str | None = None,
        fumage: str | None = None,
        slow_by: float | str | None = None,
        times: int | str | None = None,
    ) -> None:
        """Change what is named; None leaves as it is, "off" ends. `slow_by` is in seconds, or a duration
        text; `times` limits the faults named beside it to that many requests each."""
        named = {
            place: _kind(place, kind)
            for place, kind in (("token_endpoint", token_endpoint), ("fumage", fumage))
            if kind is not None
        }
        limit = _times(times)
        if limit is not None and not any(kind != OFF for kind in named.values()):
            raise ValueError("times needs a fault that it limits")
        if slow_by is not None:
            self.slow_by = _slow_by(slow_by)
        for place, kind in named.items():
            self._active.pop(place, None)
            if kind != OFF:
                self._active[place] = _Active(kind, limit)

    def reset(self) -> None:
        """End all faults, those that were set at start included."""
        self._active.clear()
        self.slow_by = SLOW_BY

    def take(self, place: str, *kinds: str) -> str | None:
        """The fault that strikes this request, if it is one of `kinds`; it is counted down."""
        active = self._active.get(place)
        if active is None or active.kind not in kinds:
            return None
        if active.left is not None:
            active.left -= 1
            if active.left == 0:
                del self._active[place]
        return active.kind

    def state(self) -> dict[str, Any]:
        """What is in force, as JSON; `times` is what is left."""
        shown: dict[str, Any] = dict.fromkeys(KINDS)
        for place, active in self._active.items():
            shown[place] = {"kind": active.kind, "times": active.left}
        return {**shown, "slow_by": self.slow_by}


def _kind(place: str, kind: Any) -> str:
    if not isinstance(kind, str) or kind not in (OFF, *KINDS[place]):
        raise ValueError(f"{place} knows {', '.join(KINDS[place])} and {OFF}, not {kind!r}")
    return kind


def _times(times: Any) -> int | None:
    if times is None:
        return None
    if isinstance(times, bool) or not re.fullmatch(r"[1-9]\d{0,8}", str(times), re.ASCII):
        raise ValueError(f"times is a whole number from 1 on, not {times!r}")
    return int(times)


def _slow_by(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"slow_by is a duration, not {value!r}")
    return seconds(value if isinstance(value, str) else format(value, "f"))
