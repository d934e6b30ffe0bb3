"""Refresh ahead, refresh tokens, and the end."""

import pytest

from proxy.rules.errors import CredentialsRefused
from proxy.token.answer import Token
from proxy.token.held import GAP
from proxy.token.source import TokenSource
from tests.support.clock import FakeClock, settle
from tests.token.script import Script, Start, down, hand_made

TICK = 0.001


# --- refresh ahead ---


@pytest.mark.parametrize(("random", "at"), [(0.0, 450.0), (0.5, 500.0), (1 - 2**-53, 550.0)])
async def test_a_token_is_refreshed_at_half_of_its_lifetime_with_jitter(
    script: Script, clock: FakeClock, start: Start, random: float, at: float
) -> None:
    source = hand_made(script, clock, random=lambda: random)
    start(source.run())
    await clock.advance(at - TICK)
    assert script.requests == 1
    await clock.advance(2 * TICK)
    assert script.requests == 2
    assert source.current() is script.issued[1]


async def test_no_request_waits_for_a_refresh_and_none_fails_with_it(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(0)
    script.lifetime = down()
    script.gate.clear()
    await clock.advance(500)
    assert script.busy
    assert source.current() is script.issued[0]
    script.gate.set()
    await clock.advance(440 - TICK)
    assert source.current() is script.issued[0]
    await clock.advance(TICK)
    assert source.current() is None
    script.lifetime = 1000.0
    await clock.advance(60)
    assert source.current() is script.issued[1]


async def test_a_token_is_replaced_in_one_step(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(0)
    script.gate.clear()
    await clock.advance(600)
    assert source.current() is script.issued[0]
    script.gate.set()
    await settle()
    assert source.current() is script.issued[1]
    assert source.expires_at_wall == script.issued[1].requested_wall + 1000


async def test_a_forced_fetch_moves_the_refresh(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    start(source.run())
    await clock.advance(400)
    script.answers.append(20.0)  # its half is over before the background would look at the wall clock
    assert source.current()
    await source.replace(script.issued[0], clock.now())
    await clock.advance(10 - TICK)
    assert script.requests == 2
    await clock.advance(TICK)
    assert script.requests == 3


@pytest.mark.parametrize("lifetime", [0.001, 0.1, 1.0, 1.2, 1.3, 2.0])
async def test_the_shortest_lifetimes_do_not_make_a_hot_loop(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, lifetime: float
) -> None:
    script.lifetime = lifetime
    start(source.run())
    for _ in range(600):
        start(source.get())
        await clock.advance(0.1)
    assert 30 <= script.requests <= 60 / GAP + 1
    assert clock.sleeps <= 2 * script.requests + 60


async def test_a_refresh_answered_with_the_same_dying_token_does_not_make_a_hot_loop(
    clock: FakeClock, start: Start
) -> None:
    class Caching(Script):
        async def request(self, refresh_token: str | None = None) -> Token:
            now = clock.now()
            self.asked.append((now, refresh_token))
            return Token("tok", 1000 - now % 1000, now, clock.wall())

    script = Caching(clock)
    source = hand_made(script, clock)
    start(source.run())
    await clock.advance(999)
    assert source.current()
    assert script.requests < 12
    await clock.advance(1)
    assert script.requests < 16
    await clock.advance(20)
    assert source.current()


# --- refresh tokens ---


async def test_a_refresh_token_is_used_once(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.answers.extend([(1000.0, "r-1"), (1000.0, "r-2"), 1000.0])
    start(source.run())
    await clock.advance(1500)
    assert [refresh for _, refresh in script.asked] == [None, "r-1", "r-2", None]


async def test_a_refused_refresh_token_is_followed_by_client_credentials_at_once(
    source: TokenSource, script: Script, clock: FakeClock
) -> None:
    script.answers.extend([(100.0, "r-1"), CredentialsRefused("invalid_grant")])
    await source.get()
    await clock.advance(100)
    assert await source.get() is script.issued[1]
    assert [refresh for _, refresh in script.asked] == [None, "r-1", None]


async def test_a_refresh_token_is_spent_even_if_its_answer_was_lost(
    source: TokenSource, script: Script, clock: FakeClock, start: Start
) -> None:
    script.answers.extend([(1000.0, "r-1"), down()])
    start(source.run())
    await clock.advance(502)
    assert [refresh for _, refresh in script.asked] == [None, "r-1", None]


# --- the end ---


async def test_close_gives_up_what_is_under_way(script: Script, clock: FakeClock, start: Start) -> None:
    source = hand_made(script, clock)
    script.gate.clear()
    run = start(source.run())
    await settle()
    run.cancel()
    await source.close()
    assert script.closed
    assert not script.busy
    await settle()
    assert clock.sleepers == 0


async def test_cancelling_the_background_leaves_no_sleeper(
    source: TokenSource, clock: FakeClock, start: Start
) -> None:
    run = start(source.run())
    await clock.advance(1)
    assert clock.sleepers == 1
    run.cancel()
    await settle()
    assert clock.sleepers == 0
