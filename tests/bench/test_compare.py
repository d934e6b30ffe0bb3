import pytest

from tests.bench.compare import Change, changes, told
from tests.bench.figures import FIGURES, Figures

GUARDED = "get.cpu_us"
BASELINE = [200.0, 200.0, 200.0, 200.0, 200.0]
RECORDED = [48.0, 49.0, 50.0, 51.0, 52.0]


def run(product: list[float], baseline: list[float] = BASELINE, scheme: str = "https") -> Figures:
    return {scheme: {"fumage-proxy": {GUARDED: product}, "aiohttp": {GUARDED: baseline}}}


def only_change(now: Figures, then: Figures) -> Change:
    (change,) = changes(now, then, product="fumage-proxy", baseline="aiohttp")
    return change


@pytest.mark.parametrize(
    ("now", "lost"),
    [
        pytest.param([48.0, 49.0, 50.0, 51.0, 52.0], False, id="the same"),
        pytest.param([30.0, 31.0, 32.0, 33.0, 34.0], False, id="better"),
        pytest.param([55.0, 56.0, 57.0, 58.0, 59.0], False, id="14 % worse"),
        pytest.param([56.0, 57.0, 58.0, 59.0, 60.0], True, id="16 % worse"),
        pytest.param([48.0, 50.0, 58.0, 80.0, 90.0], False, id="16 % worse, but within the spread"),
        pytest.param([49.0, 50.0, 51.0, 90.0, 95.0], False, id="two bad rounds of five"),
        pytest.param([58.0], True, id="one round, 16 % worse"),
    ],
)
def test_more_than_15_percent_that_is_no_noise_is_a_loss(now: list[float], lost: bool) -> None:
    baseline = BASELINE[: len(now)]
    assert only_change(run(now, baseline), run(RECORDED)).lost is lost


def test_a_machine_that_is_slower_for_both_has_lost_nothing() -> None:
    slower = run([value * 3 for value in RECORDED], [value * 3 for value in BASELINE])
    change = only_change(slower, run(RECORDED))
    assert change.loss == pytest.approx(0)
    assert not change.lost


def test_a_loss_is_told_as_a_part_of_what_was_recorded() -> None:
    assert only_change(run([60.0] * 5), run([50.0] * 5)).loss == pytest.approx(0.2)


def test_what_only_one_run_has_measured_is_not_compared() -> None:
    both = {"product": "fumage-proxy", "baseline": "aiohttp"}
    assert changes(run(RECORDED, scheme="http"), run(RECORDED), **both) == []
    assert changes({"https": {"fumage-proxy": {GUARDED: RECORDED}}}, run(RECORDED), **both) == []


def test_memory_after_other_loads_is_not_compared() -> None:
    def after(*loads: str) -> Figures:
        figures = dict.fromkeys((*loads, "rss.loaded"), RECORDED)
        return {"https": {"fumage-proxy": figures, "aiohttp": figures}}

    def compared(now: Figures, then: Figures) -> list[str]:
        return [one.figure for one in changes(now, then, product="fumage-proxy", baseline="aiohttp")]

    assert compared(after("get.cpu_us"), after("get.cpu_us", "bulk.cpu_gb")) == ["get.cpu_us"]
    assert compared(after("get.cpu_us"), after("get.cpu_us")) == ["get.cpu_us", "rss.loaded"]


def test_the_table_names_what_was_lost_and_what_may_be_noise() -> None:
    lost = only_change(run([60.0] * 5), run(RECORDED))
    noisy = only_change(run([48.0, 50.0, 58.0, 80.0, 90.0]), run(RECORDED))
    lines = told([lost, noisy]).splitlines()
    title = FIGURES[GUARDED].title
    assert lines[2] == f"| https | {title} | 0.250 (0.245 to 0.255) | 0.300 (0.300 to 0.300) | +20% | LOST |"
    assert lines[3].endswith("| +16% | noise? |")
