"""The pool: a limit that holds, a fair queue, nothing lost, nothing old."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.forward.dial import Dialer
from proxy.forward.outbound import Connection
from proxy.forward.pool import Pool
from proxy.forward.strand import news
from proxy.rules.errors import AllConnectionsBusy, FumageError, FumageRefused
from tests.forward.fumage import counts, listener, quiet, quiet_product, told
from tests.forward.leftovers import until
from tests.support.caller import Caller, fetch
from tests.support.clock import FakeClock
from tests.support.product import Product
from tests.support.upstream import Seen, Upstream, Wire, after, hang, reply

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def pooled(
    upstream: Upstream, clock: FakeClock | None = None, *, limit: int = 3, busy: float = 5.0
) -> AsyncIterator[Pool]:
    """A pool before a started upstream."""
    dialer = Dialer(
        host="127.0.0.1", port=upstream.port, ssl_context=None, egress=None, timeout=5, connection=Connection
    )
    pool = Pool(
        dialer.dial,
        limit=limit,
        keepalive=15,
        max_age=300,
        busy_timeout=busy,
        clock=clock or FakeClock(),
    )
    try:
        yield pool
    finally:
        pool.abort()


async def exchange(connection: Connection) -> None:
    connection.begin(GET, head_only=False, whole=True)
    while connection.answer() is None:
        await news(connection)
    while await connection.read(news):
        pass


async def use(pool: Pool, *, recent: bool = False) -> Connection:
    """One exchange; the connection that carried it."""
    connection = pool.take(pool._now(), recent=recent) or await pool.open()
    try:
        await exchange(connection)
    finally:
        pool.release(connection, pool._now())
    return connection


def total(pool: Pool) -> int:
    return sum(pool.counts.values())


# --- the limit ---


async def test_fifty_callers_never_have_more_than_three_connections() -> None:
    async with Product(max_connections="3") as product:
        most = 0

        async def answer(seen: Seen, wire: Wire) -> None:
            nonlocal most
            most = max(most, product.fumage.open, sum(counts(product).values()))
            await asyncio.sleep(0.001)
            await reply(200, keep_alive=random.random() < 0.7)(seen, wire)

        product.fumage.answer = answer
        answers = await asyncio.gather(*(fetch(product.port) for _ in range(50)))
        assert [answer.status for answer in answers] == [200] * 50
        assert most == 3
        assert len(product.fumage.seen) == 50


async def test_at_the_limit_no_connection_that_could_serve_is_closed() -> None:
    """One that becomes free just when a request has begun to wait is taken, not replaced."""

    async def call() -> None:
        async with await Caller.connect(product.port) as caller:
            for _ in range(100):
                assert (await caller.request()).status == 200

    async with Product(max_connections="4") as product:
        await asyncio.gather(*(call() for _ in range(6)))
        assert product.fumage.connections == 4


async def test_those_that_are_being_opened_count() -> None:
    """A server that never finishes its handshake: no more than the limit try at a time."""
    arrived = 0

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        await asyncio.sleep(60)

    async with listener(hang) as port:
        base = f"https://localhost:{port}"
        async with Product(base_url=base, max_connections="3", connect_timeout="400ms") as product:
            asked = [asyncio.create_task(fetch(product.port)) for _ in range(10)]
            await until(lambda: arrived == 3)
            assert counts(product) == {"idle": 0, "active": 0, "opening": 3}
            errors = {told(answer)[2] for answer in await asyncio.gather(*asked)}
            assert errors <= {"connection_timeout", "connection_limit_reached"}
            await until(lambda: counts(product)["opening"] == 0)


async def test_who_waits_for_connect_timeout_is_told_that_all_are_busy() -> None:
    gate = asyncio.Event()
    async with quiet_product(max_connections="1", connect_timeout="150ms") as product:
        product.fumage.script += [after(gate, reply(200))]
        first = asyncio.create_task(fetch(product.port))
        await product.fumage.until(lambda: product.fumage.seen)
        got = await fetch(product.port, "POST", body=b"{}")
        assert told(got) == (503, "throttled", "connection_limit_reached", None)
        assert got["Retry-After"] == "1"
        gate.set()
        assert (await first).status == 200
        assert (await fetch(product.port)).status == 200


async def test_the_longest_waiting_comes_first() -> None:
    gate = asyncio.Event()
    async with quiet_product(max_connections="1") as product:
        product.fumage.script += [after(gate, reply(200))]
        asked = [asyncio.create_task(fetch(product.port, target="/0"))]
        await product.fumage.until(lambda: product.fumage.seen)
        for number in range(1, 8):
            asked.append(asyncio.create_task(fetch(product.port, target=f"/{number}")))
            await until(lambda: len(product.app._pool._waiting) == number)  # noqa: B023
        gate.set()
        await asyncio.gather(*asked)
        assert [seen.target for seen in product.fumage.seen] == [b"/%d" % number for number in range(8)]


async def test_nobody_overtakes_those_who_wait() -> None:
    async with Upstream() as upstream, pooled(upstream, limit=1) as pool:
        held = await pool.open()
        waiting = asyncio.create_task(pool.open())
        await until(lambda: pool._waiting)
        await exchange(held)
        pool.release(held, pool._now())
        assert pool.take(pool._now(), recent=False) is None
        assert await waiting is held


# --- nothing is lost ---


async def test_a_failed_dial_frees_its_slot_and_wakes_who_waits() -> None:
    async with quiet_product(max_connections="2") as product:
        await product.fumage.stop()
        await quiet(product, 0)
        answers = await asyncio.gather(*(fetch(product.port) for _ in range(20)))
        assert {told(answer)[2] for answer in answers} == {"connection_refused"}
        assert sum(counts(product).values()) == 0
        await product.fumage.restart()
        assert (await fetch(product.port)).status == 200


async def test_a_connection_granted_to_one_who_was_just_cancelled_goes_to_the_next() -> None:
    async with Upstream() as upstream, pooled(upstream, limit=1) as pool:
        for recent in (False, True):
            held = pool.take(pool._now(), recent=recent) or await pool.open()
            waiting = [asyncio.create_task(pool.open()) for _ in range(3)]
            await until(lambda: len(pool._waiting) == 3)
            await exchange(held)
            waiting[0].cancel()  # before the release: its turn must not be granted
            pool.release(held, pool._now())
            waiting[1].cancel()  # after it was granted: it must hand on what it got
            assert await asyncio.wait_for(waiting[2], 15) is held
            pool.release(held, pool._now())
            await asyncio.gather(*waiting, return_exceptions=True)
        assert pool.counts == {"idle": 1, "active": 0, "opening": 0}


async def test_one_whose_connection_closes_as_it_is_granted_opens_another_at_once() -> None:
    """It is not sent to the end of the queue, nor does its time begin anew."""
    async with Upstream() as upstream, pooled(upstream, limit=1) as pool:
        held = await pool.open()
        waiting = [asyncio.create_task(pool.open()) for _ in range(2)]
        await until(lambda: len(pool._waiting) == 2)
        await exchange(held)
        pool.release(held, pool._now())
        held.abort()
        first = await asyncio.wait_for(waiting[0], 15)
        assert first is not held
        assert not waiting[1].done()
        assert total(pool) == 1
        pool.release(first, pool._now())
        assert await asyncio.wait_for(waiting[1], 15) is first


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "cancel", "answer", "refuse", "close", "turn"]), st.integers(0, 9)),
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_whatever_is_cancelled_and_whenever_no_slot_is_ever_lost(steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(steps))


async def play(steps: list[tuple[str, int]]) -> None:
    async with Upstream() as upstream, pooled(upstream, limit=3) as pool:
        real, refusing = pool._dial, False

        async def dial() -> Connection:
            if refusing:
                await asyncio.sleep(0)
                raise FumageRefused("no")
            return await real()

        pool._dial = dial
        gate = asyncio.Event()
        upstream.answer = lambda seen, wire: after(gate, reply(200))(seen, wire)
        asked: list[asyncio.Task[Connection]] = []
        for step, number in steps:
            if step == "ask":
                asked.append(asyncio.create_task(use(pool)))
            elif step == "cancel" and asked:
                asked[number % len(asked)].cancel()
            elif step == "answer":
                gate.set()
            elif step == "close" and upstream.wires:
                list(upstream.wires)[number % len(upstream.wires)].close()
            elif step == "refuse":
                refusing = not refusing
            else:
                for _ in range(number):
                    await asyncio.sleep(0)
            assert total(pool) <= 3
        refusing = False
        gate.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
        for outcome in outcomes:
            assert isinstance(outcome, Connection | FumageError | asyncio.CancelledError), outcome
        assert pool.counts["active"] == pool.counts["opening"] == 0
        assert not pool._waiting
        everyone = [asyncio.create_task(pool.open()) for _ in range(3)]  # all three slots are there
        for connection in await asyncio.wait_for(asyncio.gather(*everyone), 10):
            pool.release(connection, pool._now())


async def test_a_request_that_was_broken_off_closes_its_connection() -> None:
    async with Upstream(answer=hang()) as upstream, pooled(upstream) as pool:
        asking = asyncio.create_task(use(pool))
        await upstream.until(lambda: upstream.seen)
        asking.cancel()
        await upstream.until(lambda: upstream.open == 0)
        assert total(pool) == 0


# --- the right one ---


async def test_the_last_used_is_used_first() -> None:
    async with Upstream() as upstream, pooled(upstream) as pool:
        opened = [await pool.open() for _ in range(3)]
        for connection in opened:
            pool.release(connection, pool._now())
        assert await use(pool) is opened[2]
        assert await use(pool) is opened[2]


async def test_the_longest_idle_is_closed_to_make_room() -> None:
    clock = FakeClock()
    async with Upstream() as upstream, pooled(upstream, clock) as pool:
        opened = [await pool.open() for _ in range(3)]
        for connection in opened:
            pool.release(connection, pool._now())
        clock.time += 3
        assert pool.take(pool._now(), recent=True) is None
        fresh = await pool.open()
        assert fresh not in opened
        assert [connection.closed for connection in opened] == [True, False, False]


async def test_no_request_rides_a_connection_older_than_max_age() -> None:
    clock = FakeClock()
    async with Product(clock=clock, upstream_max_age="300s") as product:
        await quiet(product)
        for _ in range(60):  # never idle for long
            clock.time += 10
            assert (await fetch(product.port)).status == 200
        first = [seen for seen in product.fumage.seen if seen.connection == 1]
        assert 26 <= len(first) <= 33  # 300 s, less or more a tenth
        assert product.fumage.open == 1


async def test_connections_that_were_opened_together_do_not_retire_together() -> None:
    async with Upstream() as upstream, pooled(upstream) as pool:
        opened = [await pool.open() for _ in range(3)]
        assert len({connection.retire_at for connection in opened}) == 3


@pytest.mark.parametrize(("idle", "same"), [(14.9, True), (15.1, False)])
async def test_no_request_rides_a_connection_that_was_idle_for_longer_than_keepalive(
    idle: float, same: bool
) -> None:
    clock = FakeClock()
    async with Upstream() as upstream, pooled(upstream, clock) as pool:
        first = await use(pool)
        clock.time += idle
        assert (await use(pool) is first) == same


async def test_an_idle_connection_is_closed_after_keepalive() -> None:
    async with quiet_product(upstream_keepalive="100ms") as product:
        await product.fumage.until(lambda: product.fumage.open == 0)
        await quiet(product, 0)


async def test_who_waits_for_a_fresh_connection_gets_no_used_one() -> None:
    async with Upstream() as upstream, pooled(upstream, limit=1) as pool:
        used = await use(pool)
        held = pool.take(pool._now(), recent=True)
        assert held is used
        waiting = asyncio.create_task(pool.open(fresh=True))
        await until(lambda: pool._waiting)
        pool.release(held, pool._now())
        assert await asyncio.wait_for(waiting, 15) is not used


async def test_busy_callers_leave_no_trace() -> None:
    async with Upstream() as upstream, pooled(upstream, limit=1, busy=0.05) as pool:
        held = await pool.open()
        outcomes = await asyncio.gather(*(pool.open() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(outcome, AllConnectionsBusy) for outcome in outcomes)
        assert not pool._waiting
        pool.release(held, pool._now())
        assert pool.counts == {"idle": 1, "active": 0, "opening": 0}


# --- names and addresses ---


@pytest.mark.parametrize("host", ["a" * 64 + ".invalid", "fumage..invalid"])
async def test_a_name_that_dns_cannot_hold_is_unknown(host: str) -> None:
    dialer = Dialer(host=host, port=1, ssl_context=None, egress=None, timeout=5, connection=Connection)
    with pytest.raises(FumageError) as raised:
        await dialer.dial()
    assert raised.value.error == "dns_error"


async def test_out_of_file_descriptors_is_not_fumages_fault() -> None:
    resource = pytest.importorskip("resource")
    async with quiet_product() as product:
        product.fumage.close_all()
        await quiet(product, 0)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = socket.socket()
        lowest = spare.fileno()
        spare.close()
        dialer = Dialer(
            host="127.0.0.1", port=1, ssl_context=None, egress=None, timeout=5, connection=Connection
        )
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(AllConnectionsBusy):
                await dialer.dial()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
