"""The lines that a person reads, and wrong settings, which end a check before it begins."""

import io
from pathlib import Path

import pytest

from proxy.check import run
from proxy.check.report import Report, bad, good, skipped, warning
from proxy.settings import Loaded, SettingsError
from tests.check.checking import STEPS, Told, loaded


def written(encoding: str) -> str:
    stream = io.BytesIO()
    report = Report(io.TextIOWrapper(stream, encoding=encoding))
    report.tell("one", good("all well"))
    report.tell("two", good("this works"), bad(69, "that fails at café", "Do this."), skipped("why"))
    report.tell("three", warning("hm", "Do that."))
    report.tell("four", skipped("because"))
    return stream.getvalue().decode(encoding)


def test_a_step_is_a_line_with_its_sign_and_the_worst_comes_first() -> None:
    assert written("utf-8").splitlines() == [
        "✓ one: all well",
        "✗ two: that fails at café; this works; skipped: why. Do this.",
        "! three: hm. Do that.",
        "- four: skipped: because",
    ]


def test_an_output_without_ticks_gets_words() -> None:
    assert written("ascii").splitlines() == [
        "[ok]   one: all well",
        "[FAIL] two: that fails at caf\\xe9; this works; skipped: why. Do this.",
        "[warn] three: hm. Do that.",
        "[skip] four: skipped: because",
    ]


def test_each_line_is_there_as_soon_as_its_step_is_over() -> None:
    stream = io.BytesIO()
    report = Report(io.TextIOWrapper(stream, encoding="utf-8"))
    report.tell("one", good("all well"))
    assert stream.getvalue()


def test_what_holds_for_both_hosts_is_said_once() -> None:
    out = io.StringIO()
    Report(out).tell("DNS", bad(69, "x: unknown", "Check DNS."), bad(69, "y: unknown", "Check DNS."))
    assert out.getvalue() == "✗ DNS: x: unknown; y: unknown. Check DNS.\n"


def test_the_first_failure_asks_for_the_exit_code() -> None:
    report = Report(io.StringIO())
    for finding in (good(""), skipped(""), warning("", ""), bad(77, "", ""), bad(69, "", "")):
        report.tell("step", finding)
    assert report.code == 77


def wrong(load_: object, problems: list[str]) -> Told:
    out = io.StringIO()
    with pytest.raises(SettingsError) as error:
        run(load_, out)  # type: ignore[arg-type]
    assert [problem.partition(":")[0] for problem in error.value.problems] == problems
    return Told(78, out.getvalue())


def test_wrong_settings_are_a_cross_and_nothing_is_tried() -> None:
    def load() -> Loaded:
        raise SettingsError(["base_url: is missing", "client_id: is missing"])

    told = wrong(load, ["base_url", "client_id"])
    assert told.steps == list(STEPS)
    assert told.text["settings"] == "2 problems, told on standard error"
    assert list(told.mark.values()) == ["bad", *["skipped"] * 5]


def test_what_files_and_the_environment_hold_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example")
    url = "https://fumage-x.invalid"
    wrong(
        lambda: loaded(url, "https://x.invalid/", FUMAGE_PROXY_CA_FILE=str(empty)),
        ["ca_file (FUMAGE_PROXY_CA_FILE)", "environment HTTPS_PROXY"],
    )


def test_run_has_a_loop_of_its_own() -> None:
    out = io.StringIO()
    code = run(lambda: loaded("http://127.0.0.1:9", "http://127.0.0.1:9/auth/token/"), out)
    assert (code, Told(code, out.getvalue()).failed) == (69, ["TLS"])
