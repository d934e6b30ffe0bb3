"""Contract section 6: what a 401 does to the token."""

import asyncio

import pytest

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import Token
from proxy.token.source import TokenSource
from tests.support.clock import FakeClock, settle
from tests.token.script import Script, Start, always_401, down


async def test_a_rejected_token_is_set_aside_and_one_new_one_is_fetched(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old = await source.get()
    script.gate.clear()
    replacing = start(source.replace(old, clock.now()))
    await settle()
    assert source.current() is None
    others = [start(source.get()) for _ in range(10)]
    script.gate.set()
    new = await replacing
    assert new is script.issued[1]
    assert await asyncio.gather(*others) == [new] * 10
    assert script.requests == 2


async def test_a_hundred_rejections_of_one_token_cause_one_fetch(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    old = await source.get()
    tokens = await asyncio.gather(*(source.replace(old, clock.now()) for _ in range(100)))
    assert tokens == [script.issued[1]] * 100
    assert script.requests == 2


async def test_if_another_request_already_replaced_it_that_one_is_used(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    old = await source.get()
    new = await source.replace(old, clock.now())
    assert await source.replace(old, clock.now()) is new
    assert script.requests == 2


async def test_a_refresh_under_way_is_joined(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(0)
    script.gate.clear()
    await clock.advance(500)
    replacing = start(source.replace(script.issued[0], clock.now()))
    await settle()
    assert source.current() is None
    script.gate.set()
    assert await replacing is script.issued[1]
    assert script.requests == 2


async def test_a_rejected_token_that_ran_out_meanwhile_is_replaced_like_any(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    old = await source.get()
    await clock.advance(1000)
    assert await source.replace(old, clock.now()) is script.issued[1]


async def test_the_leader_of_a_replacement_may_leave(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old = await source.get()
    script.gate.clear()
    leader, follower = (start(source.replace(old, clock.now())) for _ in range(2))
    await settle()
    leader.cancel()
    await settle()
    script.gate.set()
    assert await follower is script.issued[1]
    assert script.requests == 2


async def test_the_same_characters_again_are_a_fresh_token_and_make_no_loop(clock: FakeClock) -> None:
    class Caching(Script):
        async def request(self, refresh_token: str | None = None) -> Token:
            self.asked.append((clock.now(), refresh_token))
            return Token("tok", 1000.0, clock.now(), clock.wall())

    script = Caching(clock)
    source = TokenSource(script, refresh_margin=60, clock=clock)
    old = await source.get()
    await clock.advance(60)
    new = await source.replace(old, clock.now())
    assert await source.replace(old, clock.now()) is new
    assert script.requests == 2
    await clock.advance(60)
    assert [await always_401(source, clock) for _ in range(3)] == ["replayed", "replayed", "passed on"]
    assert script.requests == 4


# --- when no new token can be had ---


@pytest.mark.parametrize(
    ("accepted_at", "serves_on"),
    [(None, False), (9.999, False), (10.0, False), (10.001, True)],
    ids=["never", "before", "at that moment", "since"],
)
async def test_the_old_token_serves_on_only_if_it_was_accepted_since_the_rejected_request_was_sent(
    source: TokenSource, script: Script, clock: FakeClock, accepted_at: float | None, serves_on: bool
) -> None:
    old = await source.get()
    script.answers.append(down())
    sent_at = clock.now() + 10
    if accepted_at is not None:
        await clock.advance(accepted_at)
        source.accepted(old, clock.now())
    await clock.advance(20)
    with pytest.raises(TokenEndpointUnavailable):
        await source.replace(old, sent_at)
    assert source.current() is (old if serves_on else None)


async def test_the_latest_of_several_rejected_requests_decides(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old, now = await source.get(), clock.now()
    script.answers.append(down())
    script.gate.clear()
    await clock.advance(10)
    source.accepted(old, clock.now())
    rejected = [start(source.replace(old, sent_at)) for sent_at in (now + 1, now + 20, now + 2)]
    await settle()
    script.gate.set()
    assert [type(error) for error in await asyncio.gather(*rejected, return_exceptions=True)] == [
        TokenEndpointUnavailable
    ] * 3
    assert source.current() is None


async def test_those_that_wait_get_the_old_token_back_and_the_rejected_request_the_error(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old, sent_at = await source.get(), clock.now()
    script.answers.append(down())
    script.gate.clear()
    rejected = start(source.replace(old, sent_at))
    await settle()
    waiters = [start(source.get()) for _ in range(10)]
    await clock.advance(1)
    source.accepted(old, clock.now())  # an answer that was under way
    assert source.current() is None
    script.gate.set()
    assert await asyncio.gather(*waiters) == [old] * 10
    with pytest.raises(TokenEndpointUnavailable):
        await rejected


async def test_an_acceptance_that_comes_after_the_failure_brings_the_old_token_back_too(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    old = await source.get()
    script.answers.append(down(20.0))
    with pytest.raises(TokenEndpointUnavailable):
        await source.replace(old, clock.now())
    with pytest.raises(TokenEndpointUnavailable):
        await source.get()
    await clock.advance(1)
    source.accepted(old, clock.now())
    assert source.current() is old


async def test_a_token_does_not_come_back_past_its_time(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old, sent_at = await source.get(), clock.now()
    script.gate.clear()
    script.answers.append(down(20.0))
    rejected = start(source.replace(old, sent_at))
    await clock.advance(935)
    source.accepted(old, clock.now())
    await clock.advance(5)
    script.gate.set()
    with pytest.raises(TokenEndpointUnavailable):
        await rejected
    assert source.current() is None


@pytest.mark.parametrize("error", [down(20.0), CredentialsRefused("no")], ids=["down", "refused"])
@pytest.mark.parametrize("accepted", [True, False])
async def test_in_a_pause_a_rejection_causes_no_fetch_and_is_as_if_it_had_failed(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, error: TokenError, accepted: bool
) -> None:
    run = start(source.run())
    await clock.advance(0)
    old = script.issued[0]
    script.answers.append(error)
    await clock.advance(501)  # the refresh has failed
    sent_at = clock.now()
    await clock.advance(1)
    if accepted:
        source.accepted(old, clock.now())
    with pytest.raises(type(error)):
        await source.replace(old, sent_at)
    assert script.requests == 2
    assert source.current() is (old if accepted else None)
    await clock.advance(30)
    assert script.requests == 3
    assert source.current() is script.issued[1]
    assert not run.done()


async def test_the_background_gets_a_token_after_the_pause_in_which_the_last_one_was_rejected(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(0)
    old, sent_at = script.issued[0], clock.now()
    script.answers.append(down(20.0))
    await clock.advance(1)
    source.accepted(old, clock.now())
    for now in (sent_at, clock.now()):
        assert source.current() is old
        with pytest.raises(TokenEndpointUnavailable):
            await source.replace(old, now)
        await settle()
    assert source.current() is None
    await clock.advance(20)
    assert source.current() is script.issued[1]


async def test_in_a_short_pause_a_rejected_request_waits_for_the_next_try(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(0)
    script.answers.append(down())
    await clock.advance(500)
    replacing = start(source.replace(script.issued[0], clock.now()))
    await clock.advance(0.9)
    assert script.requests == 2
    await clock.advance(0.1)
    assert await replacing is script.issued[1]


async def test_a_rejected_request_may_use_another_token_that_came_back(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    oldest = await source.get()
    old = await source.replace(oldest, clock.now())
    assert old
    script.answers.append(down())
    script.gate.clear()
    rejected = start(source.replace(old, clock.now()))
    late = start(source.replace(oldest, clock.now()))
    await clock.advance(1)
    source.accepted(old, clock.now())
    script.gate.set()
    assert await late is old
    with pytest.raises(TokenEndpointUnavailable):
        await rejected
