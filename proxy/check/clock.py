"""Our clock against the Date of an answer (RFC 9110 section 6.6.1)."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from proxy.check.report import Finding, warning

TOLERATED = 60.0  # s


def spoken(seconds: float) -> str:
    """A duration as a person says it: `45 s`, `12 min`, `10 h`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds)} s"


def skew(headers: Mapping[str, str], wall: float, who: str) -> Finding | None:
    """A warning if the answer that `who` has just sent shows that our clock is wrong."""
    try:
        date = parsedate_to_datetime(headers.get("Date", ""))
        theirs = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        theirs += int(headers.get("Age", "0"))  # a cache hands out the Date of old
    except (ValueError, OverflowError):
        return None
    ahead = wall - theirs
    if abs(ahead) <= TOLERATED:
        return None
    where = "ahead of" if ahead > 0 else "behind"
    return warning(
        f"this machine's clock is {spoken(abs(ahead))} {where} {who}'s",
        "Set it, best by NTP: certificates and expiry times are judged by it.",
    )
