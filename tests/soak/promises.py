"""What the soak holds the proxy to: both sides' notes of one request, laid side by side. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak import REPLAY_LIMIT

# Fates after which Fumage's connection ended without an answer, or in the middle of one.
_SILENT = ("silent-early", "silent-late", "arriving")
_BROKEN = (*_SILENT, "cut-head", "cut-body")
_ANSWERS = {"own-503": 503, "early-422": 422, "401": 401}  # all others: 200 or 201

_RESTART_SLACK = 0.25  # s
_OUTAGE_SLACK = 10.0  # s of backoff after a few token requests that failed

Windows = Sequence[Sequence[float]]


@dataclass
class Sent:
    """One request as its caller saw it."""

    method: str
    size: int  # of its body
    began: float
    ended: float = 0.0
    # "answer", "cut" (broken off in the middle), "none" (not a byte came), "left" (on purpose)
    outcome: str = "left"
    status: int = 0
    own: bool = False  # the answer was the proxy's own
    error: str = ""  # and of its Proxy-Status
    details: str = ""
    wrong: str = ""  # what was wrong with the answer as such

    @property
    def kind(self) -> str:
        if self.outcome != "answer":
            return self.outcome
        if not self.own:
            return f"{self.status} of Fumage"
        return f"{self.status} {self.error} {self.details}".strip()


@dataclass
class Fate:
    """One arrival at Fumage; see tests/soak/fumage.py."""

    name: str
    applied: bool
    kept: bool


@dataclass
class Notes:
    """All that Fumage and the EMR noted."""

    fates: dict[int, list[Fate]]
    restarts: Windows = ()
    outages: Windows = ()
    lost_posts: list[int] = field(default_factory=list)  # see `_lost`

    def restarting(self, sent: Sent) -> bool:
        return _overlap(sent, self.restarts, _RESTART_SLACK)

    def outage(self, sent: Sent) -> bool:
        return _overlap(sent, self.outages, _OUTAGE_SLACK)


def _overlap(sent: Sent, windows: Windows, slack: float) -> bool:
    return any(sent.began <= end + slack and begin <= sent.ended for begin, end in windows)


def broken_promises(number: int, sent: Sent, notes: Notes) -> list[str]:
    """Each as a sentence; none is what should be."""
    fates = notes.fates.get(number, [])
    found = [_doubled(sent, fates), sent.wrong or None, _outcome(number, sent, fates, notes)]
    told = f"request {number} ({sent.method}, {sent.kind}; at Fumage: {[fate.name for fate in fates]})"
    return [f"{told}: {what}" for what in found if what]


def _doubled(sent: Sent, fates: list[Fate]) -> str | None:
    arrived = [fate for fate in fates if fate.name != "401"]
    if sum(fate.name == "401" for fate in fates) > 2:
        return "it was sent with a third token"
    if sent.method == "POST":
        if sum(fate.applied for fate in fates) > 1:
            return "a POST was carried out twice"
        if len(arrived) > 1:
            return "a POST was sent again although it had not been rejected"
    elif any(fate.name not in _BROKEN for fate in arrived[:-1]):
        return "it was sent again although it had been answered"
    return None


def _outcome(number: int, sent: Sent, fates: list[Fate], notes: Notes) -> str | None:
    if sent.outcome == "left":
        return None
    if sent.outcome == "none":
        return "it got no answer at all"
    last = fates[-1] if fates else None
    if sent.outcome == "cut":
        if (last and last.name == "cut-body") or notes.restarting(sent):
            return None
        return "its answer was broken off, and Fumage had not done that"
    if not sent.own:
        return _forwarded(sent, last)
    return _error(number, sent, fates, notes)


def _forwarded(sent: Sent, last: Fate | None) -> str | None:
    if last is None:
        return "it got an answer of Fumage, which has not seen it"
    headed = sent.method == "HEAD" and last.name == "cut-body"  # its answer is whole with its head
    if last.name in (*_BROKEN, "garbage", "hang") and not headed:
        return "it got a whole answer of Fumage, which has not given one"
    wanted = _ANSWERS.get(last.name, 201 if sent.method == "POST" else 200)
    if sent.status != wanted:
        return f"Fumage had answered {wanted}"
    if sent.status == 201 and not last.applied:
        return "a POST was answered that was not carried out"
    return None


def _error(number: int, sent: Sent, fates: list[Fate], notes: Notes) -> str | None:
    last = fates[-1] if fates else None
    name = last.name if last else ""
    if sent.details == "not-sent" and any(fate.applied for fate in fates):
        return "it was called not-sent, and was carried out"
    match sent.status, sent.error, sent.details:
        case 502, "connection_terminated", _:
            return _lost(number, sent, last, notes)
        case 502, "connection_refused", _:
            allowed = notes.restarting(sent)
        case 502, "http_protocol_error", _:
            allowed = name == "garbage"
        case 504, "http_response_timeout", _:
            allowed = name == "hang"
        case 503, "destination_unavailable", "token-endpoint":
            allowed = notes.outage(sent)
        case 503, "destination_unavailable", "token-renewed":
            allowed = name == "401" and sent.size > REPLAY_LIMIT
        case _:
            allowed = False
    return None if allowed else "nothing at Fumage or the EMR explains this error"


def _lost(number: int, sent: Sent, last: Fate | None, notes: Notes) -> str | None:
    if notes.restarting(sent):
        return None
    if sent.method == "POST":
        if last is None or last.name == "401":
            # Fumage closed an idle connection just then: rare, and told to the caller. The sum is bounded.
            notes.lost_posts.append(number)
            return None
        return None if last.name in _BROKEN else "Fumage had answered it"
    if last is None or last.name == "401" or (last.name in _SILENT and last.kept):
        return f"a {sent.method} was lost to a stale connection"
    return None if last.name in _BROKEN else "Fumage had answered it"
