"""Which bodies are sent once more after a 401, and what is kept of them meanwhile (sections 4 and 6.3)."""

import asyncio
import socket

import pytest

from proxy.forward.replay import GATHER, ReplayMemory
from tests.forward.leftovers import issue, left, nothing_left, ready
from tests.support import chunk, last_chunk
from tests.support.caller import Answer, Caller, build, fetch
from tests.support.product import Product
from tests.support.upstream import (
    Behaviour,
    Seen,
    Wire,
    after,
    early,
    hang,
    reply,
    tokens_only,
    unauthorized,
)

LIMIT = 128 * 1024
SETTINGS = {"replay_limit": str(LIMIT)}


def body(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def is_renewed(answer: Answer) -> bool:
    assert (answer.status, answer["Retry-After"]) == (503, "1")
    assert answer.proxy_status == {"error": "destination_unavailable", "details": "token-renewed"}
    assert issue(answer) == ("error", "transient")
    return True


def hold_grant(product: Product) -> tuple[asyncio.Event, asyncio.Event]:
    """Have tokens wait: the first event is set when one is asked for, and the second lets it be granted."""
    asked, granted = asyncio.Event(), asyncio.Event()

    async def grant(seen: Seen, wire: Wire) -> None:
        asked.set()
        await granted.wait()
        await product.emr.grant()(seen, wire)

    product.emr.answer = grant
    return asked, granted


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize(
    "size", [1, GATHER - 1, GATHER, GATHER + 1, LIMIT - 1, LIMIT], ids=lambda size: f"{size} bytes"
)
async def test_a_body_up_to_the_limit_is_sent_once_more(size: int, chunked: bool) -> None:
    async with Product(**SETTINGS) as product:
        product.fumage.script += [unauthorized()]
        answer = await fetch(product.port, "POST", "/Binary", body=body(size), chunked=chunked)
        assert answer.status == 200
        assert [seen.body for seen in product.fumage.seen] == [body(size)] * 2
        await nothing_left(product)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_with_one_byte_more_the_caller_is_told_to_send_again_and_that_works(chunked: bool) -> None:
    async with Product(**SETTINGS) as product:
        valid = {"token-1"}
        product.fumage.answer = tokens_only(valid)
        await ready(product)
        valid.clear()
        valid.add("token-2")
        async with await Caller.connect(product.port) as caller:
            for attempt in range(2):
                answer = await caller.request("POST", "/Binary", body=body(LIMIT + 1), chunked=chunked)
                assert is_renewed(answer) if attempt == 0 else answer.status == 200
        assert [seen.bearer for seen in product.fumage.seen] == ["token-1", "token-2"]
        assert product.emr.requests == 2
        assert product.records[0].replay == "too_large"
        await nothing_left(product)


async def test_an_upload_over_the_limit_that_is_rejected_early_is_told_so_and_its_rest_is_not_sent() -> None:
    async with Product(**SETTINGS) as product:
        await ready(product)
        product.fumage.script += [early(unauthorized())]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Content-Length", str(4 * LIMIT))]) + body(LIMIT))
            assert is_renewed(await caller.answer())
        (seen,) = product.fumage.seen
        assert len(seen.body) <= LIMIT
        await nothing_left(product)


async def test_a_caller_that_sends_all_of_a_large_upload_before_it_reads_still_gets_to_read_that() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [early(unauthorized())]
        answer = await asyncio.to_thread(blocking_upload, product.port, body(16_000_000))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'details="token-renewed"' in answer
        await nothing_left(product)


def blocking_upload(port: int, content: bytes) -> bytes:
    """As most clients do it: write everything, then read."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as caller:
        caller.sendall(build("POST", "/Binary", [("Content-Length", str(len(content)))]))
        caller.sendall(content)
        return caller.recv(65536)


async def test_trailers_are_sent_once_more_too() -> None:
    async with Product() as product:
        product.fumage.script += [unauthorized()]
        await fetch(product.port, "POST", "/A", body=[b"a", b"b"], chunked=True, trailers=[("X-Sum", "1")])
        assert [seen.trailers for seen in product.fumage.seen] == [[(b"X-Sum", b"1")]] * 2


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_when_replay_memory_is_used_up_the_caller_is_told_to_send_again(chunked: bool) -> None:
    async with Product(replay_limit="64KiB", replay_memory="100000") as product:
        await ready(product)
        free = asyncio.Event()
        product.fumage.script += [after(free, reply(200)), unauthorized()]
        first = asyncio.create_task(fetch(product.port, "POST", "/Binary", body=body(60_000)))
        await product.fumage.until(lambda: len(product.fumage.seen) == 1)
        assert is_renewed(await fetch(product.port, "POST", "/Binary", body=body(60_000), chunked=chunked))
        free.set()
        assert (await first).status == 200
        product.fumage.script += [unauthorized()]
        again = await fetch(product.port, "POST", "/Binary", body=body(60_000), chunked=chunked)
        assert again.status == 200
        await nothing_left(product)


async def test_memory_is_given_back_as_soon_as_a_body_turns_out_too_large() -> None:
    async with Product(replay_limit="100000") as product:
        await ready(product)
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Transfer-Encoding", "chunked")]) + chunk(body(100_000)))
            await product.fumage.until(
                lambda: product.fumage.seen and len(product.fumage.seen[0].body) == 100_000
            )
            assert left(product)["memory"] == 100_000
            await caller.send(chunk(b"x"))
            await product.fumage.until(lambda: len(product.fumage.seen[0].body) == 100_001)
            assert "memory" not in left(product)
            caller.write(last_chunk())
            assert (await caller.answer()).status == 200
        await nothing_left(product)


async def test_memory_is_given_back_as_soon_as_the_answer_begins() -> None:
    async def half(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await wire.forever()

    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [half]
        caller.write(build("POST", "/Binary", body=body(1000)))
        while await caller.line():
            pass
        assert "memory" not in left(product)


def test_memory_is_taken_whole_or_not_at_all() -> None:
    memory = ReplayMemory(10)
    assert memory.take(4)
    assert not memory.take(7)
    assert memory.take(6)
    memory.give_back(4)
    assert memory.take(4)
    assert not memory.take(1)


EARLY: dict[str, Behaviour] = {
    "keeps the connection": early(unauthorized()),
    "closes the connection": early(reply(401, b"no", keep_alive=False)),
    "close-delimited": early(reply(401, b"no", framing="close")),
    "chunked": early(reply(401, framing="chunked", chunks=[b"no"])),
    "no body": early(reply(401)),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize("shape", EARLY)
async def test_a_401_while_the_caller_still_sends_costs_not_a_byte_of_the_body(
    shape: str, chunked: bool
) -> None:
    whole = body(200_000)
    async with Product() as product:
        await ready(product)
        product.fumage.script += [EARLY[shape]]
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(whole)))
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [framing]))
            first, rest = whole[:120_000], whole[120_000:]
            caller.write(chunk(first) if chunked else first)
            await product.fumage.until(lambda: len(product.fumage.seen) == 2)
            await product.fumage.until(lambda: len(product.fumage.seen[1].body) == len(first))
            caller.write(chunk(rest) + last_chunk() if chunked else rest)
            assert (await caller.answer()).status == 200
            assert (await caller.request()).status == 200
        assert product.fumage.seen[1].body == whole
        assert [seen.bearer for seen in product.fumage.seen] == ["token-1", "token-2", "token-2"]
        await nothing_left(product)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize("more", [0, 1])
async def test_an_upload_that_is_rejected_early_is_sent_once_more_unless_its_length_is_over_the_limit(
    more: int, chunked: bool
) -> None:
    """What had come before the 401 could be kept; what comes after it is not sent twice, and need not be."""
    whole = body(LIMIT + more)
    first, rest = whole[:-10], whole[-10:]
    async with Product(**SETTINGS) as product:
        await ready(product)
        asked, granted = hold_grant(product)
        product.fumage.script += [early(unauthorized())]
        framing = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(whole)))
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [framing]) + (chunk(first) if chunked else first))
            await asked.wait()
            caller.write(chunk(rest) + last_chunk() if chunked else rest)
            granted.set()
            answer = await caller.answer()
        too_large = more and not chunked
        assert is_renewed(answer) if too_large else answer.status == 200
        assert [seen.body for seen in product.fumage.seen if seen.complete] == ([] if too_large else [whole])
        await nothing_left(product)


async def test_what_comes_while_the_new_token_is_fetched_is_sent_too() -> None:
    async with Product() as product:
        await ready(product)
        asked, granted = hold_grant(product)
        product.fumage.script += [early(unauthorized())]
        whole = body(3_000_000)
        async with await Caller.connect(product.port) as caller:
            caller.write(build("PUT", "/Binary/1", [("Content-Length", str(len(whole)))]))
            caller.write(whole[:1_000_000])
            await asked.wait()
            caller.write(whole[1_000_000:])
            granted.set()
            assert (await caller.answer()).status == 200
        assert product.fumage.seen[1].body == whole
        await nothing_left(product)


async def test_a_caller_that_leaves_while_its_new_token_is_fetched_leaves_nothing_behind() -> None:
    async with Product() as product:
        await ready(product)
        asked = asyncio.Event()

        async def grant(seen: Seen, wire: Wire) -> None:
            asked.set()
            await hang()(seen, wire)

        product.emr.answer = grant
        product.fumage.script += [early(unauthorized())]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Content-Length", "200000")]) + body(100_000))
            await asked.wait()
            caller.reset()
        await nothing_left(product)
        assert len(product.fumage.seen) == 1
        assert (product.records[-1].status, product.records[-1].abandoned) == (0, True)


async def test_a_caller_that_leaves_in_the_middle_of_its_second_sending_leaves_nothing_behind() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [early(unauthorized())]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Content-Length", "200000")]) + body(100_000))
            await product.fumage.until(lambda: len(product.fumage.seen) == 2)
        await nothing_left(product)
        await product.fumage.until(lambda: product.fumage.open <= 1)
        assert not product.fumage.seen[1].complete


async def test_a_caller_that_breaks_its_body_in_the_second_sending_gets_400() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [early(unauthorized())]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/Binary", [("Transfer-Encoding", "chunked")]) + chunk(body(GATHER)))
            await product.fumage.until(lambda: len(product.fumage.seen) == 2)
            caller.write(b"no chunk\r\n")
            answer = await caller.answer()
            assert (answer.status, answer.proxy_status["error"]) == (400, "http_request_error")
        await nothing_left(product)


@pytest.mark.parametrize("run", range(5))
async def test_a_401_that_is_followed_by_a_reset_while_the_caller_still_sends_is_still_a_401(
    run: int,
) -> None:
    async def reject(seen: Seen, wire: Wire) -> None:
        await unauthorized()(seen, wire)
        wire.close()  # with unread bytes: the kernel makes a reset of it

    async with Product() as product:
        await ready(product)
        product.fumage.script += [early(reject)]
        answer = await fetch(product.port, "POST", "/Binary", body=body(3_000_000))
        assert answer.status == 200
        assert product.fumage.seen[1].body == body(3_000_000)
        await nothing_left(product)
