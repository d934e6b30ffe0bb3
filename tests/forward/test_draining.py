"""The end of the process, from the inside: which connections are closed when, and what they still bring."""

import asyncio
import socket

import pytest

from tests.forward.callers import deaf
from tests.forward.leftovers import ready, until
from tests.support.caller import Caller, build
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, reply


def pause(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long a kept connection may bring one more request."""
    monkeypatch.setattr("proxy.app._PAUSE", seconds)


async def half_answered(product: Product, caller: Caller) -> asyncio.Event:
    """Half of an answer is here, whose head said keep-alive; the event lets the rest come."""
    go = asyncio.Event()

    async def slow(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await go.wait()
        wire.write(b"cd")

    product.fumage.script += [slow]
    caller.write(build())
    while b"ab" not in caller.buffer:
        await caller.more()
    return go


@pytest.mark.parametrize("drain_timeout", ["0s", "200s"])
async def test_a_connection_that_brought_no_request_is_closed_at_once(
    drain_timeout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause(monkeypatch, 100)
    async with Product(drain_timeout=drain_timeout) as product, await Caller.connect(product.port) as caller:
        await until(lambda: product.app._callers.open)
        async with asyncio.timeout(10):
            await product.app.drain()
        assert await caller.eof() == "eof"


async def test_a_kept_connection_that_brings_nothing_is_closed_a_moment_after_its_last_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause(monkeypatch, 0.2)
    async with Product() as product, await Caller.connect(product.port) as caller:
        assert (await caller.request())["Connection"] is None
        await product.app.drain()
        assert await caller.eof() == "eof"


async def test_a_kept_connection_brings_one_more_request_whose_answer_tells_the_caller_to_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause(monkeypatch, 60)
    async with Product(drain_timeout="100s") as product, await Caller.connect(product.port) as caller:
        assert (await caller.request())["Connection"] is None
        drained = asyncio.create_task(product.app.drain())
        await until(lambda: product.app._callers.idle.seconds == 60)
        answer = await caller.request("POST", body=b"{}")
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert await caller.eof() == "eof"
        await asyncio.wait_for(drained, 10)


async def test_a_request_whose_head_is_here_in_part_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pause(monkeypatch, 60)
    async with Product(drain_timeout="100s") as product, await Caller.connect(product.port) as caller:
        await caller.send(build()[:20])
        await until(lambda: any(connection._reader.partial for connection in product.app._callers.open))
        drained = asyncio.create_task(product.app.drain())
        await until(lambda: product.app._callers.idle.seconds == 60)
        await asyncio.sleep(0.05)
        await caller.send(build()[20:])
        answer = await caller.answer()
        assert (answer.status, answer["Connection"]) == (200, "close")
        await asyncio.wait_for(drained, 10)


async def test_without_time_for_it_kept_connections_are_closed_at_once() -> None:
    async with Product(drain_timeout="0s") as product, await Caller.connect(product.port) as caller:
        await caller.request()
        await product.app.drain()
        assert await caller.eof() == "eof"


async def test_what_comes_behind_an_answer_that_ends_later_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause(monkeypatch, 0.05)
    async with Product() as product, await Caller.connect(product.port) as caller:
        await ready(product)
        go = await half_answered(product, caller)
        drained = asyncio.create_task(product.app.drain())
        await until(lambda: product.app._phase.draining)
        await caller.send(build("POST", body=b"{}"))
        go.set()
        assert (await caller.answer()).body == b"abcd"
        late = await caller.answer()
        assert (late.status, late["Retry-After"], late["Connection"]) == (503, "1", "close")
        assert len(product.fumage.seen) == 1
        await drained


async def test_a_request_behind_an_answer_that_the_caller_has_yet_to_take_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause(monkeypatch, 0.05)
    async with Product() as product:
        await ready(product)
        product.fumage.script += [reply(200, b"x" * 20_000)]
        async with await deaf(product.port) as caller:
            await until(lambda: product.app._callers.open)
            (connection,) = product.app._callers.open
            transport = connection._transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport.set_write_buffer_limits(high=1)
            caller.write(build() + build("POST", body=b"{}"))
            await until(lambda: connection in product.app._callers.idle)
            assert connection.congested
            drained = asyncio.create_task(product.app.drain())
            await until(lambda: product.app._phase.draining)
            await asyncio.sleep(0.1)
            caller.transport.resume_reading()
            assert len((await caller.answer()).body) == 20_000
            assert (await caller.answer())["Connection"] == "close"
            await drained


async def test_draining_waits_until_the_last_byte_of_an_answer_is_out() -> None:
    size = 8_000_000
    async with Product() as product:
        product.fumage.script += [reply(200, b"x" * size)]
        async with await deaf(product.port) as caller:
            caller.limit = 0  # pauses after each piece
            caller.write(build(headers=[("Connection", "close")]))
            await until(lambda: product.app._callers.open and product.fumage.seen)
            (connection,) = product.app._callers.open
            drained = asyncio.create_task(product.app.drain())
            while connection in product.app._callers.open:
                assert not drained.done()
                caller.transport.resume_reading()
                await asyncio.sleep(0)
            caller.limit = 2 * size
            assert len((await caller.answer()).body) == size
            await drained


async def test_a_connection_that_was_promised_to_stay_does_not_hold_up_the_drain() -> None:
    """The answer's head said keep-alive before the signal came."""
    async with Product(drain_timeout="50s") as product, await Caller.connect(product.port) as caller:
        go = await half_answered(product, caller)
        drained = asyncio.create_task(product.app.drain())
        await until(lambda: product.app._callers.draining)
        go.set()
        assert (await caller.answer()).body == b"abcd"
        assert await caller.eof() == "eof"
        await drained
