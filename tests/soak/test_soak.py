"""A short soak in the normal run, and the proof that a broken promise would be seen."""

from pathlib import Path

import pytest

from tests.soak.__main__ import soak
from tests.soak.promises import Fate, Notes, Sent, broken_promises


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_ten_seconds_of_random_faults_break_no_promise(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = await soak(seconds=10, seed=1, rate=60, folder=tmp_path, scheme=scheme)
    assert code == 0, capsys.readouterr().out


def sent(
    method: str = "GET", outcome: str = "answer", status: int = 200, error: str = "", details: str = ""
) -> Sent:
    return Sent(method, 10, 10.0, 11.0, outcome, status, bool(error), error, details)


def lost(method: str = "GET", details: str = "outcome-unknown") -> Sent:
    return sent(method, status=502, error="connection_terminated", details=details)


OK, OK_KEPT, REJECTED = Fate("ok", True, False), Fate("ok", True, True), Fate("401", False, True)
STALE, FRESH = Fate("silent-early", False, True), Fate("silent-early", False, False)
ACTED, CUT = Fate("silent-late", True, False), Fate("cut-body", True, False)

KEPT = {
    "an answer": (sent(), [OK]),
    "a GET after a stale connection": (sent(), [STALE, OK]),
    "a GET after a 401": (sent(), [REJECTED, OK_KEPT]),
    "a POST after a 401": (sent("POST", status=201), [REJECTED, OK_KEPT]),
    "a GET lost on a new connection": (lost(), [FRESH]),
    "a POST lost": (lost("POST"), [ACTED]),
    "a POST lost to an idle close": (lost("POST"), []),
    "an answer that broke off": (sent(outcome="cut"), [CUT]),
    "one who left": (sent("POST", outcome="left"), [OK]),
}

BROKEN = {
    "no answer": (sent(outcome="none"), [OK], "no answer at all"),
    "a POST twice": (sent("POST", status=201), [OK, OK], "carried out twice"),
    "a POST twice, unseen": (sent("POST", outcome="left"), [ACTED, OK], "carried out twice"),
    "a POST sent again": (sent("POST", status=201), [STALE, OK], "had not been rejected"),
    "a POST that was called not-sent": (lost("POST", "not-sent"), [ACTED], "was carried out"),
    "a POST answered for nothing": (sent("POST", status=201), [Fate("ok", False, True)], "not carried out"),
    "a GET lost": (lost(), [STALE], "lost to a stale connection"),
    "a GET lost, unseen": (lost(), [], "lost to a stale connection"),
    "a GET sent again": (sent(), [OK, OK], "although it had been answered"),
    "an answer of nobody": (sent(), [], "has not seen it"),
    "a whole answer from a broken one": (sent(), [CUT], "has not given one"),
    "a broken answer from a whole one": (sent(outcome="cut"), [OK], "Fumage had not done that"),
    "another status": (sent(status=404), [OK], "Fumage had answered 200"),
    "an answer thrown away": (lost(), [OK], "Fumage had answered it"),
    "an error for nothing": (sent(status=504, error="http_response_timeout"), [OK], "explains this error"),
    "a defect": (sent(status=500, error="proxy_internal_error"), [OK], "explains this error"),
    "a rejection passed on": (sent(status=401), [REJECTED, OK], "Fumage had answered 200"),
    "a third token": (sent(), [REJECTED, REJECTED, REJECTED, OK], "third token"),
    "no token, without an outage": (
        sent(status=503, error="destination_unavailable", details="token-endpoint"),
        [],
        "explains this error",
    ),
}


@pytest.mark.parametrize(("one", "fates"), KEPT.values(), ids=KEPT)
def test_what_the_contract_allows_is_no_broken_promise(one: Sent, fates: list[Fate]) -> None:
    assert broken_promises(7, one, Notes({7: fates})) == []


@pytest.mark.parametrize(("one", "fates", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_seen(one: Sent, fates: list[Fate], words: str) -> None:
    told = broken_promises(7, one, Notes({7: fates}))
    assert any(words in line for line in told), told


def test_a_restart_and_an_outage_excuse_what_falls_into_them_alone() -> None:
    refused = sent(status=502, error="connection_refused")
    assert broken_promises(7, refused, Notes({}, restarts=[(10.5, 10.6)])) == []
    assert broken_promises(7, refused, Notes({}, restarts=[(3.0, 4.0), (12.0, 13.0)])) != []
