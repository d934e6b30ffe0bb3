"""The guard against regressions: this run against a recorded one, each by its ratio to the baseline. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.bench.figures import FIGURES, Figures, Spread, ratios

_LOADS = ("get.cpu_us", "post.cpu_us", "bulk.cpu_gb")
_AFTER_LOADS = "rss.loaded"
GUARDED = (*_LOADS, _AFTER_LOADS, "start.ms")  # less is better
LIMIT = 0.15
ROUNDS = 3  # with fewer there is no spread to tell a loss from noise by


@dataclass(frozen=True)
class Change:
    """A figure of the product, as a ratio to the baseline in the same run."""

    scheme: str
    figure: str
    then: Spread
    now: Spread

    @property
    def loss(self) -> float:
        """0.2: a fifth more than in the recorded run."""
        return self.now.median / self.then.median - 1

    @property
    def lost(self) -> bool:
        """More than the limit, and more than noise: the quartiles of the two runs do not overlap."""
        return self.loss > LIMIT and self.now.low > self.then.high


def changes(now: Figures, then: Figures, *, product: str, baseline: str) -> list[Change]:
    """Of all guarded figures that both runs have; of memory after load, if both had the same loads."""
    recorded, current = (_ratios(figures, product, baseline) for figures in (then, now))
    return [
        Change(*which, then=recorded[which], now=ratio)
        for which, ratio in current.items()
        if which in recorded
        and (which[1] != _AFTER_LOADS or _loads(current, which[0]) == _loads(recorded, which[0]))
    ]


def _loads(found: Iterable[tuple[str, str]], scheme: str) -> set[str]:
    return {figure for its, figure in found if its == scheme and figure in _LOADS}


def _ratios(figures: Figures, product: str, baseline: str) -> dict[tuple[str, str], Spread]:
    return {
        (scheme, figure): ratios(parties[product][figure], parties[baseline][figure])
        for scheme, parties in figures.items()
        for figure in GUARDED
        if figure in parties.get(product, {}) and figure in parties.get(baseline, {})
    }


def told(found: Sequence[Change]) -> str:
    """A Markdown table of them."""
    lines = [
        "| upstream | to the baseline | recorded | now | change | |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        verdict = "LOST" if one.lost else "noise?" if one.loss > LIMIT else ""
        lines.append(
            f"| {one.scheme} | {FIGURES[one.figure].title} | {_range(one.then)} | {_range(one.now)} "
            f"| {one.loss:+.0%} | {verdict} |"
        )
    return "\n".join(lines)


def _range(of: Spread) -> str:
    return f"{of.median:.3f} ({of.low:.3f} to {of.high:.3f})"
