import pytest

from tests.bench.figures import FIGURES, Spread, ratios, spread
from tests.bench.goals import GOALS, reached


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([7.0], Spread(7, 7, 7), id="one round has no spread"),
        pytest.param([1.0, 3.0], Spread(1.5, 2, 2.5), id="two"),
        pytest.param([5.0, 1.0, 3.0, 2.0, 4.0], Spread(2, 3, 4), id="in any order"),
        pytest.param([1.0, 1.0, 1.0, 1.0, 100.0], Spread(1, 1, 1), id="one bad round does not count"),
    ],
)
def test_a_spread_is_the_median_and_the_quartiles(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


def test_no_rounds_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_a_ratio_is_of_the_same_round_so_that_a_slow_round_is_no_spread() -> None:
    assert ratios([10, 20, 40], to=[20, 40, 80]) == Spread(0.5, 0.5, 0.5)


def test_rounds_that_do_not_belong_together_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratios([1, 2], to=[1])


def test_a_goal_is_a_figure_or_its_ratio_to_a_partys() -> None:
    figures = {
        "https": {
            "fumage-proxy": {"get.cpu_us": [30.0, 60.0], "rss.loaded": [41.0]},
            "envoy": {"get.cpu_us": [60.0, 120.0]},
        }
    }
    found = {goal.title: measured.median for goal, measured in reached(figures, "fumage-proxy")}
    assert found == {"CPU of a GET over https, to Envoy's": 0.5, "MB of memory after load, https": 41.0}


def test_goals_are_about_figures_that_there_are() -> None:
    assert {goal.figure for goal in GOALS} <= set(FIGURES)
