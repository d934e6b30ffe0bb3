"""A slow Fumage: each wait has its end, and its name."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.forward.fumage import counts, listener, quiet, quiet_product, told
from tests.forward.leftovers import until
from tests.support import chunk
from tests.support.caller import Broken, Caller, build, fetch
from tests.support.product import Product
from tests.support.upstream import Behaviour, Seen, Wire, early, hang, raw, reply

OK = b"HTTP/1.1 200 OK\r\n"


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, read, and say nothing."""
    while await reader.read(65536):
        pass


async def test_a_listener_that_accepts_nobody_is_a_connection_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:  # the kernel queues one or two; it drops the SYN of all others
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        async with Product(base_url=f"http://127.0.0.1:{port}", connect_timeout="200ms") as product:
            got = await fetch(product.port, "POST", body=b"{}")
            assert told(got) == (504, "timeout", "connection_timeout", None)
            assert counts(product) == {"idle": 0, "active": 0, "opening": 0}
        for sock in waiting:
            sock.close()


async def test_a_handshake_that_hangs_is_a_connection_timeout() -> None:
    ended = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent(reader, writer)
        ended.set()

    async with (
        listener(hang) as port,
        Product(base_url=f"https://localhost:{port}", connect_timeout="200ms") as product,
    ):
        assert told(await fetch(product.port)) == (504, "timeout", "connection_timeout", None)
        await asyncio.wait_for(ended.wait(), 15)  # nothing stays open
        assert counts(product) == {"idle": 0, "active": 0, "opening": 0}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_no_answer_within_response_timeout_is_a_response_timeout(method: str) -> None:
    async with quiet_product(response_timeout="150ms") as product:
        product.fumage.script += [hang()]
        got = await fetch(product.port, method, body=b"{}" if method == "POST" else None)
        assert told(got) == (504, "timeout", "http_response_timeout", None)
        assert len(product.fumage.seen) == 1
        assert product.records[-1].upstream_seconds > 0.14  # what was waited in vain was waited for Fumage
        await product.fumage.until(lambda: product.fumage.open == 0)
        assert (await fetch(product.port)).status == 200


def trickle(data: bytes, pause: float) -> Behaviour:
    async def answer(seen: Seen, wire: Wire) -> None:
        while not wire.transport.is_closing():
            wire.write(data)
            await asyncio.sleep(pause)

    return answer


async def test_interim_answers_without_end_are_a_response_timeout() -> None:
    async with quiet_product(response_timeout="200ms") as product:
        product.fumage.script += [trickle(b"HTTP/1.1 102 Processing\r\n\r\n", 0.02)]
        assert told(await fetch(product.port)) == (504, "timeout", "http_response_timeout", None)
        await product.fumage.until(lambda: product.fumage.open == 0)


async def test_a_head_that_never_ends_is_a_response_timeout() -> None:
    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(OK)
        while not wire.transport.is_closing():
            wire.write(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.02)

    async with quiet_product(response_timeout="200ms") as product:
        product.fumage.script += [answer]
        assert told(await fetch(product.port)) == (504, "timeout", "http_response_timeout", None)


async def test_an_interim_answer_does_not_start_the_clock_of_an_upload_that_goes_on() -> None:
    @early
    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await wire.body()
        await reply(201, b"done")(seen, wire)

    async with (
        quiet_product(response_timeout="200ms") as product,
        await Caller.connect(product.port) as caller,
    ):
        product.fumage.script += [answer]
        size = 400_000
        head = build("POST", "/Binary", [("Content-Length", str(size))])
        caller.write(head + b"x" * (size - 3))
        for _ in range(3):
            await asyncio.sleep(0.15)
            caller.write(b"x")
        assert (await caller.answer()).body == b"done"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_body_that_stands_still_for_idle_timeout_breaks_off(framing: str) -> None:
    starts = {
        "length": OK + b"Content-Length: 10\r\n\r\nhello",
        "chunked": OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"hello"),
        "close": OK + b"\r\nhello",
    }
    async with quiet_product(idle_timeout="200ms") as product:
        product.fumage.script += [raw(starts[framing])]
        with pytest.raises(Broken) as broken:
            await fetch(product.port)
        assert broken.value.read.endswith(b"hello" if framing == "length" else b"hello\r\n")
        await product.fumage.until(lambda: product.fumage.open == 0)
        assert (await fetch(product.port)).status == 200


async def test_a_body_that_stands_still_breaks_off_although_an_upload_went_on_meanwhile() -> None:
    @early
    async def begin_and_take_all(seen: Seen, wire: Wire) -> None:
        wire.write(OK + b"Content-Length: 100\r\n\r\nhello")
        await wire.body()
        await until(lambda: product.records)

    async with quiet_product(idle_timeout="300ms") as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [begin_and_take_all]
        caller.write(build("POST", "/Binary", body=b"x" * 20_000_000))
        with pytest.raises(Broken):
            await caller.answer()


async def test_a_slow_body_is_not_a_still_one() -> None:
    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(OK + b"Content-Length: 8\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.06)
            wire.write(b"x")

    async with quiet_product(idle_timeout="250ms", response_timeout="250ms") as product:
        product.fumage.script += [answer]
        assert (await fetch(product.port)).body == b"x" * 8


async def test_an_upload_that_fumage_does_not_take_ends_after_idle_timeout() -> None:
    @early
    async def refuse_to_read(seen: Seen, wire: Wire) -> None:
        wire.transport.pause_reading()
        await until(lambda: product.records)

    async with quiet_product(idle_timeout="300ms") as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [refuse_to_read]
        caller.write(build("POST", "/Binary", body=b"x" * 20_000_000))
        assert told(await caller.answer()) == (504, "timeout", "http_response_timeout", None)
        assert counts(product)["active"] == 0


async def test_fumage_may_take_an_upload_slowly() -> None:
    size = 12_000_000

    @early
    async def slow(seen: Seen, wire: Wire) -> None:
        left = size
        while left:
            await asyncio.sleep(0.005)
            left -= len(await wire.some(left))
        seen.complete = True
        await reply(201)(seen, wire)

    async with quiet_product(idle_timeout="250ms", response_timeout="250ms") as product:
        product.fumage.script += [slow]
        assert (await fetch(product.port, "POST", "/Binary", body=b"x" * size)).status == 201


async def test_a_connection_that_fumage_does_not_read_is_not_held_open_after_its_answer() -> None:
    """Fumage has answered, but not read the upload: a polite close would wait for it for ever."""

    @early
    async def answer_and_stop_reading(seen: Seen, wire: Wire) -> None:
        wire.transport.pause_reading()
        wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await looked.wait()

    looked = asyncio.Event()
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [answer_and_stop_reading]
        before = sockets()
        caller.write(build("POST", "/Binary", body=b"x" * 20_000_000))
        assert (await caller.answer()).body == b"hi"
        await quiet(product, 0)
        await until(lambda: sockets() < before)  # ours is closed, Fumage's end is not
        looked.set()


def sockets() -> int:
    if not (descriptors := Path("/proc/self/fd")).exists():
        pytest.skip("reads /proc")
    return len(list(descriptors.iterdir()))
