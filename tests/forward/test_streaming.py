"""Section 4 of the contract: bodies stream both ways, and what breaks off looks broken."""

import asyncio

import pytest

from proxy.forward.replay import GATHER
from tests.forward.leftovers import left, nothing_left, ready, until
from tests.support import chunk, head, last_chunk
from tests.support.caller import Caller, Cut, build, fetch
from tests.support.product import Product
from tests.support.upstream import Behaviour, Seen, Wire, after, close_without_answer, early, hang, raw, reply

MIB = 1 << 20


class Steps:
    """An answer that goes on when the test says so."""

    def __init__(self, *pieces: bytes):
        self.pieces = pieces
        self.go: asyncio.Queue[None] = asyncio.Queue()

    async def __call__(self, seen: Seen, wire: Wire) -> None:
        for piece in self.pieces:
            await self.go.get()
            wire.write(piece)
            await wire.drain()


HEADS = {
    "length": head("HTTP/1.1 200 OK", [("Content-Length", "6")]),
    "chunked": head("HTTP/1.1 200 OK", [("Transfer-Encoding", "chunked")]),
    "close": head("HTTP/1.1 200 OK", [("Connection", "close")]),
}


@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_head_and_pieces_of_an_answer_arrive_as_they_come(framing: str, version: str) -> None:
    parts = [b"ab", b"cd", b"ef"]
    steps = Steps(HEADS[framing], *(chunk(part) if framing == "chunked" else part for part in parts))
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [steps]
        caller.write(b"GET / HTTP/%b\r\nHost: localhost\r\n\r\n" % version.encode())
        steps.go.put_nowait(None)
        while await caller.line():
            pass
        for part in parts:
            steps.go.put_nowait(None)
            got = b""
            while part not in got:
                got += await caller.some()


async def arrived(product: Product, size: int) -> None:
    await product.fumage.until(lambda: product.fumage.seen and len(product.fumage.seen[0].content) == size)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_an_upload_goes_on_as_it_comes(chunked: bool) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(2 * MIB))
        caller.write(build("POST", "/Binary", [framing]))
        for quarter in range(1, 9):
            caller.write(chunk(b"x" * (MIB // 4)) if chunked else b"x" * (MIB // 4))
            await arrived(product, quarter * MIB // 4)
        caller.write(last_chunk() if chunked else b"")
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_a_small_body_is_received_whole_before_a_connection_is_taken(chunked: bool) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        await ready(product)
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(GATHER))
        caller.write(build("POST", "/A", [framing]))
        await caller.send(chunk(b"x" * (GATHER - 1)) if chunked else b"x" * (GATHER - 1))
        await until(lambda: left(product).get("memory") == GATHER - 1)
        assert "active" not in left(product)
        assert product.fumage.seen == []
        await caller.send(chunk(b"x") if chunked else b"x")
        await product.fumage.until(lambda: len(product.fumage.seen) == 1)  # a chunked one may go on for ever
        await caller.send(last_chunk() if chunked else b"")
        assert (await caller.answer()).status == 200


async def test_slow_callers_do_not_use_up_the_pool() -> None:
    async with Product(max_connections="1") as product:
        slow = [await Caller.connect(product.port) for _ in range(5)]
        for caller in slow:
            await caller.send(build("POST", "/A", [("Content-Length", "10")]) + b"x")
        assert (await fetch(product.port)).status == 200
        for caller in slow:
            await caller.send(b"x" * 9)
            assert (await caller.answer()).status == 200
            caller.cut()
        await nothing_left(product)


async def test_large_bodies_pass_both_ways_at_once_and_whole() -> None:
    whole = bytes(range(256)) * (8 * MIB // 256)

    async def echo(seen: Seen, wire: Wire) -> None:
        wire.write(head("HTTP/1.1 200 OK", [("Transfer-Encoding", "chunked")]))
        for _ in range(len(whole) // 65536):
            wire.write(chunk(await wire.exactly(65536)))
            await wire.drain()
        wire.write(last_chunk())
        seen.complete = True  # read here, past the double

    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [early(echo)]
        caller.write(build("POST", "/Binary", [("Content-Length", str(len(whole)))]))
        caller.write(whole)
        answer = await caller.answer()
        assert answer.body == whole


async def test_a_caller_that_does_not_read_holds_fumage_back() -> None:
    written = 0

    async def endless(seen: Seen, wire: Wire) -> None:
        nonlocal written
        wire.write(HEADS["chunked"])
        while True:
            wire.write(chunk(b"x" * 65536))
            await wire.drain()
            written += 65536

    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [endless]
        caller.transport.pause_reading()
        caller.write(build())
        before = -1
        while written != before:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.05)
        assert 0 < written < 32 * MIB  # what two pairs of sockets hold, and little more
        (busy,) = product.app._pool._open - set(product.app._pool._idle)
        assert busy.closed is False
    await nothing_left(product)


async def test_a_fumage_that_does_not_read_holds_the_caller_back() -> None:
    free = asyncio.Event()

    async def late(seen: Seen, wire: Wire) -> None:
        await free.wait()
        await wire.body()
        await reply(200)(seen, wire)

    async with Product(replay_limit="1MiB") as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [early(late)]
        caller.write(build("POST", "/Binary", [("Content-Length", str(64 * MIB))]))
        caller.write(b"x" * (64 * MIB))
        await product.fumage.until(lambda: product.fumage.seen)
        written = -1
        while caller.transport.get_write_buffer_size() != written:  # until nothing moves any more
            written = caller.transport.get_write_buffer_size()
            await asyncio.sleep(0.05)
        assert written > 32 * MIB
        free.set()
        assert (await caller.answer()).status == 200
        assert len(product.fumage.seen[0].content) == 64 * MIB


EARLY: dict[str, Behaviour] = {
    "keeps the connection": early(reply(413, b"too much")),
    "closes the connection": early(reply(413, b"too much", keep_alive=False)),
    "chunked": early(reply(413, framing="chunked", chunks=[b"too", b" much"])),
}


@pytest.mark.parametrize("shape", EARLY)
async def test_an_early_answer_reaches_the_caller_while_it_still_sends(shape: str) -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [EARLY[shape]]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Content-Length", str(4 * MIB))]) + b"x" * MIB)
            answer = await caller.answer()
            assert (answer.status, answer.body, answer["Connection"]) == (413, b"too much", "close")
        await nothing_left(product)
        assert (await fetch(product.port)).status == 200


BREAKS = {
    "length": (head("HTTP/1.1 200 OK", [("Content-Length", "100")]), b"x" * 50),
    "chunked": (HEADS["chunked"], chunk(b"x" * 50)),
    "in a chunk": (HEADS["chunked"], b"64\r\n" + b"x" * 50),
    "after the last chunk": (HEADS["chunked"], chunk(b"x" * 50) + b"0\r\n"),
    "in the trailers": (HEADS["chunked"], chunk(b"x" * 50) + b"0\r\nX-A: "),
    "no chunk": (HEADS["chunked"], chunk(b"x" * 50) + b"zz\r\n"),
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("shape", BREAKS)
async def test_an_answer_that_breaks_off_breaks_off_for_the_caller_too(
    shape: str, then: str, version: str
) -> None:
    start, part = BREAKS[shape]
    async with Product() as product:
        product.fumage.script += [raw(start + part, then=then)]  # type: ignore[arg-type]
        async with await Caller.connect(product.port) as caller:
            caller.write(b"POST / HTTP/%b\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % version.encode())
            with pytest.raises(Cut) as broken:
                await caller.answer()
            assert broken.value.ending == "reset"
            assert not broken.value.read.endswith(b"0\r\n\r\n")
        assert len(product.fumage.seen) == 1
        assert product.records[-1].broken is not None
        await nothing_left(product)


async def test_a_reset_of_a_close_delimited_answer_is_no_end_for_an_http_1_0_caller() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [raw(HEADS["close"] + b"x" * 50, then="reset")]
        caller.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        with pytest.raises(Cut) as broken:
            await caller.answer()
        assert broken.value.ending == "reset"


async def test_a_get_on_a_connection_that_turns_out_closed_is_sent_once_more_and_only_once() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [close_without_answer()]
        assert (await fetch(product.port)).status == 200
        assert len(product.fumage.seen) == 2
        product.fumage.script += [close_without_answer(), close_without_answer()]
        answer = await fetch(product.port)
        assert (answer.status, answer.proxy_status["error"]) == (502, "connection_terminated")
        assert len(product.fumage.seen) == 4
        await nothing_left(product)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_that_gets_lost_is_never_sent_again(method: str) -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [close_without_answer()]
        answer = await fetch(product.port, method, "/Patient/1", body=b"x")
        assert (answer.status, answer.proxy_status["details"]) == (502, "outcome-unknown")
        assert len(product.fumage.seen) == 1
        await nothing_left(product)


async def test_a_connection_that_fumage_closes_at_once_is_told_and_hangs_nobody() -> None:
    async def shut(wire: Wire) -> None:
        wire.cut()

    async with Product(response_timeout="5s") as product:
        await ready(product)
        product.fumage.close_all()
        product.fumage.on_connect = shut
        for method in ("GET", "POST"):
            answer = await fetch(product.port, method, "/A", body=b"x")
            assert (answer.status, answer.proxy_status["error"]) == (502, "connection_terminated")
        await nothing_left(product)


async def test_a_slow_answer_ends_as_504_and_its_connection_is_closed() -> None:
    async with Product(response_timeout="50ms") as product:
        product.fumage.script += [hang()]
        answer = await fetch(product.port, "POST", "/A", body=b"x")
        assert (answer.status, answer.proxy_status["error"]) == (504, "http_response_timeout")
        await nothing_left(product)


async def test_a_body_that_stands_still_ends_as_408_and_its_connection_is_closed() -> None:
    async with Product(idle_timeout="50ms") as product:
        for size in (100, 200_000):
            async with await Caller.connect(product.port) as caller:
                caller.write(build("POST", "/A", [("Content-Length", str(size))]) + b"x" * (size - 1))
                answer = await caller.answer()
                assert (answer.status, answer.proxy_status["error"]) == (408, "http_request_error")
        await nothing_left(product)


async def test_all_connections_busy_is_told() -> None:
    async with Product(max_connections="1", connect_timeout="50ms") as product:
        free = asyncio.Event()
        product.fumage.script += [after(free, reply(200))]
        first = asyncio.create_task(fetch(product.port))
        await product.fumage.until(lambda: product.fumage.seen)
        answer = await fetch(product.port)
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.proxy_status["error"] == "connection_limit_reached"
        free.set()
        assert (await first).status == 200


async def test_a_proxy_that_is_stopping_tells_so() -> None:
    async with Product() as product:
        product.app._phase.draining = True
        answer = await fetch(product.port, "POST", "/A", body=b"x")
        assert (answer.status, answer["Retry-After"]) == (503, "1")
        assert answer.proxy_status["error"] == "proxy_internal_response"
        assert product.fumage.seen == []


@pytest.mark.parametrize("reloaded", [False, True], ids=["", "after a reload"])
async def test_what_the_end_of_draining_breaks_off_was_not_left_by_its_caller(reloaded: bool) -> None:
    async with Product(drain_timeout="50ms") as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = hang()
        caller.write(build())
        await product.fumage.until(lambda: product.fumage.seen)
        if reloaded:
            await product.app.change(product.app._settings)
        await product.app.drain()
        await product.app.close()
        (record,) = product.records
        assert (record.abandoned, record.status) == (False, 0)
        assert "drain_timeout" in str(record.broken)
