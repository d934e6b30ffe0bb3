"""Connections that Fumage closes while they are idle, or just as a request goes out: no GET fails of it, and
no write is ever sent twice."""

import asyncio
import os
import socket

import pytest

from proxy.rules.errors import FumageConnectionLost
from tests.forward.fumage import counts, quiet, quiet_product, told
from tests.forward.leftovers import until
from tests.support.caller import Caller, fetch
from tests.support.clock import FakeClock
from tests.support.product import Product
from tests.support.upstream import (
    PATIENT,
    Behaviour,
    Seen,
    Wire,
    close_without_answer,
    reply,
    reset_without_answer,
)

FAULTS = {"closed": close_without_answer(), "reset": reset_without_answer()}
SAFE = ["GET", "HEAD", "OPTIONS"]
WRITES = ["POST", "PUT", "PATCH", "DELETE"]


async def fill(product: Product, size: int) -> None:
    """Leave so many idle connections in the pool."""
    await quiet(product)
    gate = asyncio.Event()

    async def together(seen: Seen, wire: Wire) -> None:
        await gate.wait()
        await reply(200)(seen, wire)

    product.fumage.script += [together] * size
    known = len(product.fumage.seen)
    asked = [asyncio.create_task(fetch(product.port)) for _ in range(size)]
    await product.fumage.until(lambda: len(product.fumage.seen) == known + size)
    gate.set()
    await asyncio.gather(*asked)
    await quiet(product, size)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("method", SAFE)
async def test_a_safe_request_on_a_connection_that_turns_out_closed_is_sent_once_more(
    method: str, fault: Behaviour
) -> None:
    async with quiet_product() as product:
        product.fumage.script += [fault]
        assert (await fetch(product.port, method)).status == 200
        assert [seen.method for seen in product.fumage.seen] == [method] * 2
        assert [seen.connection for seen in product.fumage.seen] == [1, 2]
        await quiet(product)


async def test_a_get_with_a_body_is_sent_once_more_with_it() -> None:
    async with quiet_product() as product:
        product.fumage.script += [close_without_answer()]
        assert (await fetch(product.port, "GET", body=b"query")).status == 200
        assert [seen.body for seen in product.fumage.seen] == [b"query"] * 2


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_get_is_sent_at_most_twice(fault: Behaviour) -> None:
    async with quiet_product() as product:
        product.fumage.script += [fault, fault]
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "connection_terminated", "outcome-unknown")
        assert len(product.fumage.seen) == 2
        assert (await fetch(product.port)).status == 200


async def test_the_second_try_never_rides_another_stale_connection() -> None:
    async with Product() as product:
        await fill(product, 5)
        known = len(product.fumage.seen)
        product.fumage.script += [close_without_answer()]
        assert (await fetch(product.port)).status == 200
        tries = [seen.connection for seen in product.fumage.seen[known:]]
        assert tries[0] <= 5
        assert tries[1] == 6
        await quiet(product, 5)


async def test_the_second_try_finds_its_fresh_connection_in_a_full_pool_too() -> None:
    async with Product(max_connections="3") as product:
        await fill(product, 3)
        product.fumage.script += [close_without_answer()]
        assert (await fetch(product.port)).status == 200
        assert product.fumage.seen[-1].connection == 4


async def test_a_get_on_a_fresh_connection_is_not_sent_again() -> None:
    async with quiet_product() as product:
        product.fumage.close_all()
        await quiet(product, 0)
        product.fumage.script += [close_without_answer()]
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "connection_terminated", "outcome-unknown")
        assert len(product.fumage.seen) == 1


@pytest.mark.parametrize("method", WRITES)
async def test_a_write_is_never_sent_twice(method: str) -> None:
    async with quiet_product() as product:
        for _ in range(3):
            product.fumage.script += [close_without_answer()]
            got = await fetch(product.port, method, body=b"{}")
            assert told(got) == (502, "transient", "connection_terminated", "outcome-unknown")
            assert "Look whether it was done" in got.json()["issue"][0]["diagnostics"]
        assert len(product.fumage.seen) == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_close_that_arrived_is_seen_before_a_request_is_written(method: str) -> None:
    """The close lies in the kernel when the request comes, and the event loop has not looked."""
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        for number in range(1, 20):
            assert (await caller.request(method, body=b"{}")).status == 200
            assert product.fumage.seen[-1].connection == number
            for wire in list(product.fumage.wires):
                # At once: a transport's own close may wait for the next turn of the loop.
                with socket.socket(fileno=os.dup(wire.transport.get_extra_info("socket").fileno())) as sock:
                    sock.shutdown(socket.SHUT_RDWR)


async def test_no_get_fails_before_a_fumage_that_closes_after_each_answer() -> None:
    async def answer_and_close(seen: Seen, wire: Wire) -> None:
        await reply(200, PATIENT)(seen, wire)
        wire.close()

    async with Product() as product:
        product.fumage.answer = answer_and_close

        async def ask() -> None:
            async with await Caller.connect(product.port) as caller:
                for _ in range(40):
                    assert (await caller.request()).body == PATIENT

        await asyncio.gather(*(ask() for _ in range(8)))
        assert all(record.status == 200 for record in product.records)


async def test_no_get_fails_before_a_fumage_that_closes_connections_at_random_moments() -> None:
    async with Product() as product:
        done = False

        async def reap() -> None:
            while not done:
                for wire in list(product.fumage.wires):
                    if not wire.buffer and wire.seen and wire.seen.complete:  # a new one it leaves alone
                        wire.close()
                await asyncio.sleep(0.001)

        async def ask() -> None:
            async with await Caller.connect(product.port) as caller:
                for _ in range(60):
                    assert (await caller.request()).status == 200

        reaper = asyncio.create_task(reap())
        await asyncio.gather(*(ask() for _ in range(5)))
        done = True
        await reaper


@pytest.mark.parametrize(("idle", "connection"), [(0.0, 1), (1.9, 1), (2.1, 2)])
async def test_a_write_rides_only_what_was_used_in_the_last_two_seconds(idle: float, connection: int) -> None:
    clock = FakeClock()
    async with Product(clock=clock) as product:
        await quiet(product)
        clock.time += idle
        assert (await fetch(product.port, "POST", body=b"{}")).status == 200
        assert [seen.connection for seen in product.fumage.seen] == [connection]


async def test_a_get_rides_what_was_idle_for_longer() -> None:
    clock = FakeClock()
    async with Product(clock=clock) as product:
        await quiet(product)
        clock.time += 10
        assert (await fetch(product.port)).status == 200
        assert [seen.connection for seen in product.fumage.seen] == [1]


async def test_after_a_suspend_no_request_rides_what_was_open_before() -> None:
    clock = FakeClock()
    async with Product(clock=clock) as product:
        await fill(product, 4)
        clock.time += 600
        assert (await fetch(product.port)).status == 200
        assert product.fumage.seen[-1].connection == 5
        await product.fumage.until(lambda: product.fumage.open == 1)


async def test_a_connection_that_closes_before_its_request_is_written_costs_an_error_and_no_wait() -> None:
    """As when the token expires while a request waits for a connection, and a new one has to be fetched."""
    async with quiet_product() as product:
        connection = product.app._pool.take(product.app._clock.now(), recent=False)
        assert connection is not None
        product.fumage.close_all()
        await until(lambda: connection.closed)
        connection.begin(b"POST / HTTP/1.1\r\n\r\n", head_only=False, whole=True)
        with pytest.raises(FumageConnectionLost) as raised:
            connection.answer()
        assert raised.value.details == "not-sent"
        assert counts(product)["active"] == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_connection_of_a_caller_that_leaves_is_closed(method: str) -> None:
    gone = asyncio.Event()

    async def wait(seen: Seen, wire: Wire) -> None:
        await wire.forever()
        gone.set()

    async with quiet_product() as product:
        product.fumage.script += [wait]
        async with await Caller.connect(product.port) as caller:
            task = asyncio.create_task(caller.request(method, body=b"{}"))
            await product.fumage.until(lambda: bool(product.fumage.seen))
            task.cancel()
        await asyncio.wait_for(gone.wait(), 15)
        await quiet(product, 0)
