"""Contract section 6.4: paths that answer 401 whatever the token."""

import pytest

from proxy.rules.errors import TokenEndpointUnavailable
from proxy.token.source import Event, TokenSource
from tests.support.clock import FakeClock
from tests.token.script import Script, Start, always_401, down


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
    fetches: list[tuple[float, int]] = []
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
    source.accepted(fresh, clock.now())
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
        source.accepted(new, clock.now())
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
