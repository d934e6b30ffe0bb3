"""Sizes, time and number: what a caller may take of each, and how it is told."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from tests.forward.callers import deaf
from tests.forward.leftovers import issue, left, nothing_left, ready, until
from tests.support.caller import Answer, Caller, Closed, Reset, build, fetch
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, early, hang, raw, reply

MAX_HEAD = 4096
LARGE = 1_000_000


def refusal(answer: Answer) -> tuple[int, str, str]:
    return answer.status, issue(answer)[1], answer.proxy_status["error"]


def too_long(status: int) -> tuple[int, str, str]:
    return status, "too-long", "http_request_error"


TOO_SLOW = (408, "timeout", "http_request_error")


def head_of(size: int, *, target: bool = False) -> bytes:
    """A request head of exactly that many bytes, in fields or in its target."""
    bare = len(build(headers=[("A", "")]))
    filler = "a" * (size - bare)
    return (
        build(target="/Patient/1" + filler, headers=[("A", "")]) if target else build(headers=[("A", filler)])
    )


# --- sizes ---


@pytest.mark.parametrize("target", [False, True])
@pytest.mark.parametrize("piece", [100_000, 1000])
async def test_a_head_of_exactly_max_head_is_served_and_one_byte_more_is_refused(
    target: bool, piece: int
) -> None:
    async with Product(max_head=str(MAX_HEAD)) as product:
        for size, status in ((MAX_HEAD, 200), (MAX_HEAD + 1, 431)):
            data = head_of(size, target=target)
            assert len(data) == size
            async with await Caller.connect(product.port) as caller:
                caller.write(b"\r\n")  # does not count
                for start in range(0, size, piece):
                    await caller.send(data[start : start + piece])
                    await asyncio.sleep(0)
                answer = await caller.answer()
                assert answer.status == (414 if target and status == 431 else status)
                if status != 200:
                    assert refusal(answer) == too_long(answer.status)
                    assert await caller.eof() == "eof"
        assert len(product.fumage.seen) == 1


async def test_a_head_that_never_ends_is_refused_at_max_head() -> None:
    async with Product(max_head=str(MAX_HEAD)) as product:
        for start, status in ((b"GET / HTTP/1.1\r\n", 431), (b"GET /", 414)):
            async with await Caller.connect(product.port) as caller:
                caller.write(start + b"a" * MAX_HEAD)
                assert refusal(await caller.answer()) == too_long(status)
        assert product.fumage.seen == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_exactly_max_body_is_served_and_one_byte_more_is_refused(chunked: bool) -> None:
    async with Product(max_body="1000") as product:
        assert (await fetch(product.port, "POST", body=b"x" * 1000, chunked=chunked)).status == 200
        async with await Caller.connect(product.port) as caller:
            answer = await caller.request("POST", body=b"x" * 1001, chunked=chunked)
            assert refusal(answer) == too_long(413)
            assert await caller.eof() == "eof"
        assert [len(seen.body) for seen in product.fumage.seen if seen.complete] == [1000]
        await nothing_left(product)


async def test_a_long_body_is_refused_by_its_length_before_it_is_sent() -> None:
    async with Product(max_body="1000") as product, await Caller.connect(product.port) as caller:
        caller.write(build("POST", headers=[("Content-Length", "1001")]))
        assert refusal(await caller.answer()) == too_long(413)
        assert product.fumage.seen == []


async def test_a_chunked_body_that_grows_over_max_body_ends_the_upload_to_fumage() -> None:
    async with Product(max_body=str(LARGE)) as product:
        await ready(product)
        caller = await Caller.connect(product.port)
        caller.write(build("POST", headers=[("Transfer-Encoding", "chunked")]))
        caller.write(b"7a120\r\n" + b"x" * 500_000 + b"\r\n")
        await product.fumage.until(
            lambda: product.fumage.seen and len(product.fumage.seen[0].content) > 400_000
        )
        caller.write(b"7a121\r\n" + b"x" * 500_001 + b"\r\n0\r\n\r\n")
        assert refusal(await caller.answer()) == too_long(413)
        caller.close()
        await nothing_left(product)
        assert [seen.complete for seen in product.fumage.seen] == [False]


async def test_what_comes_after_a_refused_body_is_not_kept() -> None:
    """Fumage does not read, so nobody takes the body: what follows its fault must not pile up."""
    async with Product(max_body=str(LARGE)) as product, await Caller.connect(product.port) as caller:
        product.emr.answer = hang()  # no token: the exchange waits, and reads no body
        caller.write(build("POST", headers=[("Transfer-Encoding", "chunked")]))
        caller.write((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 100)
        for _ in range(300):
            await asyncio.sleep(0)
        (connection,) = product.app._callers.open
        body = connection._reader.body
        assert body is not None
        assert body.buffered < 2 * LARGE


# --- time ---


async def test_a_head_that_does_not_arrive_within_client_timeout_is_answered_408() -> None:
    async with Product(client_timeout="200ms") as product, await Caller.connect(product.port) as caller:
        caller.write(build()[:20])
        assert refusal(await caller.answer()) == TOO_SLOW
        assert await caller.eof() == "eof"
        assert product.fumage.seen == []


async def test_a_head_that_trickles_gets_no_more_time_for_it() -> None:
    async with Product(client_timeout="300ms") as product, await Caller.connect(product.port) as caller:
        data = build(headers=[("A", "a" * 5000)])
        for byte in data:
            if caller.buffer or caller.ending:
                break
            caller.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert refusal(await caller.answer()) == TOO_SLOW


async def test_a_slow_head_on_a_kept_connection_is_answered_408() -> None:
    async with Product(client_timeout="200ms") as product, await Caller.connect(product.port) as caller:
        assert (await caller.request()).status == 200
        caller.write(b"G")
        assert refusal(await caller.answer()) == TOO_SLOW


@pytest.mark.parametrize("data", [b"", b"\r\n\r\n"])
async def test_a_connection_on_which_nothing_was_asked_is_closed_silently(data: bytes) -> None:
    async with Product(client_timeout="200ms") as product, await Caller.connect(product.port) as caller:
        caller.write(data)
        assert await caller.eof() == "eof"
        await nothing_left(product)
        assert product.records == []


@pytest.mark.parametrize("data", [b"", b"\r\n"])
async def test_an_idle_connection_is_closed_silently_after_client_keepalive(data: bytes) -> None:
    async with Product(client_keepalive="200ms") as product, await Caller.connect(product.port) as caller:
        assert (await caller.request()).status == 200
        caller.write(data)
        assert await caller.eof() == "eof"
        await nothing_left(product)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
async def test_a_request_that_came_in_time_is_answered_however_late_the_loop_is(used: bool) -> None:
    """The kernel has it already when the connection's time runs out. uvloop looks at its timers first."""
    loop = asyncio.get_running_loop()
    async with Product(client_keepalive="500ms", client_timeout="500ms") as product:
        await ready(product)
        sock = socket.create_connection(("127.0.0.1", product.port))
        sock.setblocking(False)

        class Late(Caller):
            def data_received(self, data: bytes) -> None:
                if not self.buffer:
                    sock.sendall(build("POST", body=b"{}"))
                    time.sleep(0.6)
                super().data_received(data)

        async with await Late.connect(product.port) as other:
            if used:
                await loop.sock_sendall(sock, build())
                assert await loop.sock_recv(sock, 1000)
            assert (await other.request()).status == 200
        async with (await loop.create_connection(Caller, sock=sock))[1] as caller:
            assert (await caller.answer()).status == 200


async def test_a_request_that_is_under_way_is_not_idle() -> None:
    async with Product(client_keepalive="100ms", client_timeout="100ms") as product:
        go = asyncio.Event()

        async def slow(seen: Seen, wire: Wire) -> None:
            await go.wait()
            await reply(200)(seen, wire)

        product.fumage.script += [slow]
        async with await Caller.connect(product.port) as caller:
            caller.write(build())
            await asyncio.sleep(0.3)
            go.set()
            assert (await caller.answer()).status == 200


SENT = {
    "a short body": build("POST", headers=[("Content-Length", "100")]) + b"x" * 50,
    "a long body": build("POST", headers=[("Content-Length", "100000")]) + b"x" * 70_000,
    "a chunked body": build("POST", headers=[("Transfer-Encoding", "chunked")]) + b"5\r\nab",
    "a long chunked body": build("POST", headers=[("Transfer-Encoding", "chunked")])
    + b"20000\r\n"
    + b"x" * 70_000,
}


@pytest.mark.parametrize("data", SENT.values(), ids=SENT.keys())
async def test_a_body_that_stands_still_is_answered_408_and_never_ends_at_fumage(data: bytes) -> None:
    async with Product(idle_timeout="200ms") as product:
        await ready(product)
        async with await Caller.connect(product.port) as caller:
            caller.write(data)
            assert refusal(await caller.answer()) == TOO_SLOW
            assert await caller.eof() == "eof"
        await nothing_left(product)
        assert not any(seen.complete for seen in product.fumage.seen)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_caller_that_does_not_read_is_reset_and_fumages_connection_closed(
    method: str,
) -> None:
    async with Product(idle_timeout="200ms") as product:
        await ready(product)
        product.fumage.script += [reply(200, chunks=[b"x" * 65536] * 400)]
        async with await deaf(product.port) as caller:
            caller.write(build(method, body=b"x" * 10 if method == "POST" else None))
            await product.fumage.until(lambda: product.fumage.seen)
            await nothing_left(product)
            assert product.fumage.open < product.fumage.connections
            with pytest.raises(Exception, match="reset"):
                await caller.answer()


async def test_a_caller_that_sent_the_last_of_its_body_must_still_read_its_answer() -> None:
    """The body's end stopped the clock for the unread answer, too: that connection stayed for ever."""
    async with Product(idle_timeout="300ms") as product:
        await ready(product)
        product.fumage.script += [early(reply(200, chunks=[b"x" * 65536] * 400))]
        async with await deaf(product.port) as caller:
            caller.write(build("POST", headers=[("Content-Length", "100000")]) + b"x" * 99_000)
            await product.fumage.until(lambda: product.fumage.seen)
            await asyncio.sleep(0.1)  # the answer has filled all buffers by now
            caller.write(b"x" * 1000)
            await nothing_left(product)


async def test_a_caller_that_reads_slowly_is_served_for_longer_than_idle_timeout() -> None:
    async with Product(idle_timeout="1s") as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [reply(200, chunks=[b"x" * 1_000_000] * 500)]
        caller.limit = 0  # pauses after each piece
        caller.write(build())
        read, started = 0, time.monotonic()
        while time.monotonic() - started < 2:
            read += len(caller.buffer)
            caller.buffer.clear()
            caller.transport.resume_reading()
            await asyncio.sleep(0.01)
        assert (caller.ending, read > 0) == (None, True)


async def test_the_end_of_an_answer_that_nobody_reads_does_not_hold_the_connection() -> None:
    async with Product(idle_timeout="200ms") as product:
        product.fumage.script += [reply(200, b"x" * 200_000)]
        async with await deaf(product.port) as caller:
            caller.write(build(headers=[("Connection", "close")]))
            await product.fumage.until(lambda: product.fumage.seen)
            await nothing_left(product)


# --- Expect ---


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_caller_that_expects_100_gets_it_once_and_before_it_sends(size: int, chunked: bool) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        whole = build("POST", headers=[("Expect", "100-Continue")], body=b"x" * size, chunked=chunked)
        end = whole.index(b"\r\n\r\n") + 4
        caller.write(whole[:end])
        assert await caller.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.write(whole[end:])
        answer = await caller.answer()
        assert (answer.status, answer.interim) == (200, [])
        assert [(len(seen.body), seen["Expect"]) for seen in product.fumage.seen] == [(size, None)]
        assert (await caller.request()).status == 200


@pytest.mark.parametrize(
    ("status", "host", "length"), [(403, "evil.example", "10"), (413, "localhost", "1001")]
)
async def test_a_refused_caller_gets_no_100_first(status: int, host: str, length: str) -> None:
    async with Product(max_body="1000") as product, await Caller.connect(product.port) as caller:
        fields = [("Expect", "100-continue"), ("Content-Length", length)]
        answer = await caller.request("POST", headers=fields, host=host)
        assert (answer.status, answer.interim) == (status, [])
        assert await caller.eof() == "eof"
        assert product.fumage.seen == []


async def test_http_1_0_and_bodies_that_are_here_get_no_100() -> None:
    async with Product() as product:
        data = build("POST", headers=[("Expect", "100-continue")], body=b"x" * 10)
        for request in (data, data.replace(b"HTTP/1.1", b"HTTP/1.0")):
            async with await Caller.connect(product.port) as caller:
                caller.write(request)
                answer = await caller.answer()
                assert (answer.status, answer.interim) == (200, [])
        async with await Caller.connect(product.port) as caller:
            caller.write(data[:-10].replace(b"HTTP/1.1", b"HTTP/1.0"))
            await asyncio.sleep(0.05)
            assert not caller.buffer


async def test_no_100_lands_in_an_answer_that_has_begun() -> None:
    """A caller that would not wait for 100, and a Fumage that answers before it has read all."""
    async with Product() as product, await Caller.connect(product.port) as caller:
        begun = asyncio.Event()

        async def answer_early(seen: Seen, wire: Wire) -> None:
            wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            await begun.wait()
            await wire.body()
            wire.write(b"cd")

        product.fumage.script += [early(answer_early)]
        fields = [("Expect", "100-continue"), ("Content-Length", "200000")]
        caller.write(build("POST", headers=fields) + b"x" * 100_000)
        while b"ab" not in caller.buffer:
            await caller.more()
        begun.set()
        await asyncio.sleep(0.05)
        caller.write(b"x" * 100_000)
        assert (await caller.answer()).body == b"abcd"


# --- number ---


async def test_one_connection_over_max_clients_is_answered_503_and_closed() -> None:
    async with Product(max_clients="2") as product:
        async with await Caller.connect(product.port) as first, await Caller.connect(product.port) as second:
            assert [(await caller.request()).status for caller in (first, second)] == [200, 200]
            for data in (b"", build(), build("POST", body=b"x" * LARGE)):
                async with await Caller.connect(product.port) as third:
                    third.write(data)
                    answer = await third.answer()
                    assert refusal(answer) == (503, "throttled", "connection_limit_reached")
                    assert int(answer["Retry-After"] or 0) > 0
                    assert await third.eof() == "eof"
            assert (await first.request()).status == 200
        await nothing_left(product)
        assert (await fetch(product.port)).status == 200


async def test_callers_that_were_refused_and_stay_lock_nobody_out() -> None:
    async with Product(max_clients="2") as product:
        callers = [await Caller.connect(product.port) for _ in range(8)]
        assert [(await caller.request()).status for caller in callers[:2]] == [200, 200]
        assert [(await caller.answer()).status for caller in callers[2:]] == [503] * 6
        assert len(product.app._callers.open) <= 4  # those that linger are bounded as well
        callers[0].close()
        await until(lambda: len(product.app._callers.open) < 4)
        assert (await fetch(product.port)).status == 200
        for caller in callers:
            caller.cut()
        await nothing_left(product)


# --- the end of a connection ---


@pytest.mark.parametrize("where", ["tcp", "unix"])
@pytest.mark.parametrize(
    ("fields", "status"), [([("Origin", "null")], 403), ([("X", "a" * 70_000)], 431), ([("A", "\0")], 400)]
)
async def test_an_early_answer_is_not_destroyed_while_the_caller_still_sends(
    where: str, fields: list[tuple[str, str]], status: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    async with Product(listen=f"127.0.0.1:0,unix:{path}") as product:
        caller = await Caller.connect(product.port, path=path if where == "unix" else None)
        async with caller:
            caller.transport.pause_reading()  # like a client that reads when it has sent all
            caller.write(build("POST", headers=fields, body=b"x" * 8_000_000))
            await caller.drain()
            assert (await caller.answer()).status == status
            assert await caller.eof() == "eof"


async def test_fumages_early_answer_is_not_destroyed_while_the_caller_still_sends() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [
            early(raw(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"))
        ]
        caller.transport.pause_reading()
        caller.write(build("POST", body=b"x" * 8_000_000))
        await caller.drain()
        answer = await caller.answer()
        assert (answer.status, answer.body) == (413, b"no")


async def test_a_caller_that_was_answered_and_stays_is_closed_soon() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        caller.write(b"nonsense\r\n\r\n")
        assert (await caller.answer()).status == 400
        await caller.eof()
        await nothing_left(product)


MOMENTS = {
    "in the head": build()[:10],
    "in a short body": SENT["a short body"],
    "in a long body": SENT["a long body"],
    "in a chunked body": SENT["a chunked body"],
    "in a long chunked body": SENT["a long chunked body"],
    "while Fumage thinks": build(),
    "with another request behind": build() * 2,
}


@pytest.mark.parametrize("data", MOMENTS.values(), ids=MOMENTS.keys())
@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
async def test_a_caller_that_goes_takes_its_request_with_it(data: bytes, how: str) -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.answer = hang()
        caller = await Caller.connect(product.port)
        await caller.send(data)
        if len(data) > 70_000 or data.startswith(build()):
            await product.fumage.until(lambda: product.fumage.seen)
        else:
            await until(lambda: any(c.busy or c._reader.partial for c in product.app._callers.open))
        getattr(caller, how)()
        await nothing_left(product)
        if product.fumage.seen:
            assert product.fumage.open < product.fumage.connections
        assert not any("_run" in repr(task.get_coro()) for task in asyncio.all_tasks())
        caller.cut()
        assert not left(product)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_caller_that_goes_in_the_middle_of_its_answer_ends_the_download(how: str) -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script += [reply(200, chunks=[b"x" * 65536] * 400)]
        caller = await deaf(product.port)
        caller.write(build())
        await product.fumage.until(lambda: product.fumage.seen)
        await asyncio.sleep(0.05)
        getattr(caller, how)()
        await nothing_left(product)
        assert product.fumage.open < product.fumage.connections


async def test_a_caller_that_goes_before_it_asks_leaves_no_trace() -> None:
    async with Product() as product:
        for how in ("close", "reset", "half_close"):
            async with await Caller.connect(product.port) as caller:
                getattr(caller, how)()
                with pytest.raises((Closed, Reset)):
                    await caller.answer()
        await nothing_left(product)
        assert product.records == []


async def test_a_head_that_ends_with_the_connection_is_answered_400() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        caller.write(build()[:-2])
        caller.half_close()
        assert refusal(await caller.answer()) == (400, "invalid", "http_request_error")
        assert await caller.eof() == "eof"
