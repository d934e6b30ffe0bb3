"""What is made of the answers of Fumage and the EMR."""

from collections.abc import Callable
from email.utils import formatdate
from time import time

import pytest

from tests.check.checking import (
    PHI,
    SECRET,
    STEPS,
    canvas,
    capable,
    checked,
    outcome,
    page,
    resource,
)
from tests.support.emr import JSON, form, refuse
from tests.support.upstream import Behaviour, close_without_answer, hang, raw, reply, reset_without_answer

OUTCOME = "OperationOutcome"
TOKEN_STEP, METADATA, SEARCH = STEPS[3:]


def dated(ago: float) -> tuple[str, str]:
    """A Date of so many seconds ago, as of now: these tests may run long after they were collected."""
    return "Date", formatdate(time() - ago, usegmt=True)


async def test_a_right_configuration_is_a_tick_a_step_and_0() -> None:
    async with canvas() as (fumage, emr):
        told = await checked(fumage.url, emr.token_url)
        assert told.code == 0
        assert told.steps == list(STEPS)
        assert set(told.mark.values()) == {"good"}
        assert form(emr.seen[0])["client_secret"] == SECRET
        assert emr.requests == 1
        assert [(seen.target, seen.bearer is not None) for seen in fumage.seen] == [
            (b"/metadata", False),
            (b"/Patient?_count=1", True),
        ]
    assert "FHIR 4.0.1" in told.text[METADATA]
    assert "10 h" in told.text[TOKEN_STEP]


async def test_the_base_urls_own_path_is_kept() -> None:
    async with canvas() as (fumage, emr):
        fumage.answer = capable()
        await checked(f"{fumage.url}/fhir/r4", emr.token_url)
        assert [seen.target for seen in fumage.seen] == [b"/fhir/r4/metadata", b"/fhir/r4/Patient?_count=1"]


TOKEN_ANSWERS: dict[str, tuple[Behaviour, int, str]] = {
    "a wrong secret": (
        refuse("invalid_client"),
        77,
        "Check CANVAS_API_CLIENT_ID and CANVAS_API_CLIENT_SECRET",
    ),
    "a scope that may not be had": (refuse("invalid_scope", 400), 77, "see scope"),
    "a grant that may not be used": (refuse("unauthorized_client", 400), 77, "client credentials"),
    "a request that is not understood": (refuse("invalid_request", 400), 1, "a patient needs a scope"),
    "an edge block": (page(403), 1, "IP allow-list"),
    "another page": (page(404), 1, "a wrong host"),
    "a page in place of a token": (page(200), 1, "a wrong host"),
    "other JSON": (reply(200, b"{}", [JSON]), 1, "not its token endpoint"),
    "a redirect": (page(301, ("Location", "/login")), 1, "a redirect, which is not followed: a wrong host"),
    "trouble": (page(503), 1, "The EMR is in trouble"),
    "too much": (page(429), 1, "Wait"),
    "a captive portal": (page(511), 1, "a proxy in between"),
    "no HTTP": (raw(b"SSH-2.0-x\r\n\r\n", then="close"), 1, "not HTTP"),
    "no answer": (close_without_answer(), 69, "Check token_url"),
    "a reset": (reset_without_answer(), 69, "Check token_url"),
}


@pytest.mark.parametrize("case", TOKEN_ANSWERS)
async def test_what_the_token_endpoint_may_answer_is_told_apart(case: str) -> None:
    answer, code, advice = TOKEN_ANSWERS[case]
    told = await outcome(token=answer)
    assert (told.code, told.failed) == (code, [TOKEN_STEP])
    assert advice in told.text[TOKEN_STEP]
    assert told.mark[METADATA] == "good"
    assert (told.mark[SEARCH], told.text[SEARCH]) == ("skipped", "skipped: there is no token")


async def test_a_token_endpoint_that_hangs_is_unreachable() -> None:
    told = await outcome({"FUMAGE_PROXY_TOKEN_TIMEOUT": "100ms"}, token=hang())
    assert (told.code, told.failed) == (69, [TOKEN_STEP])


async def test_a_refused_secret_is_said_where_it_comes_from() -> None:
    told = await outcome(token=refuse())
    assert "environment CANVAS_API_CLIENT_SECRET" in told.text[TOKEN_STEP]


@pytest.mark.parametrize(("secret", "hint"), [(f'"{SECRET}"', "in quotes"), (f"{SECRET} ", "a space")])
async def test_a_refused_secret_that_looks_wrong_is_said_to(secret: str, hint: str) -> None:
    told = await outcome({"CANVAS_API_CLIENT_SECRET": secret}, token=refuse())
    assert hint in told.text[TOKEN_STEP]


METADATA_ANSWERS: dict[str, tuple[Behaviour, int, str]] = {
    "an edge block": (page(403), 1, "IP allow-list"),
    "an edge block by JSON that is not FHIR": (
        reply(403, b'{"message":"Forbidden"}', [JSON]),
        1,
        "edge block",
    ),
    "another page": (page(404), 1, "a wrong host or path"),
    "a home page": (page(200), 1, "not a FHIR server"),
    "another website's login": (page(401, ("WWW-Authenticate", "Basic")), 1, "a wrong host"),
    "a redirect": (page(302, ("Location", f"https://login.example/{PHI}")), 1, "a redirect to login.example"),
    "a redirect to nowhere": (page(302, ("Location", "http://[")), 1, "a redirect: not a FHIR server"),
    "a captive portal": (page(511), 1, "a proxy in between"),
    "trouble behind a proxy": (page(502, ("Via", "1.1 squid")), 1, "passed a proxy"),
    "no HTTP": (raw(b"SSH-2.0-x\r\n\r\n", then="close"), 1, "not HTTP"),
    "half an answer": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", then="close"), 1, "broke off"),
    "no answer": (close_without_answer(), 69, "without an answer"),
    "a reset": (reset_without_answer(), 69, "lost the connection"),
}


@pytest.mark.parametrize("case", METADATA_ANSWERS)
async def test_who_is_no_fhir_server_is_told_apart_and_never_gets_the_token(case: str) -> None:
    answer, code, advice = METADATA_ANSWERS[case]
    async with canvas(metadata=answer) as (fumage, emr):
        told = await checked(fumage.url, emr.token_url)
        assert not any(seen.bearer for seen in fumage.seen)
    assert (told.code, told.failed) == (code, [METADATA])
    assert advice in told.text[METADATA]
    assert told.mark[SEARCH] == "skipped"


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"fhirVersion": "3.0.2"}, "FHIR 3.0.2"),
        ({"fhirVersion": None}, "without"),
        ({"fhirVersion": PHI}, "without"),
    ],
)
async def test_another_fhir_version_is_a_warning(changes: dict[str, object], hint: str) -> None:
    told = await outcome(metadata=capable(**changes))
    assert (told.code, told.mark[METADATA]) == (0, "warning")
    assert hint in told.text[METADATA]


@pytest.mark.parametrize("wanting", [resource(OUTCOME, 401), reply(401), resource(OUTCOME, 403)])
async def test_a_fumage_that_wants_a_token_for_metadata_gets_it(wanting: Behaviour) -> None:
    async with canvas(metadata=capable()) as (fumage, emr):
        fumage.script.append(wanting)
        told = await checked(fumage.url, emr.token_url)
        assert [seen.bearer is not None for seen in fumage.seen] == [False, True, True]
        assert told.code == 0
        emr.answer = refuse()
        fumage.script.append(wanting)
        told = await checked(fumage.url, emr.token_url)
        assert (told.code, told.mark[METADATA]) == (77, "skipped")


SEARCH_ANSWERS: dict[str, tuple[Behaviour, int, str]] = {
    "too small a scope": (resource(OUTCOME, 403), 1, "Let scope contain system/Patient.rs"),
    "an edge block": (page(403), 1, "IP allow-list"),
    "a token of another instance": (resource(OUTCOME, 401), 77, "belong to the same instance"),
    "a 401 without a body": (reply(401), 77, "belong to the same instance"),
    "an unknown type": (resource(OUTCOME, 404), 1, "it has no Patient"),
    "a page": (page(200), 1, "Check base_url"),
    "trouble": (resource(OUTCOME, 500), 1, "Fumage is in trouble"),
    "too much": (resource(OUTCOME, 429), 1, "wait"),
    "half an answer": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{", then="close"),
        1,
        "broke off",
    ),
    "a reset": (reset_without_answer(), 69, "lost the connection"),
}


@pytest.mark.parametrize("case", SEARCH_ANSWERS)
async def test_what_a_search_may_be_answered_with_is_told_apart(case: str) -> None:
    answer, code, advice = SEARCH_ANSWERS[case]
    told = await outcome(search=answer)
    assert (told.code, told.failed) == (code, [SEARCH])
    assert advice in told.text[SEARCH]


async def test_a_search_that_is_judged_by_its_parameters_had_a_good_token() -> None:
    told = await outcome(search=resource(OUTCOME, 400))
    assert (told.code, told.mark[SEARCH]) == (0, "good")


async def test_a_fumage_that_hangs_is_unreachable() -> None:
    changes = {"FUMAGE_PROXY_CONNECT_TIMEOUT": "200ms", "FUMAGE_PROXY_RESPONSE_TIMEOUT": "10ms"}
    told = await outcome(changes, search=hang())
    assert (told.code, told.failed) == (69, [SEARCH])
    assert "response_timeout" in told.text[SEARCH]


async def test_the_correlation_id_is_told_if_it_is_one() -> None:
    given = "0d10a55d-45d9-4a06-bdce-b31b5369ef16"
    for value, shown in ((given, True), (PHI, False)):
        told = await outcome(search=page(500, ("fumage-correlation-id", value)))
        assert (f"fumage-correlation-id {value}" in told.text[SEARCH]) is shown


async def test_the_first_failure_decides_the_exit_code() -> None:
    assert (await outcome(token=refuse(), metadata=page(404))).code == 77
    assert (await outcome(token=close_without_answer(), metadata=page(404))).code == 69


# The clock


async def test_a_clock_that_is_wrong_is_said_once_beside_what_it_may_explain() -> None:
    refused = reply(401, b'{"error":"invalid_client"}', [JSON, dated(3600)])
    told = await outcome(token=refused, metadata=capable(dated(3600)))
    assert told.code == 77
    assert told.steps == [*STEPS[:4], "clock", *STEPS[4:]]
    assert told.mark["clock"] == "warning"
    assert "60 min ahead of the EMR's" in told.text["clock"]


async def test_fumages_date_is_looked_at_too_and_a_skew_alone_is_no_failure() -> None:
    future = ("Date", formatdate(time() + 7300, usegmt=True))
    told = await outcome(metadata=capable(future))
    assert (told.code, told.mark["clock"]) == (0, "warning")
    assert "2 h behind Fumage's" in told.text["clock"]


@pytest.mark.parametrize(
    "headers",
    [
        lambda: [dated(30)],
        lambda: [dated(3600), ("Age", "3590")],
        lambda: [("Date", "yesterday")],
        lambda: [dated(3600), ("Age", "old")],
    ],
    ids=["a small skew", "a cache's", "no date", "no age"],
)
async def test_a_small_skew_a_cached_answer_or_no_date_is_no_warning(
    headers: Callable[[], list[tuple[str, str]]],
) -> None:
    assert "clock" not in (await outcome(metadata=capable(*headers()))).steps
