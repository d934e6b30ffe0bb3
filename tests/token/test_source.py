"""How long a token is handed out, the shared fetch, and the pause after its failure."""

import asyncio

import pytest

from proxy.rules.errors import (
    CredentialsRefused,
    TokenEndpointUnavailable,
    TokenEndpointUntrusted,
    TokenError,
)
from proxy.token.answer import Token
from proxy.token.source import NAP, TokenSource
from tests.support.clock import FakeClock, settle
from tests.token.script import Script, Start, down, hand_made

TICK = 0.001


# --- how long a token is handed out ---


@pytest.mark.parametrize(
    ("lifetime", "margin", "usable"),
    [
        (1000.0, 60.0, 940.0),
        (300.0, 60.0, 240.0),
        (100.0, 60.0, 80.0),
        (10.0, 60.0, 8.0),
        (1000.0, 0.0, 1000.0),
    ],
)
async def test_a_token_is_handed_out_up_to_its_margin_to_the_tick(
    clock: FakeClock, lifetime: float, margin: float, usable: float
) -> None:
    source = hand_made(Script(clock, lifetime), clock, refresh_margin=margin)
    token = await source.get()
    await clock.advance(usable - TICK)
    assert source.current() is token
    await clock.advance(TICK)
    assert source.current() is None


@pytest.mark.parametrize("by", ["the boot clock", "the wall clock"])
async def test_a_lifetime_counts_from_the_sending_of_the_token_request(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, by: str
) -> None:
    script.gate.clear()
    waiter = start(source.get())
    await clock.advance(9)
    script.gate.set()
    token = await waiter
    if by == "the boot clock":
        clock.wall_time -= 5000
        await clock.advance(940 - 9 - TICK)
        assert source.current() is token
        await clock.advance(TICK)
    else:
        clock.wall_time += 940 - 9 - TICK
        assert source.current() is token
        clock.wall_time += TICK
    assert source.current() is None


async def test_a_suspend_ends_a_token(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await settle()
    first = source.current()
    script.gate.clear()
    await clock.jump(10 * 3600)
    assert source.current() is None
    waiter = start(source.get())
    script.gate.set()
    assert await waiter is not first
    assert script.requests == 2


async def test_a_wall_clock_set_forward_ends_a_token(source: TokenSource, clock: FakeClock) -> None:
    token = await source.get()
    clock.wall_time += 940 - TICK
    assert source.current() is token
    clock.wall_time += TICK
    assert source.current() is None
    assert await source.get() is not token


async def test_a_wall_clock_set_back_neither_ends_a_token_nor_prolongs_it(
    source: TokenSource, clock: FakeClock
) -> None:
    token = await source.get()
    clock.wall_time -= 10_000
    assert source.current() is token
    await clock.advance(940)
    assert source.current() is None


async def test_a_wall_clock_set_forward_and_back_again_gives_the_token_back(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    token = await source.get()
    script.answers.append(down())
    clock.wall_time += 10_000
    with pytest.raises(TokenEndpointUnavailable):
        await source.get()
    clock.wall_time -= 10_000
    assert await source.get() is token


async def test_the_background_notices_a_wall_clock_that_was_set(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(1)
    clock.wall_time += 600
    await clock.advance(NAP)
    assert script.requests == 2


async def test_the_background_follows_a_token_that_a_request_fetched(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(1)
    clock.wall_time += 5000
    script.answers.append(20.0)
    await source.get()
    await clock.advance(10)
    assert script.requests == 3


async def test_a_token_that_has_run_out_on_arrival_is_a_failed_fetch(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.gate.clear()
    script.answers.append(10.0)
    waiter = start(source.get())
    await clock.advance(8)
    script.gate.set()
    with pytest.raises(TokenEndpointUnavailable, match="run out when it arrived"):
        await waiter
    assert source.current() is None
    assert not source.started


# --- single flight ---


async def test_a_hundred_waiters_cause_one_fetch(source: TokenSource, script: Script) -> None:
    tokens = await asyncio.gather(*(source.get() for _ in range(100)))
    assert script.requests == 1
    assert set(map(id, tokens)) == {id(script.issued[0])}


@pytest.mark.parametrize("leavers", [1, 100], ids=["the leader", "everybody"])
async def test_the_fetch_survives_waiters_that_leave(
    source: TokenSource, script: Script, start: Start, leavers: int
) -> None:
    script.gate.clear()
    waiters = [start(source.get()) for _ in range(100)]
    await settle()
    for waiter in waiters[:leavers]:
        waiter.cancel()
    await settle()
    script.gate.set()
    await settle()
    assert script.requests == 1
    assert source.current() is script.issued[0]
    assert [waiter.result() for waiter in waiters[leavers:]] == script.issued * (100 - leavers)


async def test_a_failure_is_shared_by_its_waiters_but_no_exception_is(
    source: TokenSource, script: Script
) -> None:
    script.answers.append(down())
    errors = await asyncio.gather(*(source.get() for _ in range(100)), return_exceptions=True)
    assert script.requests == 1
    assert {type(error) for error in errors} == {TokenEndpointUnavailable}
    assert len(set(map(id, errors))) == 100
    assert {error.__context__ for error in errors if isinstance(error, Exception)} == {None}


async def test_a_failure_does_not_stick(source: TokenSource, script: Script, clock: FakeClock) -> None:
    script.answers.append(down())
    with pytest.raises(TokenEndpointUnavailable):
        await source.get()
    assert source.last_error
    assert source.last_error.__traceback__ is None  # it would keep the variables of its frames alive
    await clock.advance(1)
    assert await source.get() is script.issued[0]
    assert source.last_error is None


async def test_a_defect_is_not_taken_for_weather(source: TokenSource, script: Script, start: Start) -> None:
    async def broken(refresh_token: str | None = None) -> Token:
        raise KeyError

    script.request = broken  # type: ignore[method-assign]
    run = start(source.run())
    with pytest.raises(KeyError):
        await run


# --- the pause after a failure ---


async def test_a_short_pause_is_waited_for_and_its_result_shared(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.answers.append(down())
    with pytest.raises(TokenEndpointUnavailable):
        await source.get()
    waiters = [start(source.get()) for _ in range(10)]
    await clock.advance(1 - TICK)
    assert script.requests == 1
    await clock.advance(TICK)
    assert {waiter.result() for waiter in waiters} == {script.issued[0]}
    assert script.requests == 2


async def test_in_a_long_pause_requests_fail_at_once_and_are_told_what_is_left(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    script.answers.append(down(20.0))
    with pytest.raises(TokenEndpointUnavailable) as first:
        await source.get()
    assert first.value.retry_after == 20.0
    await clock.advance(12.5)
    with pytest.raises(TokenEndpointUnavailable) as second:
        await source.get()
    assert second.value.retry_after == 7.5
    assert first.value.retry_after == 20.0
    assert script.requests == 1


@pytest.mark.parametrize(
    "error", [CredentialsRefused("no"), TokenEndpointUntrusted("no")], ids=["refused", "untrusted"]
)
async def test_what_is_told_of_other_errors_is_the_error_alone(
    source: TokenSource, script: Script, clock: FakeClock, error: TokenError
) -> None:
    script.answers.append(error)
    with pytest.raises(type(error), match="no") as caught:
        await source.get()
    assert caught.value.retry_after is None


async def test_refused_credentials_are_not_asked_again_within_thirty_seconds(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.lifetime = CredentialsRefused("no")
    start(source.run())
    await clock.advance(30 - TICK)
    with pytest.raises(CredentialsRefused):
        await source.get()
    assert script.requests == 1
    script.lifetime = 1000.0
    await clock.advance(TICK)
    assert source.current() is script.issued[0]


async def test_start_up_becomes_ready_without_traffic(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.answers.extend([down(), down(), down()])
    start(source.run())
    await clock.advance(0)
    assert not source.started
    await clock.advance(1 + 2 + 4)
    assert source.started
    assert [at - 1000 for at, _ in script.asked] == [0, 1, 3, 7]


async def test_the_background_backs_off_to_a_minute_and_does_not_spin(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.lifetime = down()
    start(source.run())
    await clock.advance(3600)
    assert script.requests == 7 + (3600 - 63) // 60
    assert clock.sleeps <= script.requests + 3600 / NAP


async def test_a_retry_after_of_five_minutes_is_honoured_to_the_tick(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.answers.append(down(300.0))
    start(source.run())
    await clock.advance(300 - TICK)
    assert script.requests == 1
    await clock.advance(TICK)
    assert script.requests == 2
