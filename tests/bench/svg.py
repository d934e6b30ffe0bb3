"""Plots as SVG, readable on light and dark pages. Pure, and without a dependency."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"
# Colours that can be told apart with any colour vision (Okabe and Ito's palette), on either page.
COLOURS = ("#d55e00", "#0072b2", "#7a7a7a", "#009e73", "#cc79a7", "#b8860b")
_STYLE = f"""<style>
text {{ {_FONT}; font-size: 12px; fill: #24292f; }}
.title {{ font-size: 15px; font-weight: 600; }}
.ours {{ font-weight: 600; }}
.quiet {{ fill: #57606a; }}
.grid {{ stroke: #d0d7de; stroke-width: 1; }}
.whisker {{ stroke: #24292f; stroke-width: 1.5; }}
.curve {{ fill: none; stroke-width: 2; }}
.bar0 {{ fill: #8c959f; }}
.bar1 {{ fill: #c6ccd2; }}
.ours.bar0 {{ fill: #d55e00; }}
.ours.bar1 {{ fill: #f0a35e; }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #e6edf3; }}
  .quiet {{ fill: #9198a1; }}
  .grid {{ stroke: #3d444d; }}
  .whisker {{ stroke: #e6edf3; }}
  .bar1 {{ fill: #59636e; }}
  .ours.bar1 {{ fill: #8f4a12; }}
}}
</style>"""

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, WIDTH - 24, 50, 330  # of the area of a panel


@dataclass(frozen=True)
class Line:
    """`colour` is of COLOURS; `ours` makes its name bold."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashed: bool = False
    ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over one horizontal axis with these labels. The vertical axis begins at 0."""

    title: str
    lines: Sequence[Line]
    labels: Sequence[float]
    logarithmic: bool = False
    dots: bool = False  # on the points, for few of them

    @property
    def height(self) -> float:
        return _BOTTOM + 44 + 18 * len(self.lines)

    def draw(self, above: float) -> Iterable[str]:
        """The parts of the panel, `above` its top being what stands there already."""
        steps = ticks(max(value for line in self.lines for _, value in line.points))
        places = [*self.labels, *(place for line in self.lines for place, _ in line.points)]
        first, last = self._scale(min(places)), self._scale(max(places))

        def x(place: float) -> float:
            return _LEFT + (_RIGHT - _LEFT) * (self._scale(place) - first) / (last - first or 1)

        def y(value: float) -> float:
            return above + _BOTTOM - (_BOTTOM - _TOP) * value / steps[-1]

        yield text(16, above + 26, self.title, "title")
        for step in steps:
            yield line(_LEFT, y(step), _RIGHT, y(step), "grid")
            yield text(_LEFT - 8, y(step) + 4, f"{step:g}", "quiet", "end")
        for label in self.labels:
            yield text(x(label), above + _BOTTOM + 18, f"{label:,g}", "quiet", "middle")
        for number, each in enumerate(self.lines):
            dots = [(x(place), y(value)) for place, value in each.points]
            yield from _curve(each, dots, visible=self.dots)
            yield from _entry(each, above + _BOTTOM + 44 + 18 * number)

    def _scale(self, place: float) -> float:
        return math.log10(place) if self.logarithmic else place


def _curve(each: Line, dots: Sequence[tuple[float, float]], *, visible: bool) -> Iterable[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
    yield f'<polyline points="{path}" class="curve" {_stroke(each)}/>'
    for x, y in dots if visible else ():
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{each.colour}"/>'


def _entry(each: Line, y: float) -> Iterable[str]:
    yield f'<path d="M{_LEFT} {y - 4:.1f}h18" class="curve" {_stroke(each)}/>'
    yield text(_LEFT + 24, y, each.name, "ours" if each.ours else "")


def _stroke(each: Line) -> str:
    return f'stroke="{each.colour}"' + (' stroke-dasharray="5 3"' if each.dashed else "")


def stacked(*panels: Panel) -> str:
    """The panels one below the other."""
    parts: list[str] = []
    height = 0.0
    for panel in panels:
        parts += panel.draw(height)
        height += panel.height
    return document("; ".join(panel.title for panel in panels), height, parts)


def ticks(highest: float) -> list[float]:
    """From zero in four to eight round steps to above the highest."""
    rough = max(highest, 1e-9) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def text(x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def document(title: str, height: float, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *parts, "</svg>"]) + "\n"
