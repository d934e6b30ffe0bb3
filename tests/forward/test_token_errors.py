"""Section 7 of the contract, the rows of the token endpoint: what callers get while there is no token."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trustme

from proxy.rules import errors
from tests.forward.leftovers import issue, nothing_left
from tests.support.caller import Answer, fetch
from tests.support.clock import FakeClock
from tests.support.emr import EMR, refuse
from tests.support.product import Product, server_context
from tests.support.upstream import (
    Behaviour,
    Upstream,
    close_without_answer,
    hang,
    raw,
    reply,
    reset_without_answer,
)


@dataclass(frozen=True)
class Row:
    status: int
    code: str
    error: str
    details: str
    culprit: str
    advice: str
    retries: bool


UNAVAILABLE = Row(
    503, "transient", "destination_unavailable", "token-endpoint", errors.EMR, "token_url", retries=True
)
REFUSED = Row(
    502,
    "security",
    "proxy_configuration_error",
    "credentials-refused",
    errors.SETTINGS,
    "CANVAS_API_CLIENT_SECRET",
    retries=False,
)
UNTRUSTED = Row(
    502, "security", "tls_certificate_error", "token-endpoint", errors.EMR, "ca_file", retries=False
)
EGRESS = Row(
    502, "transient", "destination_unavailable", "egress-proxy", errors.EGRESS, "HTTPS_PROXY", retries=False
)


def matches(answer: Answer, row: Row) -> None:
    assert answer.status == row.status
    assert issue(answer) == ("error", row.code)
    assert answer.proxy_status == {"error": row.error, "details": row.details}
    diagnostics = answer.json()["issue"][0]["diagnostics"]
    assert f"Cause: {row.culprit}. " in diagnostics
    assert row.advice in diagnostics.partition("What to do: ")[2]
    assert (answer["Retry-After"] is not None) == row.retries
    for secret in ("test-secret", "token-1", "127.0.0.1"):
        assert secret not in diagnostics


async def in_time(clock: FakeClock, product: Product, method: str = "GET") -> Answer:
    """The answer to a request, while time flies."""
    asking = asyncio.create_task(fetch(product.port, method, "/Patient", body=b"x"))
    while not asking.done():
        await clock.advance(0.1)
    return await asking


ANSWERS: dict[str, tuple[Behaviour, Row]] = {
    "500": (reply(500, b"oops"), UNAVAILABLE),
    "503": (reply(503), UNAVAILABLE),
    "429": (reply(429), UNAVAILABLE),
    "404": (reply(404), UNAVAILABLE),
    "403 of an edge": (reply(403, b"<html>"), UNAVAILABLE),
    "a redirect": (reply(302, headers=[("Location", "https://login.example/")]), UNAVAILABLE),
    "201": (reply(201, b'{"access_token":"a"}'), UNAVAILABLE),
    "not JSON": (reply(200, b"<html>"), UNAVAILABLE),
    "no token": (reply(200, b"{}"), UNAVAILABLE),
    "a token that cannot stand in a field": (reply(200, b'{"access_token":"a\\r\\nX: y"}'), UNAVAILABLE),
    "no HTTP": (raw(b"220 smtp\r\n", then="close"), UNAVAILABLE),
    "closed": (close_without_answer(), UNAVAILABLE),
    "reset": (reset_without_answer(), UNAVAILABLE),
    "too slow": (hang(), UNAVAILABLE),
    "invalid_client": (refuse("invalid_client"), REFUSED),
    "unauthorized_client": (refuse("unauthorized_client", 400), REFUSED),
    "invalid_scope": (refuse("invalid_scope", 400), REFUSED),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_the_emr_answered_is_told_and_the_next_request_works_once_it_works(case: str) -> None:
    behaviour, row = ANSWERS[case]
    clock = FakeClock()
    emr = EMR()
    emr.answer = behaviour
    async with emr, Product(emr=emr, clock=clock, token_timeout="50ms") as product:
        matches(await in_time(clock, product, "POST"), row)
        assert product.fumage.seen == []
        await nothing_left(product)
        emr.answer = emr.grant()
        await clock.advance(61)
        assert (await in_time(clock, product)).status == 200
        assert len(product.fumage.seen) == 1
        assert emr.issued == ["token-1"]


async def test_an_emr_that_is_not_there_is_told_and_the_next_request_works_once_it_is() -> None:
    clock = FakeClock()
    async with EMR() as emr:
        await emr.stop()
        async with Product(emr=emr, clock=clock) as product:
            matches(await in_time(clock, product), UNAVAILABLE)
            assert product.fumage.seen == []
            await emr.restart()
            await clock.advance(61)
            assert (await in_time(clock, product)).status == 200


async def test_a_host_that_is_unknown_is_told() -> None:
    clock = FakeClock()
    async with Product(clock=clock, token_url="https://emr.invalid/auth/token/") as product:
        matches(await in_time(clock, product), UNAVAILABLE)
        assert product.fumage.seen == []


async def test_retry_after_of_the_emr_reaches_the_caller() -> None:
    emr = EMR()
    emr.answer = reply(429, headers=[("Retry-After", "120")])
    async with emr, Product(emr=emr, clock=(clock := FakeClock())) as product:
        answer = await in_time(clock, product)
        matches(answer, UNAVAILABLE)
        assert 100 <= int(answer["Retry-After"] or 0) <= 120
        await clock.advance(60)
        assert 40 <= int((await in_time(clock, product))["Retry-After"] or 0) <= 60
        assert emr.requests == 1


async def test_a_failed_refresh_ahead_costs_no_request_anything() -> None:
    clock = FakeClock()
    async with Product(clock=clock) as product:
        assert (await in_time(clock, product)).status == 200
        product.emr.answer = reply(500)
        await clock.jump(30_000)
        await product.emr.until(lambda: product.emr.requests > 1)
        assert (await fetch(product.port)).status == 200
        assert product.fumage.seen[-1].bearer == "token-1"
        await clock.jump(6_000)
        matches(await in_time(clock, product), UNAVAILABLE)
        assert len(product.fumage.seen) == 2


async def test_a_hundred_callers_share_one_failure() -> None:
    emr = EMR()
    emr.answer = reply(429, headers=[("Retry-After", "60")])
    async with emr, Product(emr=emr) as product:
        for answer in await asyncio.gather(*(fetch(product.port) for _ in range(100))):
            matches(answer, UNAVAILABLE)
        assert emr.requests == 1
        await nothing_left(product)


async def test_an_emr_whose_certificate_is_not_trusted_is_told() -> None:
    certificate = trustme.CA().issue_cert("localhost")
    clock = FakeClock()
    async with EMR(tls=server_context(certificate)) as emr, Product(emr=emr, clock=clock) as product:
        matches(await in_time(clock, product), UNTRUSTED)
        assert product.fumage.seen == []
        assert emr.requests == 0


@pytest.mark.parametrize("status", [407, 403, None], ids=["407", "403", "not there"])
async def test_an_egress_proxy_in_the_way_to_the_emr_is_told(
    status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    async with Upstream(answer=reply(status or 200)) as egress:
        if status is None:
            await egress.stop()
        monkeypatch.setenv("HTTPS_PROXY", egress.url.replace("http://", "http://user:hidden@"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with Product(clock=clock, token_url="https://emr.example/auth/token/") as product:
            answer = await in_time(clock, product)
            matches(answer, EGRESS)
            assert b"hidden" not in answer.body
            assert product.fumage.seen == []


def everything(kind: type[errors.ProxyError]) -> list[type[errors.ProxyError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in everything(child))]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in everything(errors.ProxyError) if "status" in dir(kind)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_has_all_that_its_answer_needs(kind: type[errors.ProxyError]) -> None:
    from proxy.rules.outcome import REASONS, outcome, outcome_fields

    make: Callable[..., errors.ProxyError] = kind
    error = (
        make("What happened.", sent=True) if kind is errors.FumageConnectionLost else make("What happened.")
    )
    assert REASONS[error.status]
    assert error.culprit.encode() in outcome(error, "id")
    assert dict(outcome_fields(error))[b"Proxy-Status"].startswith(b"fumage-proxy; error=")
