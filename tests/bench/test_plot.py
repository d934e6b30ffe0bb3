import re
from xml.etree import ElementTree

import pytest

from tests.bench.figures import FETCHED, FIXED
from tests.bench.plot import _apart, cpu_plot, growth_plot
from tests.bench.svg import Line, Panel, stacked, ticks

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = {
    "http": {
        "fumage-proxy": {"get.cpu_us": [30.0, 40.0]},
        "nginx": {"get.cpu_us": [15.0, 15.0]},
        "late": {"get.cpu_us": [1.0]},
    },
    "https": {"fumage-proxy": {"get.cpu_us": [40.0, 50.0]}, "nginx": {"get.cpu_us": [20.0, 20.0]}},
}
TOKENS = {"fumage-proxy": FETCHED, "nginx": FIXED, "late": FETCHED}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bars_stand_in_the_order_of_their_cost_and_say_who_has_no_token_logic() -> None:
    said = texts(cpu_plot(FIGURES, TOKENS))
    assert said.index("nginx, fixed header") < said.index("fumage-proxy")
    assert "45" in said
    assert "20" in said


def test_who_was_not_measured_over_both_schemes_has_no_bar() -> None:
    assert "late" not in texts(cpu_plot(FIGURES, TOKENS))


def test_bars_are_as_long_as_what_they_say() -> None:
    bars = ElementTree.fromstring(cpu_plot(FIGURES, TOKENS)).findall(f"{SVG}rect[@x='170']")
    widths = [float(bar.get("width", "")) for bar in bars if bar.get("height") == "12"]
    nginx_https, nginx_http, ours_https, ours_http = widths
    assert nginx_http / nginx_https == pytest.approx(15 / 20, abs=0.01)
    assert ours_https / ours_http == pytest.approx(45 / 35, abs=0.01)


def test_lines_end_at_the_edges_of_the_plot_and_rise_with_the_cost() -> None:
    svg = growth_plot({"fumage-proxy: callers": {"1": [80.0], "1000": [40.0]}})
    points = re.search(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', svg)
    assert points is not None
    x1, y1, x2, y2 = map(float, points.groups())
    assert (x1, x2) == (56, 736)
    assert y1 < y2  # downwards is less
    assert "1,000" in texts(svg)


def test_panels_stand_one_below_the_other_and_each_has_its_own_scale() -> None:
    rising = Line("a", [(0, 0), (2, 10)], "#000000")
    falling = Line("b", [(1, 100), (10, 0)], "#000000", dashed=True)
    upper, lower = Panel("A", [rising], [0, 2, 4]), Panel("B", [falling], [1, 10], logarithmic=True)
    root = ElementTree.fromstring(stacked(upper, lower))
    ends = [curve.get("points") for curve in root.iter(f"{SVG}polyline")]
    assert ends == ["56.0,330.0 396.0,50.0", "56.0,442.0 736.0,722.0"]
    assert root.get("viewBox") == "0 0 760 784"
    dashes = [curve.get("stroke-dasharray") for curve in root.iter(f"{SVG}polyline")]
    assert [bool(dash) for dash in dashes] == [False, True]


def test_a_plot_has_colours_for_dark_pages() -> None:
    for svg in (cpu_plot(FIGURES, TOKENS), growth_plot({"a": {"1": [1.0], "10": [2.0]}})):
        assert "prefers-color-scheme: dark" in svg


def test_a_name_cannot_break_the_markup() -> None:
    assert "<b>: callers" in texts(growth_plot({"<b>: callers": {"1": [1.0], "2": [1.0]}}))


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (181, [0, 50, 100, 150, 200]),
        (50, [0, 10, 20, 30, 40, 50]),
        (0.7, [0, 0.2, 0.4, 0.6, 0.8]),
        (11, [0, 2.5, 5, 7.5, 10, 12.5]),
    ],
)
def test_ticks_are_round_and_reach_the_highest(highest: float, expected: list[float]) -> None:
    assert ticks(highest) == pytest.approx(expected)


def test_labels_of_points_keep_apart() -> None:
    assert _apart([1, 4, 10, 16, 30, 64, 100, 256, 300, 1000]) == [1, 4, 10, 30, 64, 256, 1000]
