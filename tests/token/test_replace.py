"""Contract section 6: what a 401 does to the token."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import Token
from proxy.token.source import Event, TokenSource
from tests.support.clock import FakeClock, settle
from tests.token.script import Script

Start = Callable[..., "asyncio.Task[Any]"]


def down(retry_after: float = 1.0) -> TokenError:
    return TokenEndpointUnavailable("down", retry_after=retry_after)


async def always_401(source: TokenSource, clock: FakeClock) -> str:
    """One request to a path that answers 401 whatever the token; what became of it."""
    token, sent_at = await source.get(), clock.now()
    fresh = await source.replace(token, sent_at)
    if fresh is None:
        return "passed on"
    source.rejected_again(fresh)
    return "replayed"


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


async def test_the_same_characters_again_are_a_fresh_token(clock: FakeClock) -> None:
    class Caching(Script):
        async def request(self, refresh_token: str | None = None) -> Token:
            self.asked.append((clock.now(), refresh_token))
            return Token("tok", 1000.0, clock.now(), clock.wall())

    script = Caching(clock)
    source = TokenSource(script, refresh_margin=60, clock=clock)
    assert [await always_401(source, clock) for _ in range(3)] == ["replayed", "replayed", "passed on"]
    assert script.requests == 3


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
        source.accepted(old)
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
    source.accepted(old)
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
    source.accepted(old)  # an answer that was under way
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
    source.accepted(old)
    assert await source.get() is old


async def test_a_token_does_not_come_back_past_its_time(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    old, sent_at = await source.get(), clock.now()
    script.gate.clear()
    script.answers.append(down(20.0))
    rejected = start(source.replace(old, sent_at))
    await clock.advance(935)
    source.accepted(old)
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
        source.accepted(old)
    with pytest.raises(type(error)):
        await source.replace(old, sent_at)
    assert script.requests == 2
    assert source.current() is (old if accepted else None)
    await clock.advance(30)
    assert script.requests == 3
    assert source.current() is script.issued[1]
    assert not run.done()


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
    source.accepted(old)
    script.gate.set()
    assert await late is old
    with pytest.raises(TokenEndpointUnavailable):
        await rejected


# --- the ration ---


async def test_a_path_that_always_answers_401_costs_two_forced_fetches_and_then_none(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    became = [await always_401(source, clock) for _ in range(100)]
    assert became == ["replayed"] * 2 + ["passed on"] * 98
    assert script.requests == 3
    assert source.current() is script.issued[2]


async def test_after_the_block_there_is_one_probe_and_the_block_doubles(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    fetches = []
    for _ in range(900):
        await always_401(source, clock)
        if not fetches or script.requests != fetches[-1][1]:
            fetches.append((clock.now() - 1000, script.requests))
        await clock.advance(1)
    # The first two at 0 and 1 s, then blocks of 30, 60, 120, 240 s; refreshed on demand at 940 s only.
    assert [at for at, _ in fetches] == [0, 1, 31, 91, 211, 451]


async def test_while_blocked_the_token_stays_in_use_and_its_refresh_goes_on(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    script.lifetime = 40.0
    for _ in range(3):
        await always_401(source, clock)
    kept = source.current()
    await clock.advance(19)
    assert source.current() is kept
    await clock.advance(2)
    assert source.current() is script.issued[3]
    assert await always_401(source, clock) == "passed on"


async def test_an_answer_to_a_fresh_token_ends_the_block(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    for _ in range(3):
        await always_401(source, clock)
    await clock.advance(30)
    fresh = await source.replace(script.issued[2], clock.now())
    assert fresh
    source.accepted(fresh)
    await clock.advance(30)
    assert [await always_401(source, clock) for _ in range(3)] == ["replayed", "replayed", "passed on"]


async def test_a_forced_token_that_is_revoked_hours_later_is_replaced(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    script.lifetime = 36000.0
    token = await source.get()
    for _ in range(5):
        new = await source.replace(token, clock.now())
        assert new is not None
        assert new is not token
        source.accepted(new)
        token = new
        await clock.advance(3600)


async def test_the_log_is_told_what_happened(clock: FakeClock) -> None:
    events: list[tuple[Event, str]] = []
    script = Script(clock, down())
    source = TokenSource(
        script,
        refresh_margin=60,
        clock=clock,
        random=lambda: 0.5,
        on_event=lambda event, error: events.append((event, str(error or ""))),
    )
    with pytest.raises(TokenEndpointUnavailable):
        await source.get()
    await clock.advance(1)
    for _ in range(3):
        await always_401(source, clock)
    obtained = [("set aside", ""), ("obtained", "")]
    assert events == [("failed", "down"), ("obtained", ""), *obtained, *obtained, ("rationed", "")]


# --- anything, in any order ---

STEPS = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 1.0, 7.0, 31.0, 400.0])),
    st.tuples(st.just("jump"), st.sampled_from([5.0, 5000.0])),
    st.tuples(st.just("set wall"), st.sampled_from([-3000.0, 100.0, 3000.0])),
    st.tuples(
        st.just("emr"),
        st.sampled_from([1000.0, 30.0, 1.0, 0.01, down(), down(20.0), CredentialsRefused("no")]),
    ),
    st.tuples(st.just("get"), st.just(0.0)),
    st.tuples(st.just("gate"), st.booleans()),
    st.tuples(st.just("accepted"), st.integers(0, 9)),
    st.tuples(st.just("rejected"), st.integers(0, 9)),
    st.tuples(st.just("rejected again"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
)


async def play(steps: list[tuple[str, Any]]) -> None:
    clock = FakeClock()
    script = Script(clock)
    source = TokenSource(script, refresh_margin=60, clock=clock, random=lambda: 0.3)
    tasks = [asyncio.create_task(source.run())]
    sent: list[tuple[Token, float]] = []
    forced = 0
    for step, value in steps:
        match step:
            case "advance":
                await clock.advance(value)
            case "jump":
                await clock.jump(value)
            case "set wall":
                clock.wall_time += value
            case "emr":
                script.lifetime = value
            case "gate":
                script.gate.set() if value else script.gate.clear()
            case "get":
                tasks.append(asyncio.create_task(source.get()))  # type: ignore[arg-type]
            case "accepted" if sent:
                source.accepted(sent[-1 - value % len(sent)][0])
            case "rejected" if sent:
                forced += 1
                tasks.append(asyncio.create_task(source.replace(*sent[-1 - value % len(sent)])))  # type: ignore[arg-type]
            case "rejected again" if sent:
                source.rejected_again(sent[-1 - value % len(sent)][0])
            case "cancel" if len(tasks) > 1:
                tasks[1 + value % (len(tasks) - 1)].cancel()
        await settle()
        assert not tasks[0].done()
        if token := source.current():
            left = token.lifetime - min(60, token.lifetime / 5)
            assert clock.now() < token.requested_at + left
            assert clock.wall() < token.requested_wall + left
            sent.append((token, clock.now()))
    at = [when for when, _ in script.asked]
    # Beside the forced ones there is one a second at most; a clock set may cause one more.
    close = sum(later - earlier < 0.999 for earlier, later in zip(at, at[1:], strict=False))
    assert close <= forced + sum(step == "set wall" for step, _ in steps)
    # Whatever has happened: with a sound EMR there is soon a token again, and nobody waits any more.
    script.lifetime = 1000.0
    script.gate.set()
    await clock.advance(61)
    assert source.current()
    for task in tasks[1:]:
        assert task.done()
        assert task.cancelled() or isinstance(task.exception(), TokenError | None)
    tasks[0].cancel()
    await source.close()
    await settle()
    assert clock.sleepers == 0


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_in_any_order_no_token_is_handed_out_past_its_time_and_all_recovers(
    steps: list[tuple[str, Any]],
) -> None:
    asyncio.run(play(steps))
