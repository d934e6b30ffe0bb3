"""One connection, many requests: their order, their ends, and what an old or an eager caller may do."""

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.forward.callers import deaf
from tests.forward.leftovers import nothing_left, until
from tests.support.caller import Caller, Closed, build, fetch
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, echo, reply

UPGRADE = [
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQBAAAAAAIAAAAA"),
]


def http10(data: bytes) -> bytes:
    return data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def requests(count: int) -> list[bytes]:
    """GETs, and POSTs with a length or in chunks, each with its number in target and body."""
    return [
        build("GET", f"/{n}")
        if n % 3 == 0
        else build("POST", f"/{n}", body=b"body\r\n\r\n%d" % n, chunked=n % 3 == 2)
        for n in range(count)
    ]


async def test_pipelined_requests_are_answered_in_their_order_and_one_after_the_other() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        under_way = 0

        async def alone(seen: Seen, wire: Wire) -> None:
            nonlocal under_way
            under_way += 1
            assert under_way == 1
            await asyncio.sleep(0.002)
            under_way -= 1
            await reply(200, seen.target + seen.body)(seen, wire)

        product.fumage.answer = alone
        caller.write(b"".join(requests(30)))
        for n in range(30):
            body = b"/%d" % n + (b"body\r\n\r\n%d" % n if n % 3 else b"")
            assert (await caller.answer()).body == body


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_pieces_of_pipelined_requests_that_arrive_while_others_end_keep_their_order(size: int) -> None:
    """New bytes once overtook those that waited for their turn."""
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = echo()
        data = b"".join(requests(40))

        async def send() -> None:
            for start in range(0, len(data), size):
                caller.write(data[start : start + size])
                await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        for n in range(40):
            answer = await caller.answer()
            assert (answer.status, answer.json()["target"]) == (200, f"/{n}")
        await sending


async def test_answers_of_our_own_are_pipelined_too() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        pieces = [build(host="evil.example"), build("GET"), build("TRACE"), build("GET")]
        caller.write(b"".join(pieces * 10))
        assert [(await caller.answer()).status for _ in range(40)] == [403, 200, 405, 200] * 10


async def test_a_caller_that_pipelines_and_does_not_read_is_not_read_from_either() -> None:
    """Answers of our own need no Fumage: only the caller's own reading can slow them down."""
    async with Product() as product:
        caller = await deaf(product.port)
        request = build(host="evil.example")
        for _ in range(200):
            caller.write(request * 1000)
        turns = 0
        while turns < 50:  # until nothing moves any more
            before = len(product.records)
            await asyncio.sleep(0.005)
            turns = turns + 1 if len(product.records) == before else 0
        (connection,) = product.app._callers.open
        assert len(product.records) < 50_000
        assert connection._transport.get_write_buffer_size() < 200_000
        assert len(connection._ahead) < 500_000
        caller.cut()
        await nothing_left(product)


async def test_a_caller_that_was_not_read_from_is_served_when_it_reads() -> None:
    async with Product() as product, await deaf(product.port) as caller:
        caller.write(build(host="evil.example") * 6000 + build())
        await until(lambda: any(connection.congested for connection in product.app._callers.open))
        await asyncio.sleep(0.01)
        assert {(await caller.answer()).status for _ in range(6000)} == {403}
        assert (await caller.answer()).status == 200


async def test_a_long_head_behind_many_requests_is_read_to_its_end() -> None:
    """What waited for its turn had filled the buffer, and reading did not go on."""
    async with Product(client_timeout="2s") as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = reply(200)
        caller.write(
            build() * 1500 + build(headers=[("A", "a" * 60_000)]) + build(body=b"x" * 300_000) + build()
        )
        assert [(await caller.answer()).status for _ in range(1503)] == [200] * 1503


@pytest.mark.parametrize("fields", [[], [("Connection", "close")]])
async def test_nothing_is_served_after_a_request_that_asks_to_close(fields: list[tuple[str, str]]) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        first = build("GET", "/1", headers=fields)
        caller.write((first if fields else http10(first)) + build("GET", "/2"))
        answer = await caller.answer()
        assert (answer.status, answer["Connection"]) == (200, "close")
        assert await caller.eof() == "eof"
        assert [seen.target for seen in product.fumage.seen] == [b"/1"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("version", "option", "stays"),
    [
        (b"HTTP/1.1", None, True),
        (b"HTTP/1.1", "keep-alive", True),
        (b"HTTP/1.1", "close", False),
        (b"HTTP/1.1", "x, Close", False),
        (b"HTTP/1.0", None, False),
        (b"HTTP/1.0", "close", False),
        (b"HTTP/1.0", "Keep-Alive", True),
    ],
)
async def test_a_connection_stays_or_closes_as_its_caller_asked(
    method: str, version: bytes, option: str | None, stays: bool
) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        fields = [("Connection", option)] if option else []
        data = build(method, headers=fields, body=b"x" if method == "POST" else None)
        caller.write(data.replace(b"HTTP/1.1", version))
        answer = await caller.answer()
        assert answer.status == 200
        if stays:
            assert answer["Connection"] == ("keep-alive" if version == b"HTTP/1.0" else None)
            assert (await caller.request()).status == 200
        else:
            assert answer["Connection"] == "close"
            assert await caller.eof() == "eof"
        await product.fumage.until(lambda: len(product.fumage.seen) == 1 + stays)


async def test_http_1_0_gets_an_unknown_length_until_the_close_even_if_it_asked_to_stay() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [reply(200, framing="chunked", chunks=[b"a", b"b"])]
        caller.write(http10(build(headers=[("Connection", "keep-alive")])))
        answer = await caller.answer()
        assert (answer.body, answer.framing, answer["Connection"]) == (b"ab", "close", "close")


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 200_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_an_offer_to_upgrade_is_declined_by_serving_the_request(
    body: bytes | None, chunked: bool
) -> None:
    """As Java's HttpClient makes it with its first request, a body included."""
    async with Product() as product, await Caller.connect(product.port) as caller:
        method = "GET" if body is None else "POST"
        for size in (10**6, 1000):
            data = build(method, "/a", UPGRADE, body, chunked=chunked and body is not None) + build(
                "GET", "/b"
            )
            for start in range(0, len(data), size):
                await caller.send(data[start : start + size])
                await asyncio.sleep(0)
            assert [(await caller.answer()).status for _ in range(2)] == [200, 200]
        seen = product.fumage.seen
        assert [(one.target, one.body) for one in seen] == [(b"/a", body or b""), (b"/b", b"")] * 2
        for name in ("Upgrade", "HTTP2-Settings", "Connection"):
            assert seen[0][name] is None


async def test_an_upgrade_that_nobody_offered_in_connection_is_ignored() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        assert (await caller.request("POST", headers=[("Upgrade", "websocket")], body=b"ab")).status == 200
        fields = [("Upgrade", "websocket"), ("Connection", "upgrade, close")]
        assert (await caller.request(headers=fields)).status == 200
        assert await caller.eof() == "eof"


@pytest.mark.parametrize("lines", [b"\r\n", b"\r\n" * 50])
async def test_empty_lines_before_a_request_are_ignored(lines: bytes) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        for _ in range(3):
            caller.write(lines + build("POST", body=b"x") + lines)
            assert (await caller.answer()).status == 200


async def test_a_caller_that_closes_its_sending_side_takes_back_what_is_not_answered_yet() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        assert (await caller.request()).status == 200
        caller.half_close()
        with pytest.raises(Closed):
            await caller.answer()
        await nothing_left(product)


SEQUENCE = [
    *requests(6),
    b"\r\n" + build("HEAD"),
    build("OPTIONS", "*"),
    build("GET", "/big?" + "a" * 3000),
    build("POST", "/up", UPGRADE, b"abc"),
    build("POST", "/t", body=[b"a", b"bc"], chunked=True, trailers=[("X-Sum", "1")]),
    build("GET", "/no", host="evil.example"),
    http10(build("GET", "/old", headers=[("Connection", "keep-alive")])),
]  # fmt: skip


@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
@given(
    order=st.lists(st.sampled_from(SEQUENCE), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=10),
)
def test_any_split_of_pipelined_requests_gives_the_same_answers(order: list[bytes], sizes: list[int]) -> None:
    async def answers(pieces: list[int]) -> list[tuple[int, bytes]]:
        async with Product() as product, await Caller.connect(product.port) as caller:
            product.fumage.answer = echo()
            data = b"".join(order)
            start = turn = 0
            while start < len(data):
                size = pieces[turn % len(pieces)]
                await caller.send(data[start : start + size])
                await asyncio.sleep(0)
                start, turn = start + size, turn + 1
            found = []
            for request in order:
                answer = await caller.answer(head=b"HEAD" in request[:8])
                sent = answer.json().get("body", "") if answer.body else ""
                found.append((answer.status, sent.encode()))
            return found

    assert asyncio.run(answers(sizes)) == asyncio.run(answers([1_000_000]))


async def test_many_connections_at_once_get_their_own_answers() -> None:
    async with Product() as product:
        product.fumage.answer = echo()
        answers = await asyncio.gather(
            *(fetch(product.port, "POST", f"/{n}", body=b"%d" % n) for n in range(100))
        )
        assert [answer.json()["body"] for answer in answers] == [str(n) for n in range(100)]
        await nothing_left(product)
