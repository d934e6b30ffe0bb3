"""Plots as SVG, readable on light and dark pages. Pure, and without a dependency."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tests.bench.figures import FIXED, PRODUCT, Figures, Samples, Spread, spread

_WIDTH = 760
_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif"
# Colours that can be told apart with any colour vision (Okabe and Ito's palette), on either page.
_LINES = ("#d55e00", "#0072b2", "#7a7a7a", "#009e73", "#cc79a7", "#b8860b")
_STYLE = f"""<style>
text {{ {_FONT}; font-size: 12px; fill: #24292f; }}
.title {{ font-size: 15px; font-weight: 600; }}
.ours {{ font-weight: 600; }}
.quiet {{ fill: #57606a; }}
.grid {{ stroke: #d0d7de; stroke-width: 1; }}
.whisker {{ stroke: #24292f; stroke-width: 1.5; }}
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


def cpu_plot(figures: Figures, tokens: Mapping[str, str]) -> str:
    """Bars of the CPU that a GET costs each party, the cheapest first, https above http.

    `tokens` says where each one's bearer comes from: who has no token logic is marked.
    """
    schemes = sorted(figures, reverse=True)
    found = {
        party: [spread(figures[scheme][party]["get.cpu_us"]) for scheme in schemes]
        for party in figures[schemes[0]]
        if all(figures[scheme].get(party, {}).get("get.cpu_us") for scheme in schemes)
    }
    ranked = dict(sorted(found.items(), key=lambda pair: pair[1][0].median))
    labels = {name: f"{name}, {FIXED}" if tokens[name] == FIXED else name for name in ranked}
    return _bars("CPU of a proxied GET of 3 KB, µs (less is better)", ranked, labels, schemes)


def growth_plot(growth: Mapping[str, Samples]) -> str:
    """Lines of the CPU that a GET costs, over the number of connections."""
    curves = {
        name: [(int(point), spread(values).median) for point, values in curve.items()]
        for name, curve in growth.items()
    }
    return _lines("CPU of a proxied GET of 3 KB over https, µs, by number of connections", curves)


def _bars(
    title: str, rows: Mapping[str, Sequence[Spread]], labels: Mapping[str, str], series: Sequence[str]
) -> str:
    left, top, thick, gap = 170, 66, 14, 12
    step = thick * len(series) + gap
    bottom = top + step * len(rows)
    ticks = _ticks(max(bar.high for bars in rows.values() for bar in bars))
    scale = (_WIDTH - left - 70) / ticks[-1]
    parts = [_text(16, 26, title, "title"), *_legend(series, left, 48)]
    for tick in ticks:
        x = left + tick * scale
        parts += [_line(x, top - 6, x, bottom, "grid"), _text(x, bottom + 16, f"{tick:g}", "quiet", "middle")]
    for row, (name, bars) in enumerate(rows.items()):
        ours = " ours" if name == PRODUCT else ""
        y = top + row * step
        middle = y + thick * len(bars) / 2
        parts.append(_text(left - 8, middle + 4, labels[name], ours.strip(), "end"))
        for number, bar in enumerate(bars):
            parts += _bar(left, y + number * thick, thick - 2, scale, bar, f"bar{number}{ours}")
    return _document(title, bottom + 28, parts)


def _bar(left: float, y: float, thick: float, scale: float, bar: Spread, kind: str) -> Iterable[str]:
    end, middle = left + bar.median * scale, y + thick / 2
    yield f'<rect x="{left}" y="{y:.1f}" width="{bar.median * scale:.1f}" height="{thick}" class="{kind}"/>'
    yield _line(left + bar.low * scale, middle, left + bar.high * scale, middle, "whisker")
    yield _text(max(end, left + bar.high * scale) + 5, middle + 4, f"{bar.median:.0f}", "quiet")


def _legend(series: Sequence[str], x: float, y: float) -> Iterable[str]:
    for number, name in enumerate(series):
        at = x + 150 * number
        yield f'<rect x="{at}" y="{y - 9}" width="10" height="10" class="bar{number}"/>'
        yield _text(at + 15, y, f"upstream over {name}", "quiet")


def _lines(title: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    left, right, top, bottom = 56, _WIDTH - 24, 50, 330
    points = sorted({point for curve in curves.values() for point, _ in curve})
    ticks = _ticks(max(cost for curve in curves.values() for _, cost in curve))
    decades = math.log10(points[-1] / points[0]) or 1

    def x(point: int) -> float:
        return left + (right - left) * math.log10(point / points[0]) / decades

    def y(cost: float) -> float:
        return bottom - (bottom - top) * cost / ticks[-1]

    parts = [_text(16, 26, title, "title")]
    for tick in ticks:
        parts += [_line(left, y(tick), right, y(tick), "grid")]
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:g}", "quiet", "end"))
    parts += [_text(x(point), bottom + 18, f"{point:,}", "quiet", "middle") for point in _apart(points)]
    for number, (name, curve) in enumerate(curves.items()):
        colour, height = _LINES[number % len(_LINES)], bottom + 44 + 18 * number
        path = " ".join(f"{x(point):.1f},{y(cost):.1f}" for point, cost in sorted(curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(point):.1f}" cy="{y(cost):.1f}" r="3" fill="{colour}"/>' for point, cost in curve
        ]
        parts.append(f'<rect x="{left}" y="{height - 6}" width="16" height="3" fill="{colour}"/>')
        parts.append(_text(left + 24, height, name, "ours" if name.startswith(PRODUCT) else ""))
    return _document(title, bottom + 44 + 18 * len(curves), parts)


def _apart(points: Sequence[int]) -> list[int]:
    """Those that are no neighbours of the one before, so that their labels do not touch."""
    shown: list[int] = []
    for point in points:
        if not shown or point / shown[-1] >= 1.8:
            shown.append(point)
    return shown


def _ticks(highest: float) -> list[float]:
    """From zero in four to eight round steps to above the highest."""
    rough = max(highest, 1e-9) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(math.ceil(highest / step) + 1)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _document(title: str, height: float, parts: Iterable[str]) -> str:
    box = f'viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *parts, "</svg>"]) + "\n"
