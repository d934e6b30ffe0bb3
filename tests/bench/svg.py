"""Line plots as SVG, of the few forms that the figures here need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, TOP = 900, 260, 60, 40
COLOURS = ("#8a4b08", "#1f5fbf", "#176c33", "#b3261e", "#6b3fa0")
DASHES = ("none", "none", "none", "6 4", "2 3")


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]
    style: int  # of COLOURS and DASHES


@dataclass(frozen=True)
class Panel:
    """`ticks` of the horizontal axis are its ends as well; the vertical one begins at 0."""

    title: str
    lines: Sequence[Line]
    ticks: Sequence[float]
    logarithmic: bool = False

    def draw(self, y: int) -> str:
        top = _round_up(max(value for line in self.lines for _, value in line.points))
        first, last = (self._scale(tick) for tick in (self.ticks[0], self.ticks[-1]))

        def x_of(value: float) -> float:
            return LEFT + (WIDTH - LEFT - 20) * (self._scale(value) - first) / (last - first)

        def y_of(value: float) -> float:
            return y + TOP + HEIGHT * (1 - value / top)

        parts = [_text(LEFT, y + 20, self.title, weight="bold")]
        for share in (0, 0.5, 1):
            at = y_of(top * share)
            parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - 20}" stroke="#d5dbe1"/>')
            parts.append(_text(LEFT - 8, at + 4, f"{top * share:g}", anchor="end"))
        parts += [_text(x_of(t), y + TOP + HEIGHT + 18, f"{t:g}", anchor="middle") for t in self.ticks]
        for number, line in enumerate(self.lines):
            style = f'stroke="{COLOURS[line.style]}" stroke-dasharray="{DASHES[line.style]}"'
            path = "L".join(f"{x_of(a):.1f} {y_of(b):.1f}" for a, b in line.points)
            parts.append(f'<path d="M{path}" fill="none" stroke-width="2" {style}/>')
            below = y + TOP + HEIGHT + 40 + 18 * number
            parts.append(f'<path d="M{LEFT} {below - 4}h30" stroke-width="2" {style}/>')
            parts.append(_text(LEFT + 40, below, line.name))
        return "\n".join(parts)

    @property
    def height(self) -> int:
        return TOP + HEIGHT + 60 + 18 * len(self.lines)

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def document(*panels: Panel) -> str:
    """The panels one below the other."""
    parts, y = [], 0
    for panel in panels:
        parts.append(panel.draw(y))
        y += panel.height
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="sans-serif" '
        f'font-size="13" fill="#1b2026">\n<path d="M0 0H{WIDTH}V{y}H0z" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{text}</text>'


def _round_up(value: float) -> float:
    power: float = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)
