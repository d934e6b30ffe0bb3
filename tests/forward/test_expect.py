"""Expect: 100-continue where Fumage answers before it has read the body."""

import asyncio

import pytest

from tests.forward.leftovers import nothing_left, ready
from tests.support import chunk, last_chunk
from tests.support.caller import Caller, build
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, early, reply, unauthorized

GATHERED = 64 * 1024  # bytes of a body that are received before Fumage is asked
WHOLE = b"x" * 200_000
REFUSED = early(reply(422, b"no", keep_alive=False))


def upload(chunked: bool) -> bytes:
    framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(WHOLE)))
    return build("POST", "/Binary", [("Expect", "100-continue"), framing])


def pieces(chunked: bool) -> tuple[bytes, bytes]:
    first, rest = WHOLE[:GATHERED], WHOLE[GATHERED:]
    return (chunk(first), chunk(rest) + last_chunk()) if chunked else (first, rest)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_an_early_answer_reaches_a_caller_that_was_told_to_continue(chunked: bool) -> None:
    """It hears of it before it has sent all, and the connection is not used for another request."""
    async with Product() as product, await Caller.connect(product.port) as caller:
        await ready(product)
        product.fumage.script += [REFUSED]
        caller.write(upload(chunked))
        assert await caller.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.write(pieces(chunked)[0])
        answer = await caller.answer()
        assert (answer.status, answer.body, answer.interim) == (422, b"no", [])
        assert answer["Connection"] == "close"
        assert len(product.fumage.seen) == 1
        assert product.fumage.seen[0]["Expect"] is None
        caller.close()
        await nothing_left(product)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_an_early_401_is_replayed_and_the_caller_is_told_to_continue_only_once(chunked: bool) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        await ready(product)
        product.fumage.script += [early(unauthorized())]
        first, rest = pieces(chunked)
        caller.write(upload(chunked))
        assert await caller.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.write(first)
        await product.fumage.until(lambda: len(product.fumage.seen) == 2)
        caller.write(rest)
        answer = await caller.answer()
        assert (answer.status, answer.interim) == (200, [])
        assert product.fumage.seen[1].body == WHOLE
        caller.close()
        await nothing_left(product)


async def test_a_100_of_fumage_does_not_reach_a_caller_that_was_told_already() -> None:
    asked = asyncio.Event()

    async def two(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        asked.set()
        await wire.body()
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await reply(200, b"done")(seen, wire)

    async with Product() as product, await Caller.connect(product.port) as caller:
        await ready(product)
        product.fumage.script += [early(two)]
        first, rest = pieces(chunked=False)
        caller.write(upload(chunked=False))
        assert await caller.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.write(first)
        await asked.wait()
        caller.write(rest)
        answer = await caller.answer()
        assert (answer.status, answer.body, answer.interim) == (200, b"done", [])
