"""Section 6 of the contract, from outside: what callers, Fumage and the EMR see of a rejected token."""

import asyncio

import pytest

from tests.forward.leftovers import issue, nothing_left, ready, until
from tests.support.caller import Caller, fetch
from tests.support.clock import FakeClock
from tests.support.emr import refuse
from tests.support.product import Product
from tests.support.upstream import (
    AUTHENTICATION_FAILED,
    Behaviour,
    Seen,
    Wire,
    after,
    close_without_answer,
    early,
    raw,
    reply,
    tokens_only,
    unauthorized,
)

BUSY = reply(429, b"", [("Retry-After", "20")])  # an EMR that is not asked again at once
BODIES = {
    "no body": {},
    "Content-Length": {"body": b"x" * 1000},
    "chunked": {"body": [b"x" * 10, b"y" * 20], "chunked": True},
}
SENT = {"no body": b"", "Content-Length": b"x" * 1000, "chunked": b"x" * 10 + b"y" * 20}


def bearers(product: Product) -> list[str | None]:
    return [seen.bearer for seen in product.fumage.seen]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_any_method_is_sent_once_more_with_a_new_token(method: str) -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized(), reply(200, b"done", [("ETag", 'W/"1"')])]
        answer = await fetch(product.port, method, "/Patient/1?a=b", [("If-Match", 'W/"7"')])
        assert (answer.status, answer["ETag"], answer.proxy_status) == (200, 'W/"1"', {})
        first, second = product.fumage.seen
        assert (first.method, first.target, first.body) == (second.method, second.target, second.body)
        assert first.raw_head.replace(b"token-1", b"token-2") == second.raw_head
        assert bearers(product) == ["token-1", "token-2"]
        assert product.emr.requests == 2
        assert (product.records[-1].replay, product.records[-1].replayed) == ("ok", True)


SHAPES: dict[str, Behaviour] = {
    "as documented": unauthorized(),
    "no body": reply(401),
    "a challenge": reply(401, b"no", [("WWW-Authenticate", 'Bearer error="invalid_token"')]),
    "closes": reply(401, b"no", keep_alive=False),
    "chunked": reply(401, framing="chunked", chunks=[b"n", b"o"]),
    "chunked with trailers": reply(401, framing="chunked", chunks=[b"no"], trailers=[("X-A", "b")]),
    "close-delimited": reply(401, b"no", framing="close"),
    "large": reply(401, b"n" * 1_000_000),
    "html": reply(401, b"<h1>no</h1>", [("Content-Type", "text/html"), ("Location", "/login")]),
    "HTTP/1.0": raw(b"HTTP/1.0 401 No\r\n\r\nno", then="close"),
    "without a reason": raw(b"HTTP/1.1 401 \r\nContent-Length: 0\r\n\r\n"),
    "after 103": raw(b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"),
    "a body that breaks off": raw(b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nno", then="close"),
    "a reset": raw(b"HTTP/1.1 401 No\r\nContent-Length: 9\r\n\r\nno", then="reset"),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_401_counts_whatever_its_headers_and_body(shape: str, body: str) -> None:
    async with Product() as product:
        product.fumage.script += [SHAPES[shape]]
        async with await Caller.connect(product.port) as caller:
            for _ in range(2):  # the caller's connection is as good as before
                answer = await caller.request("POST", "/Patient", **BODIES[body])  # type: ignore[arg-type]
                assert (answer.status, answer.proxy_status) == (200, {})
        first, second, _ = product.fumage.seen
        assert first.body == second.body == SENT[body]
        assert bearers(product) == ["token-1", "token-2", "token-2"]
        await nothing_left(product)


async def test_a_second_401_is_passed_on_with_its_body_and_marked() -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized(), reply(401, b'{"no":2}', [("X-Why", "scope")])]
        answer = await fetch(product.port, "POST", "/Patient", body=b"x")
        assert (answer.status, answer.body, answer["X-Why"]) == (401, b'{"no":2}', "scope")
        assert answer.proxy_status == {"received-status": "401", "details": "token-rejected"}
        assert len(product.fumage.seen) == product.emr.requests == 2
        assert (product.records[-1].replay, product.records[-1].replayed) == ("rejected", True)


async def test_a_second_401_to_head_is_marked_too() -> None:
    async with Product() as product:
        product.fumage.answer = unauthorized()
        answer = await fetch(product.port, "HEAD")
        assert (answer.status, answer.proxy_status["details"]) == (401, "token-rejected")
        assert answer["Content-Length"] == str(len(AUTHENTICATION_FAILED))


async def test_a_403_never_causes_a_refresh() -> None:
    async with Product() as product:
        product.fumage.answer = reply(403, b"scope")
        for _ in range(3):
            answer = await fetch(product.port)
            assert (answer.status, answer.body, answer.proxy_status) == (403, b"scope", {})
        assert (len(product.fumage.seen), product.emr.requests) == (3, 1)


async def test_after_two_forced_fetches_in_vain_401s_pass_straight_on_and_are_marked() -> None:
    async with Product() as product:
        product.fumage.answer = unauthorized()
        for sent in (2, 4, 5, 6):
            answer = await fetch(product.port, "POST", "/Patient", body=b"x")
            assert (answer.status, answer.body) == (401, AUTHENTICATION_FAILED)
            assert answer.proxy_status["details"] == "token-rejected"
            assert len(product.fumage.seen) == sent
        assert product.emr.requests == 3
        assert [record.replay for record in product.records] == ["rejected"] * 2 + ["suppressed"] * 2
        product.fumage.answer = reply(200)  # the last token stays in use
        assert (await fetch(product.port)).status == 200
        assert bearers(product)[-1] == "token-3"
        assert product.emr.requests == 3


async def test_a_401_that_is_passed_straight_on_early_ends_even_if_fumage_wants_the_whole_request_first() -> (
    None
):
    async def late_end(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 401 No\r\nContent-Length: 4\r\n\r\nno")
        await wire.body()
        wire.write(b"!!")

    async with Product() as product:
        product.fumage.answer = unauthorized()
        for _ in range(2):
            await fetch(product.port)
        product.fumage.answer = early(late_end)
        async with await Caller.connect(product.port) as caller:
            caller.write(b"POST /A HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n")
            await caller.send(b"x" * 150_000)
            await product.fumage.until(lambda: len(product.fumage.seen) == 5)
            await caller.send(b"x" * 150_000)
            answer = await caller.answer()
            assert (answer.status, answer.body) == (401, b"no!!")
        assert len(product.fumage.seen[-1].body) == 300_000


async def test_a_hundred_requests_and_a_revoked_token_cause_one_token_request_and_all_succeed() -> None:
    async with Product() as product:
        valid = {"token-1"}
        product.fumage.answer = tokens_only(valid)
        await ready(product)
        valid.clear()
        valid.add("token-2")
        answers = await asyncio.gather(
            *(fetch(product.port, "POST", f"/Patient/{n}", body=b"%d" % n) for n in range(100))
        )
        assert {answer.status for answer in answers} == {200}
        assert product.emr.requests == 2
        replayed = [seen for seen in product.fumage.seen if seen.bearer == "token-2"]
        assert sorted(int(seen.body) for seen in replayed) == list(range(100))
        await nothing_left(product)


async def test_if_another_request_already_replaced_the_token_that_one_is_used() -> None:
    async with Product() as product:
        late = asyncio.Event()
        product.fumage.script += [after(late, unauthorized()), unauthorized()]
        slow = asyncio.create_task(fetch(product.port))
        await product.fumage.until(lambda: len(product.fumage.seen) == 1)
        assert (await fetch(product.port)).status == 200
        late.set()
        assert (await slow).status == 200
        assert bearers(product) == ["token-1", "token-1", "token-2", "token-2"]
        assert product.emr.requests == 2


@pytest.mark.parametrize(
    ("emr", "status", "details"),
    [(BUSY, 503, "token-endpoint"), (refuse(), 502, "credentials-refused")],
    ids=["busy", "refused"],
)
async def test_without_a_new_token_the_caller_gets_that_error_and_not_the_401(
    emr: Behaviour, status: int, details: str
) -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [unauthorized()]
        product.emr.answer = emr
        answer = await fetch(product.port, "POST", "/Patient", body=b"x")
        assert (answer.status, answer.proxy_status["details"]) == (status, details)
        assert issue(answer)[0] == "error"
        assert len(product.fumage.seen) == 1
        assert (product.records[-1].replay, product.records[-1].replayed) == ("no_token", False)
        await nothing_left(product)


@pytest.mark.parametrize("accepted", [True, False], ids=["accepted meanwhile", "not accepted since"])
async def test_without_a_new_token_the_old_one_serves_on_only_if_it_was_accepted_meanwhile(
    accepted: bool,
) -> None:
    async with Product() as product:
        await ready(product)
        product.emr.answer = BUSY
        late = asyncio.Event()
        product.fumage.script += [after(late, unauthorized())]
        rejected = asyncio.create_task(fetch(product.port, "GET", "/Always401"))
        await product.fumage.until(lambda: len(product.fumage.seen) == 1)
        if accepted:
            assert (await fetch(product.port)).status == 200
        late.set()
        assert (await rejected).proxy_status["details"] == "token-endpoint"
        seen = len(product.fumage.seen)
        answer = await fetch(product.port)
        assert answer.status == (200 if accepted else 503)
        assert len(product.fumage.seen) - seen == (1 if accepted else 0)


async def test_a_token_that_ran_out_while_its_request_waited_for_a_connection_is_not_sent() -> None:
    clock = FakeClock()
    async with Product(clock=clock, max_connections="1") as product:
        free = asyncio.Event()
        product.fumage.script += [after(free, reply(200))]
        first = asyncio.create_task(fetch(product.port))
        await product.fumage.until(lambda: len(product.fumage.seen) == 1)
        second = asyncio.create_task(fetch(product.port, "POST", "/Patient", body=b"x"))
        await until(lambda: product.app._pool._waiting)
        await clock.jump(35_950)
        free.set()
        assert (await first).status == 200
        assert (await second).status == 200
        assert bearers(product) == ["token-1", "token-2"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_if_fumage_is_gone_for_the_replay_the_caller_learns_that(method: str) -> None:
    async with Product() as product:
        await ready(product)

        async def leave(seen: Seen, wire: Wire) -> None:
            product.fumage.stop_accepting()
            await reply(401)(seen, wire)
            product.fumage.close_all()

        product.fumage.script += [leave]
        answer = await fetch(product.port, method, "/Patient", body=b"x")
        assert (answer.status, answer.proxy_status["error"]) == (502, "connection_refused")
        assert issue(answer) == ("error", "transient")
        assert product.emr.requests == 2
        await nothing_left(product)


async def test_a_replayed_write_that_gets_lost_is_not_sent_a_third_time() -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized(), close_without_answer()]
        answer = await fetch(product.port, "POST", "/Patient", body=b"x")
        assert (answer.status, answer.proxy_status["details"]) == (502, "outcome-unknown")
        assert len(product.fumage.seen) == 2
        assert (product.records[-1].replay, product.records[-1].replayed) == ("", True)
