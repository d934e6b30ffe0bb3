"""Whatever happens in whatever order, two things hold."""

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.errors import CredentialsRefused, TokenError
from proxy.token.answer import Token
from proxy.token.source import TokenSource
from tests.support.clock import FakeClock, settle
from tests.token.script import Script, down

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
    st.tuples(st.just("rotate"), st.integers(0, 1)),
)


async def play(steps: list[tuple[str, Any]]) -> None:
    clock = FakeClock()
    script = Script(clock)
    scripts = [script]
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
                for each in scripts:
                    each.lifetime = value
            case "gate":
                script.gate.set() if value else script.gate.clear()
            case "rotate":
                scripts.append(Script(clock))
                scripts[-1].identity = f"secret {value}"
                scripts[-1].gate, scripts[-1].lifetime = script.gate, script.lifetime
                tasks.append(asyncio.create_task(source.adopt(scripts[-1])))  # type: ignore[arg-type]
            case "get":
                tasks.append(asyncio.create_task(source.get()))  # type: ignore[arg-type]
            case "accepted" if sent:
                source.accepted(sent[-1 - value % len(sent)][0], clock.now())
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
    # Beside the forced ones there is one a second at most; a clock set may cause one more.
    for each in scripts:
        close = sum(later - earlier < 0.999 for (earlier, _), (later, _) in pairwise(each.asked))
        assert close <= forced + sum(step == "set wall" for step, _ in steps)
    # Whatever has happened: with a sound EMR there is soon a token again, and nobody waits any more.
    for each in scripts:
        each.lifetime = 1000.0
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
    assert all(each.closed and not each.busy for each in scripts)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_in_any_order_no_token_is_handed_out_past_its_time_and_all_recovers(
    steps: list[tuple[str, Any]],
) -> None:
    asyncio.run(play(steps))
