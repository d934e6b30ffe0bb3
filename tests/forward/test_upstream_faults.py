"""A broken or hostile Fumage: the caller learns what is wrong, in one form, and the next request works."""

import asyncio
import socket
import struct

import pytest

from tests.forward.fumage import counts, listener, quiet, quiet_product, told
from tests.support import head, unused_port
from tests.support.caller import Broken, Caller, Cut, fetch
from tests.support.product import Product
from tests.support.upstream import (
    PATIENT,
    Behaviour,
    Seen,
    Wire,
    close_without_answer,
    early,
    raw,
    reply,
    reset_without_answer,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

NOT_HTTP = {
    "garbage": b"\x16\x03\x01 what is this",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "RTSP/1.0": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICE/1.0": b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 99": b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n",
    "status 2000": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare LF in the head": OK + b"A: b\nContent-Length: 0\r\n\r\n",
    "bare CR in a value": OK + b"A: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    "a control byte in the reason": b"HTTP/1.1 200 O\x1bK\r\nContent-Length: 0\r\n\r\n",
    "a space in a name": OK + b"A b: c\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a folded line": OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "both framings": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "a length beyond 64 bits": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "coding gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "coding gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an upgrade that nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nhello"
    ),
    "a head of 600 KB": OK + b"".join(b"X-%d: %s\r\n" % (n, b"v" * 990) for n in range(600)),
    "a field of 600 KB": OK + b"X: " + b"v" * 600_000,
    "600 KB of interim answers": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 15_000,
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_not_http_is_named_so_and_the_next_request_works(data: bytes) -> None:
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [reckless(data)]
        assert told(await caller.request()) == (502, "transient", "http_protocol_error", None)
        await product.fumage.until(lambda: product.fumage.open == 0)
        assert (await caller.request()).body == PATIENT
        await quiet(product)


def reckless(data: bytes) -> Behaviour:
    """Bytes whose reader may leave before it has them all."""

    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(data)
        await wire.forever()

    return answer


@pytest.mark.parametrize("split", [1, 7], ids=["byte by byte", "in sevens"])
async def test_how_the_bytes_of_an_answer_are_cut_makes_no_difference(split: int) -> None:
    data = b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n" + CHUNKED + b"3\r\nabc\r\n10\r\n" + b"d" * 16
    data += b"\r\n0\r\nX-Trailer: t\r\n\r\n"

    async def answer(seen: Seen, wire: Wire) -> None:
        for at in range(0, len(data), split):
            wire.write(data[at : at + split])
            await asyncio.sleep(0)

    async with quiet_product() as product:
        product.fumage.script += [answer]
        got = await fetch(product.port)
        assert (got.status, got.body) == (200, b"abc" + b"d" * 16)
        assert got.trailers == [(b"X-Trailer", b"t")]
        await quiet(product)


async def test_bytes_that_no_parser_minds_reach_the_caller_as_they_are() -> None:
    async with quiet_product() as product:
        product.fumage.script += [raw(b"HTTP/1.1 299 \xe9t\xe9\r\nX-A:  \xff \r\nContent-Length: 0\r\n\r\n")]
        got = await fetch(product.port)
        assert (got.status, got.reason, got["X-A"]) == (299, "\xe9t\xe9", "\xff")


async def test_an_answer_without_a_reason_phrase_is_one() -> None:
    async with quiet_product() as product:
        product.fumage.script += [raw(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nhi")]
        assert (await fetch(product.port)).body == b"hi"


# --- no connection ---


async def test_an_unknown_name_is_a_dns_error() -> None:
    async with Product(base_url="https://fumage-x.canvas.invalid") as product:
        assert told(await fetch(product.port)) == (502, "transient", "dns_error", None)
        await quiet(product, 0)


async def test_a_port_where_nobody_listens_is_refused() -> None:
    async with Product(base_url=f"http://127.0.0.1:{unused_port()}") as product:
        for method in ("GET", "POST"):
            assert told(await fetch(product.port, method)) == (502, "transient", "connection_refused", None)


async def test_a_name_whose_addresses_all_refuse_is_refused() -> None:
    async with Product(base_url=f"https://localhost:{unused_port()}") as product:
        assert told(await fetch(product.port)) == (502, "transient", "connection_refused", None)


async def test_fumage_that_comes_back_serves_the_next_request() -> None:
    async with quiet_product() as product:
        await product.fumage.stop()
        assert told(await fetch(product.port))[2] == "connection_refused"
        await product.fumage.restart()
        assert (await fetch(product.port)).status == 200


# --- closed early ---

EARLY = {
    "closed": close_without_answer(),
    "reset": reset_without_answer(),
}


@pytest.mark.parametrize("fault", EARLY.values(), ids=EARLY)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_that_got_no_answer_has_an_unknown_outcome(method: str, fault: Behaviour) -> None:
    async with quiet_product() as product:
        product.fumage.script += [fault]
        got = await fetch(product.port, method, body=b"{}")
        assert told(got) == (502, "transient", "connection_terminated", "outcome-unknown")
        assert len(product.fumage.seen) == 1
        assert (await fetch(product.port, method, body=b"{}")).status == 200


PARTIAL = {
    "a status line": b"HTTP/1.1 200 OK",
    "half a head": OK + b"Content-Length: 5\r\n",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("data", PARTIAL.values(), ids=PARTIAL)
async def test_a_get_whose_answer_had_begun_is_not_sent_again(data: bytes, then: str) -> None:
    async with quiet_product() as product:
        product.fumage.script += [raw(data, then=then)]  # type: ignore[arg-type]
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "connection_terminated", "outcome-unknown")
        assert len(product.fumage.seen) == 1
        await product.fumage.until(lambda: product.fumage.open == 0)


async def test_a_fumage_that_resets_each_new_connection_is_named_and_nothing_stays_open() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with listener(reset) as port, Product(base_url=f"http://127.0.0.1:{port}") as product:
        for _ in range(3):
            assert told(await fetch(product.port, "POST", body=b"{}"))[:3] == (
                502,
                "transient",
                "connection_terminated",
            )
        assert counts(product) == {"idle": 0, "active": 0, "opening": 0}


# --- bodies that break off ---

BROKEN = {
    "short of its length": OK + b"Content-Length: 100\r\n\r\nhello",
    "between chunks": CHUNKED + b"5\r\nhello\r\n",
    "in a chunk": CHUNKED + b"ff\r\nhello",
    "in the last chunk": CHUNKED + b"5\r\nhello\r\n0\r\n",
    "in a trailer": CHUNKED + b"5\r\nhello\r\n0\r\nX-A: b\r\n",
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
async def test_a_body_that_breaks_off_breaks_off_for_the_caller(data: bytes, then: str) -> None:
    async with quiet_product() as product:
        product.fumage.script += [raw(data, then=then)]  # type: ignore[arg-type]
        with pytest.raises(Broken):
            await fetch(product.port)
        assert counts(product)["active"] == 0
        assert (await fetch(product.port)).status == 200


MALFORMED_BODIES = {
    "a chunk size in letters": CHUNKED + b"5\r\nhello\r\nxyz\r\n",
    "a chunk longer than it says": CHUNKED + b"5\r\nhello!\r\n",
    "bare LF after a size": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"5\r\nhello\r\nfffffffffffffffff\r\n",
    "NUL in an extension": CHUNKED + b"5\r\nhello\r\n5;\0\r\nhello\r\n0\r\n\r\n",
    "trailers of 600 KB": CHUNKED + b"5\r\nhello\r\n0\r\n" + (b"X: " + b"v" * 995 + b"\r\n") * 600,
    "extensions of 600 KB": CHUNKED + b"5\r\nhello\r\n5;" + b"e" * 600_000,
}


@pytest.mark.parametrize("data", MALFORMED_BODIES.values(), ids=MALFORMED_BODIES)
async def test_a_malformed_body_is_never_a_whole_one(data: bytes) -> None:
    async with quiet_product() as product:
        product.fumage.script += [reckless(data)]
        try:
            got = await fetch(product.port)
        except Broken:
            pass
        else:  # all of it was there before anything had been answered
            assert told(got) == (502, "transient", "http_protocol_error", None)
        await product.fumage.until(lambda: product.fumage.open == 0)
        assert (await fetch(product.port)).status == 200


async def test_a_close_delimited_body_ends_with_the_connection() -> None:
    async with quiet_product() as product:
        product.fumage.script += [raw(OK + b"\r\nhello", then="close")]
        assert (await fetch(product.port)).body == b"hello"
        await quiet(product, 0)


async def test_a_close_delimited_body_that_ends_by_a_reset_is_not_whole() -> None:
    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(OK + b"\r\nhello")
        await asyncio.wait_for(arrived.wait(), 15)
        wire.reset()

    arrived = asyncio.Event()
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [answer]
        caller.write(head("GET / HTTP/1.1", [("Host", "localhost")]))
        await caller.more()
        arrived.set()
        with pytest.raises(Cut):
            await caller.answer()


# --- refused in the middle of an upload ---


@pytest.mark.parametrize("status", [401, 413])
async def test_an_answer_that_comes_before_the_body_was_read_is_heard(status: int) -> None:
    """The server closes with the body unread, which is a reset: the answer before it must not be lost."""

    @early
    async def refuse(seen: Seen, wire: Wire) -> None:
        wire.transport.pause_reading()
        wire.write(b"HTTP/1.1 %d No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n" % status)
        wire.cut()

    for _ in range(5):
        async with quiet_product(replay_limit="1KiB") as product:
            product.fumage.script += [refuse]
            got = await fetch(product.port, "POST", body=b"x" * 3_000_000)
            assert got.status in (status, 503)  # 503: a 401 whose body was too large to be kept
            assert got.proxy_status.get("error") != "connection_terminated"


# --- unasked bytes ---

SURPLUS = {
    "more bytes than the length": OK + b"Content-Length: 2\r\n\r\nhi there",
    "a second answer": OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 5\r\n\r\nother",
    "bytes after the last chunk": CHUNKED + b"2\r\nhi\r\n0\r\n\r\nother",
    "bytes after Connection: close": OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi there",
}


@pytest.mark.parametrize("data", SURPLUS.values(), ids=SURPLUS)
async def test_what_follows_an_answer_is_never_the_answer_to_the_next_request(data: bytes) -> None:
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [raw(data)]
        assert (await caller.request()).body == b"hi"
        assert (await caller.request()).body == PATIENT
        assert [seen.connection for seen in product.fumage.seen] == [1, 2]


async def test_a_second_answer_that_comes_later_is_never_the_answer_to_the_next_request() -> None:
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        assert (await caller.request()).body == PATIENT
        (wire,) = product.fumage.wires
        # Both are there when the loop looks again: the stray answer, and the next request.
        wire.write(OK + b"Content-Length: 5\r\n\r\nstray")
        assert (await caller.request()).body == PATIENT
        assert [seen.connection for seen in product.fumage.seen] == [1, 2]


async def test_a_408_on_an_idle_connection_just_closes_it() -> None:
    async with quiet_product() as product:
        (wire,) = product.fumage.wires
        wire.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        wire.close()
        assert (await fetch(product.port, "POST", body=b"{}")).body == PATIENT


# --- answers without a body ---

BODYLESS = {
    "HEAD": ("HEAD", OK + b"\r\n", True),
    "HEAD with a length": ("HEAD", OK + b"Content-Length: 500\r\n\r\n", True),
    "HEAD with chunked": ("HEAD", CHUNKED, True),
    "HEAD with both Connection: keep-alive and 1.0": (
        "HEAD",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
        True,
    ),
    "HEAD on 1.0": ("HEAD", b"HTTP/1.0 200 OK\r\nContent-Length: 500\r\n\r\n", False),
    "HEAD with close": ("HEAD", OK + b"Connection: close\r\nContent-Length: 500\r\n\r\n", False),
    "HEAD with a body all the same": ("HEAD", OK + b"Content-Length: 5\r\n\r\nhello", False),
    "HEAD with half a chunk size": ("HEAD", CHUNKED + b"0", False),
    "HEAD with a chunked body": ("HEAD", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", False),
    "HEAD with an answer after it": ("HEAD", OK + b"\r\n" + OK + b"Content-Length: 0\r\n\r\n", False),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "204 with a length": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", True),
    "204 with chunked": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", True),
    "304": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: W/"1"\r\n\r\n', True),
    "304 with a length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n", True),
    "304 with chunked": ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", True),
    "304 with a body all the same": ("GET", b"HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\nhello", False),
}


@pytest.mark.parametrize(("method", "data", "reused"), BODYLESS.values(), ids=BODYLESS)
async def test_an_answer_without_body_ends_with_its_head(method: str, data: bytes, reused: bool) -> None:
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [raw(data)]
        got = await caller.request(method)
        assert (got.status, got.body) == (int(data[9:12]), b"")
        assert (await caller.request()).body == PATIENT
        assert [seen.connection for seen in product.fumage.seen] == ([1, 1] if reused else [1, 2])


# --- which answers leave a connection that can be used again ---

KEPT = {
    "length": (reply(200, b"hi"), True),
    "chunked": (reply(200, b"hi", framing="chunked", trailers=[("X-T", "t")]), True),
    "Connection: close": (reply(200, b"hi", keep_alive=False), False),
    "close-delimited": (reply(200, b"hi", framing="close"), False),
    "1.0": (raw(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi"), False),
    "1.0 with keep-alive": (
        raw(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi"),
        True,
    ),
    "1.0 with chunked": (
        raw(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhi\r\n0\r\n\r\n"
        ),
        False,
    ),
    "Connection: CLOSE among others": (
        raw(OK + b"Connection: foo, CLOSE\r\nContent-Length: 2\r\n\r\nhi"),
        False,
    ),
    "interim answers before it": (
        raw(b"HTTP/1.1 103 E\r\n\r\n" * 3 + OK + b"Content-Length: 2\r\n\r\nhi"),
        True,
    ),
}


@pytest.mark.parametrize(("answer", "reused"), KEPT.values(), ids=KEPT)
async def test_a_connection_is_used_again_just_when_its_answer_allows(
    answer: Behaviour, reused: bool
) -> None:
    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [answer]
        assert (await caller.request()).body == b"hi"
        assert (await caller.request()).body == PATIENT
        assert [seen.connection for seen in product.fumage.seen] == ([1, 1] if reused else [1, 2])
        assert product.fumage.open == 1
