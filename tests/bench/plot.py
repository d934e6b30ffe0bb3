"""The plots of the benchmark: what a request costs each party, and over many connections. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.figures import FIXED, PRODUCT, Figures, Samples, Spread, spread
from tests.bench.svg import COLOURS, WIDTH, Line, Panel, document, line, stacked, text, ticks


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
        name: sorted((int(point), spread(values).median) for point, values in curve.items())
        for name, curve in growth.items()
    }
    points = sorted({point for curve in curves.values() for point, _ in curve})
    lines = [
        Line(name, curve, COLOURS[number % len(COLOURS)], ours=name.startswith(PRODUCT))
        for number, (name, curve) in enumerate(curves.items())
    ]
    title = "CPU of a proxied GET of 3 KB over https, µs, by number of connections"
    return stacked(Panel(title, lines, _apart(points), logarithmic=True, dots=True))


def _bars(
    title: str, rows: Mapping[str, Sequence[Spread]], labels: Mapping[str, str], series: Sequence[str]
) -> str:
    left, top, thick, gap = 170, 66, 14, 12
    step = thick * len(series) + gap
    bottom = top + step * len(rows)
    steps = ticks(max(bar.high for bars in rows.values() for bar in bars))
    scale = (WIDTH - left - 70) / steps[-1]
    parts = [text(16, 26, title, "title"), *_legend(series, left, 48)]
    for tick in steps:
        x = left + tick * scale
        parts += [line(x, top - 6, x, bottom, "grid"), text(x, bottom + 16, f"{tick:g}", "quiet", "middle")]
    for row, (name, bars) in enumerate(rows.items()):
        ours = " ours" if name == PRODUCT else ""
        y = top + row * step
        middle = y + thick * len(bars) / 2
        parts.append(text(left - 8, middle + 4, labels[name], ours.strip(), "end"))
        for number, bar in enumerate(bars):
            parts += _bar(left, y + number * thick, thick - 2, scale, bar, f"bar{number}{ours}")
    return document(title, bottom + 28, parts)


def _bar(left: float, y: float, thick: float, scale: float, bar: Spread, kind: str) -> Iterable[str]:
    end, middle = left + bar.median * scale, y + thick / 2
    yield f'<rect x="{left}" y="{y:.1f}" width="{bar.median * scale:.1f}" height="{thick}" class="{kind}"/>'
    yield line(left + bar.low * scale, middle, left + bar.high * scale, middle, "whisker")
    yield text(max(end, left + bar.high * scale) + 5, middle + 4, f"{bar.median:.0f}", "quiet")


def _legend(series: Sequence[str], x: float, y: float) -> Iterable[str]:
    for number, name in enumerate(series):
        at = x + 150 * number
        yield f'<rect x="{at}" y="{y - 9}" width="10" height="10" class="bar{number}"/>'
        yield text(at + 15, y, f"upstream over {name}", "quiet")


def _apart(points: Sequence[int]) -> list[int]:
    """Those that are no neighbours of the one before, so that their labels do not touch."""
    shown: list[int] = []
    for point in points:
        if not shown or point / shown[-1] >= 1.8:
            shown.append(point)
    return shown
