import json

import pytest

from tests.bench.figures import FETCHED, FIXED, Results
from tests.bench.machine import ROOT
from tests.bench.save import as_json, with_part
from tests.bench.table import (
    circumstances,
    figures_table,
    growth_table,
    readme_part,
    relay_table,
    report,
)


@pytest.fixture
def results() -> Results:
    return Results(
        machine={
            "processor": "Some CPU",
            "cores": 2,
            "kernel": "6.1",
            "load_before": 0.1,
            "date": "2026-01-02",
        },
        python={
            "implementation": "CPython",
            "version": "3.13.5",
            "optimised": "yes",
            "compiled": "yes",
            "uvloop": "0.23.0",
            "httptools": "0.9.0",
            "aiohttp": "3.14.5",
            "openssl": "OpenSSL 3.5.1",
        },
        versions={"nginx": "1.22.1", "wrk": "4.1.0"},
        plan={"rounds": 2, "seconds": 3, "connections": 32},
        tokens={"fumage-proxy": FETCHED, "nginx": FIXED, "go": FETCHED},
        skipped={"go": "no go on the path"},
        figures={
            "https": {
                "fumage-proxy": {
                    "get.cpu_us": [40.0, 42.0],
                    "get.requests": [20_000.4, 21_000.0],
                    "rss.loaded": [44.4],
                },
                "nginx": {"get.cpu_us": [20.0, 21.0], "start.ms": [25.0]},
            }
        },
        relay={"through the proxy": [31.0, 33.0, 80.0]},
        growth={"callers": {"1": [80.0], "32": [40.0, 44.0]}, "pool": {"32": [41.0]}},
    )


def test_a_table_has_the_ratio_to_the_proxy_and_the_spread(results: Results) -> None:
    table = figures_table(
        results["figures"]["https"], results["tokens"], ("get.cpu_us", "to ours", "get.requests", "bulk.mb")
    )
    assert table.splitlines() == [
        "|  | bearer | GET 3 KB, µs CPU | to ours | GET/s |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| fumage-proxy | client credentials | 41.0 ± 0.5 | 1.00 | 20,500 |",
        "| nginx | fixed header | 20.5 ± 0.2 | 0.50 | - |",
    ]


def test_without_the_proxy_there_is_no_ratio_to_it(results: Results) -> None:
    del results["figures"]["https"]["fumage-proxy"]
    table = figures_table(results["figures"]["https"], results["tokens"], ("get.cpu_us", "to ours"))
    assert "to ours" not in table


def test_the_relays_table_has_a_line_a_way(results: Results) -> None:
    assert relay_table(results["relay"]).splitlines()[2] == "| through the proxy | 33 | 31 | 80 |"


def test_curves_that_have_other_points_share_a_table(results: Results) -> None:
    assert growth_table(results["growth"]).splitlines() == [
        "| µs CPU a GET over https, by connections | 1 | 32 |",
        "| --- | ---: | ---: |",
        "| callers | 80 | 42 |",
        "| pool |  | 41 |",
    ]


def test_the_report_says_what_the_figures_belong_to_and_who_is_missing(results: Results) -> None:
    text = report(results)
    assert circumstances(results) in text
    assert "CPython 3.13.5 (optimised build: yes; data path compiled: yes)" in text
    assert "Left out: go (no go on the path)." in text
    assert "| MB of memory after load, https | 50 | 44.4 | 44.4 to 44.4 | reached |" in text


def test_the_report_of_a_part_of_the_measures_has_only_these(results: Results) -> None:
    results["figures"], results["growth"] = {}, {}
    headings = [line for line in report(results).splitlines() if line.startswith("## ")]
    assert headings == ["## A script without a session"]


def test_the_readmes_part_replaces_what_stood_between_the_marks(results: Results) -> None:
    readme = "before\n<!-- bench: how -->\nold\n<!-- /bench -->\nafter\n"
    part = readme_part(results)
    once = with_part(readme, part)
    assert once == f"before\n<!-- bench: how -->\n{part}\n<!-- /bench -->\nafter\n"
    assert with_part(once, part) == once


def test_our_readme_has_the_marks(results: Results) -> None:
    assert readme_part(results) in with_part((ROOT / "README.md").read_text(), readme_part(results))


def test_a_readme_without_the_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="bench"):
        with_part("nothing here", "part")


def test_a_recorded_run_has_six_digits_and_a_line_a_list(results: Results) -> None:
    results["figures"]["https"]["nginx"]["start.ms"] = [25.123456789, 26.0]
    assert '    "start.ms": [25.1235, 26.0]\n' in as_json(results)
    assert json.loads(as_json(results))["machine"] == results["machine"]
