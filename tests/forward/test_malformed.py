"""Bytes that two servers could read differently, or that are not HTTP/1.1, never become a request."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.forward.reader import Limits, RequestReader
from proxy.rules.errors import ProxyError
from tests.forward.leftovers import issue, nothing_left, ready
from tests.support.caller import Answer, Caller, build, fetch
from tests.support.product import Product

GET = b"GET /Patient/1 HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /Patient HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


def posted(*fields: bytes, body: bytes = b"0\r\n\r\n" + SMUGGLED) -> bytes:
    return POST + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def lined(line: bytes) -> bytes:
    return line + b"\r\nHost: localhost\r\n\r\n"


FRAMING = {
    "Content-Length and Transfer-Encoding": posted(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "Transfer-Encoding and Content-Length": posted(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "both, the coding empty": posted(b"Content-Length: 5", b"Transfer-Encoding:"),
    "both, the coding unknown": posted(b"Content-Length: 5", b"Transfer-Encoding: xchunked"),
    "both, the coding identity": posted(b"Content-Length: 5", b"Transfer-Encoding: identity"),
    "two equal Content-Lengths": posted(b"Content-Length: 5", b"Content-Length: 5"),
    "two different Content-Lengths": posted(b"Content-Length: 5", b"Content-Length: 6"),
    "two Content-Lengths, one in capitals": posted(b"Content-Length: 5", b"CONTENT-LENGTH: 6"),
    "a list of Content-Lengths": posted(b"Content-Length: 5, 5"),
    "Content-Length +5": posted(b"Content-Length: +5"),
    "Content-Length -5": posted(b"Content-Length: -5"),
    "Content-Length 0x5": posted(b"Content-Length: 0x5"),
    "Content-Length 5_0": posted(b"Content-Length: 5_0"),
    "Content-Length 5 5": posted(b"Content-Length: 5 5"),
    "Content-Length 5.0": posted(b"Content-Length: 5.0"),
    "Content-Length 5;a": posted(b"Content-Length: 5;a"),
    "Content-Length in full-width digits": posted(b"Content-Length: \xef\xbc\x95"),
    "Content-Length empty": posted(b"Content-Length:"),
    "Content-Length over 64 bits": posted(b"Content-Length: 18446744073709551621"),
    "Content-Length of 5,000 zeros and a 5": posted(b"Content-Length: " + b"0" * 5000 + b"5"),
    "xchunked": posted(b"Transfer-Encoding: xchunked"),
    "identity": posted(b"Transfer-Encoding: identity"),
    "chunked, identity": posted(b"Transfer-Encoding: chunked, identity"),
    "gzip, chunked": posted(b"Transfer-Encoding: gzip, chunked"),
    "gzip alone": posted(b"Transfer-Encoding: gzip"),
    "chunked, chunked": posted(b"Transfer-Encoding: chunked, chunked"),
    "chunked in two fields": posted(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked and another field that is not": posted(b"Transfer-Encoding: chunked", b"Transfer-Encoding: x"),
    "chunked with a parameter": posted(b"Transfer-Encoding: chunked;a=b"),
    "chunked in quotes": posted(b'Transfer-Encoding: "chunked"'),
    "chunked before a tab": posted(b"Transfer-Encoding: chunked\t"),
    "chunked after a vertical tab": posted(b"Transfer-Encoding: \x0bchunked"),
    "chunked after a form feed": posted(b"Transfer-Encoding: \x0cchunked"),
    "chunked with 8 bits": posted(b"Transfer-Encoding: \xffchunked"),
    "Transfer-Encoding empty": posted(b"Transfer-Encoding:"),
    "Transfer-Encoding folded": posted(b"Transfer-Encoding:", b" chunked"),
    "Transfer-Encoding with a space before its colon": posted(b"Transfer-Encoding : chunked"),
    "Transfer-Encoding with a tab before its colon": posted(b"Transfer-Encoding\t: chunked"),
    "Transfer-Encoding after a space": posted(b"A: b", b" Transfer-Encoding: chunked"),
    "HTTP/1.0 and Transfer-Encoding": posted(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1),
}

HEADS = {
    "a bare LF ends the request line": b"GET / HTTP/1.1\nHost: localhost\r\n\r\n",
    "a bare LF ends a field": GET + b"A: b\nB: c\r\n\r\n",
    "a bare LF in place of a version, and more": b"GET /x\n\r\nGET / HTTP/1.1\r\nHost: localhost\r\n",
    "bare LFs everywhere": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "a bare LF ends the head": GET + b"\n",
    "a bare CR before the request line": b"\r\r\n" + GET + b"\r\n",
    "a bare LF before the request line": b"\n" + GET + b"\r\n",
    "a bare CR in the request line": lined(b"GET /\r HTTP/1.1"),
    "a bare CR after the version": b"GET / HTTP/1.1\rHost: localhost\r\n\r\n",
    "a bare CR in a name": GET + b"A\rB: c\r\n\r\n",
    "a bare CR in a value": GET + b"A: b\rTransfer-Encoding: chunked\r\n\r\n",
    "a bare CR ends the head": GET + b"\rA",
    "a folded field": GET + b"A: b\r\n c\r\n\r\n",
    "a field folded with a tab": GET + b"A: b\r\n\tc\r\n\r\n",
    "a folded empty field": GET + b"A:\r\n b\r\n\r\n",
    "a space before the first field": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "NUL in a name": GET + b"A\0: b\r\n\r\n",
    "NUL in a value": GET + b"A: b\0c\r\n\r\n",
    "NUL in the target": lined(b"GET /\0 HTTP/1.1"),
    "a control byte in a name": GET + b"A\x01: b\r\n\r\n",
    "a control byte in a value": GET + b"A: \x01\r\n\r\n",
    "a form feed in a value": GET + b"A: b\x0cc\r\n\r\n",
    "DEL in a value": GET + b"A: \x7f\r\n\r\n",
    "8 bits in a name": GET + b"\xe4: b\r\n\r\n",
    "a space before the colon": GET + b"A : b\r\n\r\n",
    "a space in a name": GET + b"A B: c\r\n\r\n",
    "an empty name": GET + b": b\r\n\r\n",
    "a field without a colon": GET + b"A\r\n\r\n",
    "brackets in a name": GET + b"A[]: b\r\n\r\n",
    "two spaces before the target": lined(b"GET  / HTTP/1.1"),
    "two spaces before the version": lined(b"GET /  HTTP/1.1"),
    "a tab before the target": lined(b"GET\t/ HTTP/1.1"),
    "a tab before the version": lined(b"GET /\tHTTP/1.1"),
    "a space before the method": lined(b" GET / HTTP/1.1"),
    "a space after the version": lined(b"GET / HTTP/1.1 "),
    "no version": lined(b"GET /"),
    "no target": lined(b"GET HTTP/1.1"),
    "no target, two spaces": lined(b"GET  HTTP/1.1"),
    "a space in the target": lined(b"GET /a b HTTP/1.1"),
    "an empty line as a request": b"\r\n\r\n: a\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 in full": lined(b"GET / HTTP/0.9"),
    "HTTP/1.2": lined(b"GET / HTTP/1.2"),
    "HTTP/1.10": lined(b"GET / HTTP/1.10"),
    "HTTP/1": lined(b"GET / HTTP/1"),
    "HTTP/2.0": lined(b"GET / HTTP/2.0"),
    "HTTP/3.0": lined(b"GET / HTTP/3.0"),
    "HTTP/01.1": lined(b"GET / HTTP/01.1"),
    "http/1.1": lined(b"GET / http/1.1"),
    "HTTP/1,1": lined(b"GET / HTTP/1,1"),
    "RTSP": lined(b"DESCRIBE / RTSP/1.0"),
    "GET with RTSP": lined(b"GET / RTSP/1.1"),
    "ICE": lined(b"SOURCE / ICE/1.0"),
    "an RTSP method with HTTP": lined(b"PLAY / HTTP/1.1"),
    "a fragment": lined(b"GET /Patient/1#a HTTP/1.1"),
    "a fragment after an absolute URL": lined(b"GET http://localhost/#a HTTP/1.1"),
    "a path without its slash": lined(b"GET Patient/1 HTTP/1.1"),
    "an authority as a target": lined(b"GET localhost:80 HTTP/1.1"),
    "an asterisk for GET": lined(b"GET * HTTP/1.1"),
    "another scheme": lined(b"GET ftp://localhost/ HTTP/1.1"),
    "a scheme without an authority": lined(b"GET http:/a HTTP/1.1"),
    "raw 8 bits in the target": lined(b"GET /\xc3\xa4 HTTP/1.1"),
    "raw 8 bits in the query": lined(b"GET /?a=\xff HTTP/1.1"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "no Host, HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "no Host, absolute URL": b"GET http://localhost/ HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: localhost\r\n\r\n",
    "two Hosts in one": b"GET / HTTP/1.1\r\nHost: localhost, localhost\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("16030100f5010000f10303") + bytes(range(32)) + b"\x20" + bytes(60),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "a WebSocket frame": b"\x81\x05hello",
    "zeros": bytes(64),
    "spaces": b" " * 64,
    "high bytes": b"\xff" * 64,
    "a line of prose": b"Hello, is anybody there?\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}

METHODS = {
    "the PROXY protocol": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + GET + b"\r\n",
    "an unknown method": lined(b"FROBNICATE / HTTP/1.1"),
    "a method in lower case": lined(b"get / HTTP/1.1"),
    "a method that begins like another": lined(b"GETS / HTTP/1.1"),
    "a method that ends early": lined(b"GE / HTTP/1.1"),
}

BODIES = {
    "a chunk size that is none": CHUNKED + b"x\r\na\r\n0\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\na\r\n0\r\n\r\n",
    "a chunk size with a sign": CHUNKED + b"+1\r\na\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "a chunk size with an underscore": CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "a space before a chunk size": CHUNKED + b" 1\r\na\r\n0\r\n\r\n",
    "a space after a chunk size": CHUNKED + b"1 \r\na\r\n0\r\n\r\n",
    "a tab after a chunk size": CHUNKED + b"1\t\r\na\r\n0\r\n\r\n",
    "a chunk size over 64 bits": CHUNKED + b"10000000000000001\r\na\r\n0\r\n\r\n",
    "a chunk size of 64 bits": CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a bare LF after a chunk size": CHUNKED + b"1\na\r\n0\r\n\r\n",
    "a bare CR after a chunk size": CHUNKED + b"1\ra\r\n0\r\n\r\n",
    "a bare CR in a chunk extension": CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n",
    "a bare LF in a chunk extension": CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n",
    "a quoted line end in a chunk extension": CHUNKED + b'1;a="\r\nx"\r\na\r\n0\r\n\r\n',
    "NUL in a chunk extension": CHUNKED + b"1;\0\r\na\r\n0\r\n\r\n",
    "no line end after a chunk": CHUNKED + b"1\r\nab\r\n0\r\n\r\n",
    "a chunk that is longer than its size": CHUNKED + b"1\r\naa0\r\n\r\n",
    "a bare LF after a chunk": CHUNKED + b"1\r\na\n0\r\n\r\n",
    "a bare CR after a chunk": CHUNKED + b"1\r\na\r0\r\n\r\n",
    "a bare LF after the last chunk": CHUNKED + b"1\r\na\r\n0\n\r\n",
    "a bare LF ends the trailers": CHUNKED + b"1\r\na\r\n0\r\n\n",
    "something after the last chunk": CHUNKED + b"0\r\n" + SMUGGLED,
    "a trailer without a colon": CHUNKED + b"0\r\nA\r\n\r\n",
    "a folded trailer": CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n",
    "NUL in a trailer": CHUNKED + b"0\r\nA: \0\r\n\r\n",
    "a space before a trailer's colon": CHUNKED + b"0\r\nA : b\r\n\r\n",
    "an endless chunk extension": CHUNKED + b"1;" + b"a" * 70_000,
    "endless chunk extensions": CHUNKED + (b"1;" + b"a" * 1000 + b"\r\na\r\n") * 100,
    "endless trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 12_000,
    "endless trailers after a long body": CHUNKED
    + b"20000\r\n"
    + b"a" * 131_072
    + b"\r\n0\r\n"
    + b"A: b\r\n" * 100_000,
    "an endless trailer": CHUNKED + b"0\r\nA: " + b"b" * 70_000,
    "endless zeros before a chunk size": CHUNKED + b"0" * 70_000,
}

SHAPES = (
    [pytest.param(data, 400, id=name) for name, data in (FRAMING | HEADS | BODIES).items()]
    + [pytest.param(data, 501, id=name) for name, data in METHODS.items()]
)  # fmt: skip


async def in_pieces(caller: Caller, data: bytes, size: int) -> None:
    """Send, a piece a turn of the loop, until the other side has had enough."""
    for start in range(0, len(data), size):
        if caller.buffer or caller.ending:
            return
        caller.write(data[start : start + size])
        await asyncio.sleep(0)


async def refused(caller: Caller, product: Product, status: int) -> Answer:
    """The answer, which must be a refusal that closes the connection and left nothing behind at Fumage."""
    answer = await caller.answer()
    assert answer.status == status
    assert answer.proxy_status["error"] == "http_request_error"
    assert answer["Connection"] == "close"
    assert issue(answer) == ("error", {400: "invalid", 501: "not-supported"}.get(status, "too-long"))
    assert await caller.eof() == "eof"
    assert [seen.target for seen in product.fumage.seen if seen.complete] == []
    return answer


@pytest.mark.parametrize(("data", "status"), SHAPES)
async def test_a_malformed_request_is_refused_whole_and_byte_by_byte_and_the_next_connection_works(
    data: bytes, status: int
) -> None:
    async with Product() as product:
        await ready(product)
        for size in (len(data), 1 if len(data) < 2000 else 1009):
            async with await Caller.connect(product.port) as caller:
                await in_pieces(caller, data, size)
                await refused(caller, product, status)
        assert (await fetch(product.port)).status == 200
        assert [record.status for record in product.records] == [status, status, 200]
        assert all(record.defect is None for record in product.records)
        await nothing_left(product)


@pytest.mark.parametrize(
    "host", ["a b", "local/host", "user@localhost", "localhost:x", "[::1", "[1.2.3.4]", "\xe4"]
)
async def test_a_host_that_is_no_host_is_malformed(host: str) -> None:
    async with Product() as product:
        assert (await fetch(product.port, host=host)).status == 400
        if "/" not in host:
            assert (await fetch(product.port, target=f"http://{host}/")).status == 400
        assert product.fumage.seen == []


@pytest.mark.parametrize("target", ["/", "http://a@localhost/"])
async def test_after_a_host_that_is_no_host_the_connection_is_closed(target: str) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        caller.write(build(target=target, host="localhost" if "@" in target else "a@localhost"))
        await refused(caller, product, 400)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_malformed_request_behind_a_good_one_does_not_harm_it(size: int) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        data = GET + b"\r\n" + FRAMING["Content-Length and Transfer-Encoding"]
        for start in range(0, len(data), size):
            await caller.send(data[start : start + size])
            await asyncio.sleep(0)
        answer = await caller.answer()
        assert answer.status == 200
        assert (await caller.answer()).status == 400
        assert await caller.eof() == "eof"
        assert [seen.target for seen in product.fumage.seen] == [b"/Patient/1"]


LENIENT = {
    "empty lines before the request": (b"\r\n\r\n" + GET + b"\r\n", b""),
    "spaces around a length": (posted(b"Content-Length: \t 5 \t", body=b"hello"), b"hello"),
    "spaces around chunked": (posted(b"Transfer-Encoding: \tchunked  ", body=b"1\r\na\r\n0\r\n\r\n"), b"a"),
    "chunked in capitals": (posted(b"TRANSFER-ENCODING: CHUNKED", body=b"1\r\na\r\n0\r\n\r\n"), b"a"),
    "spaces after the Host": (b"GET / HTTP/1.1\r\nHost: localhost \t\r\n\r\n", b""),
    "no space after a colon": (b"GET / HTTP/1.1\r\nHost:localhost\r\n\r\n", b""),
    "zeros before a length": (posted(b"Content-Length: 0005", body=b"hello"), b"hello"),
    "zeros before a chunk size": (CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "a chunk size in capitals": (CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "a chunk size of many zeros": (CHUNKED + b"0" * 60 + b"1\r\na\r\n" + b"0" * 60 + b"\r\n\r\n", b"a"),
    "a chunk extension": (CHUNKED + b'1;a=b;c="d e"\r\na\r\n0;x\r\n\r\n', b"a"),
    "empty lines in chunks": (CHUNKED + b"8\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
    "a chunk that looks like the end": (
        CHUNKED + b"a\r\n\r\n0\r\n\r\n\r\n0\r\n0\r\n\r\n",
        b"\r\n0\r\n\r\n\r\n0",
    ),
    "a body that looks like a request": (posted(b"Content-Length: 43", body=SMUGGLED), SMUGGLED),
    "obs-text in a value": (GET + b"A: \xe4\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize(("data", "body"), LENIENT.values(), ids=LENIENT.keys())
async def test_what_is_unusual_but_clear_is_served_and_its_end_is_found(data: bytes, body: bytes) -> None:
    async with Product() as product:
        for size in (len(data), 1):
            async with await Caller.connect(product.port) as caller:
                for start in range(0, len(data), size):
                    await caller.send(data[start : start + size])
                    await asyncio.sleep(0)
                assert (await caller.answer()).status == 200
                assert (await caller.request()).status == 200
        assert [seen.body for seen in product.fumage.seen] == [body, b"", body, b""]


def read_all(data: bytes, cuts: list[int]) -> list[object]:
    """What a reader makes of these pieces: requests with their bodies, and the error at the end."""
    reader = RequestReader(Limits(300, 100), lambda: None)
    found: list[object] = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        piece = data[start:stop]
        while piece:
            body = reader.body
            try:
                piece = reader.feed(piece)
            except ProxyError as error:
                return [*found, (type(error), str(error))]
            if reader.request is not None and reader.body is None:
                request, body = reader.request, body or reader.request.body
                content = b"" if body is None else body.take()
                trailers = [] if body is None else body.trailers
                found.append(
                    (request.method, request.target, request.fields, reader.keep_alive, content, trailers)
                )
                reader.begin()
    return [*found, reader.partial, reader.request and reader.request.target]


GOOD = [data for data, _ in LENIENT.values()] + [build(body=b"{}", chunked=True, trailers=[("X-Sum", "1")])]
BAD = [data for data in (FRAMING | HEADS | METHODS | BODIES).values() if len(data) < 2000]
LARGE = [
    GET + b"A: " + b"b" * 400,
    lined(b"GET /" + b"a" * 400 + b" HTTP/1.1"),
    posted(b"Content-Length: 101"),
]
ALL = st.sampled_from(GOOD + BAD + LARGE)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.lists(ALL, min_size=1, max_size=4).map(b"".join), draw=st.data())
def test_any_split_of_the_bytes_gives_the_same_result(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.sets(st.integers(1, len(data) - 1), max_size=20)))
    whole = read_all(data, [])
    assert read_all(data, cuts) == whole
    assert read_all(data, list(range(1, len(data)))) == whole


WORDS = b"GET POST / HTTP/1.1 Host:localhost Transfer-Encoding:chunked Content-Length:1".split()
ALPHABET = st.sampled_from(
    [*WORDS, b"\r\n", b"\r", b"\n", b" ", b"\t", b"\0", b":", b";", b"0", b"1", b"a", b"\xff"]
)


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(st.binary(min_size=1, max_size=60), st.lists(ALPHABET, min_size=1, max_size=30).map(b"".join))
)
def test_any_bytes_at_all_give_the_same_result_however_they_are_split(data: bytes) -> None:
    assert read_all(data, list(range(1, len(data)))) == read_all(data, [])
