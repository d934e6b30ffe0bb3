"""What callers may send, however broken: nothing reaches Fumage that could be read in two ways."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

import h11
import pytest

from proxy.forward.reader import Limits, RequestReader
from proxy.loop import loop_factory
from proxy.rules.errors import ProxyError
from tests.forward.test_malformed import BODIES, FRAMING, GET, HEADS, LENIENT, METHODS
from tests.fuzz.fuzzing import CUTS, fuzz, messages, pieces
from tests.support import Ended
from tests.support.caller import Caller, build, fetch
from tests.support.product import Product

LIMITS = Limits(max_head=4096, max_body=10_000)

GOOD = [
    *(data for data, _ in LENIENT.values()),
    build(headers=[("A", "b"), ("a", "c"), ("Connection", "keep-alive, A")]),
    build(headers=[("Connection", "close"), ("A", "b \t")]),
    build(
        headers=[("TE", "trailers"), ("Connection", "TE"), ("X-Forwarded-For", "10.0.0.1"), ("Via", "1.1 a")]
    ),
    build("HEAD", headers=[("Authorization", "Bearer mine"), ("Cookie", "a=b")]),
    build("POST", body=b"hello"),
    build("POST", body=b"hello", headers=[("Expect", "100-continue")]),
    build("PUT", body=[b"one", b"two", b"three"], chunked=True, trailers=[("X-Sum", "1"), ("Host", "evil")]),
    build("POST", body=b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    build("POST", body=b"", headers=[("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings")]),
    build("POST", body=b"{}", headers=[("Upgrade", "websocket"), ("Connection", "Upgrade")]),
    build("OPTIONS", "*"),
    build("DELETE", "http://localhost/Patient/1?a=b"),
    build("PATCH", "/a%2Fb//../c?x=%7C|y;z", body=b"[]"),
    GET.replace(b"1.1", b"1.0") + b"\r\n",
    GET.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n",
    b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
]
BAD = [data for data in (FRAMING | HEADS | METHODS | BODIES).values() if len(data) < 2000]
WORDS = [
    b"GET ", b"POST ", b"HEAD ", b"/", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: localhost\r\n",
    b"Host: a, b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"chunked", b"identity", b", ",
    b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Connection: content-length, transfer-encoding, host\r\n", b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n", b"Trailer: X\r\n", b"X-Request-Id: 1\r\n", b"Via: 1.1 a\r\n",
    b"TE: trailers\r\n", b"A: b\r\n", b"A: b \t\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n",
    b"hello", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\r\r\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b":",
    b";", b",", b"#", b"?", b"%", b"0", b"1", b"f", b"\xff", b"\xc3\xa4", b"[::1]", b"http://localhost",
    b"@", b"\"", b"a" * 300, b"0" * 20,
]  # fmt: skip
REQUESTS = messages(GOOD, BAD, WORDS)
H11_MINDS = re.compile(rb"[0-9A-Fa-f]{21}")  # a chunk size of more digits, zeros included


@dataclass
class Understood:
    """A request that came to its end."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool


def ours(parts: list[bytes], limits: Limits = LIMITS) -> tuple[list[Understood], object]:
    """What our reader makes of a connection's bytes: requests, and the state or error at the end."""
    reader = RequestReader(limits, lambda: None)
    found: list[Understood] = []
    content = b""
    for part in parts:
        while part:
            body = reader.body
            try:
                rest = reader.feed(part)
            except ProxyError as error:
                # Which of several faults it names may depend on the cuts.
                return found, (type(error), reader.request and reader.request.method)
            assert len(rest) < len(part), "it must go on, or a connection would spin"
            assert len(reader._head) <= limits.max_head + len(part)
            part = rest
            request, body = reader.request, reader.body or body
            if request is not None and request.method == b"CONNECT":  # refused: nobody reads what follows
                found.append(Understood(request.method, request.target, [], b"", False))
                return found, "the last one"
            if body is None and request is not None:
                body = request.body
            if body is not None:
                content += body.take()
                assert body.received <= limits.max_body
                trailers = sum(len(name) + len(value) for name, value in body.trailers)
                assert trailers <= limits.max_head + len(part) + 8 * body.received
            if request is not None and reader.body is None:
                fields = list(request.fields)
                found.append(Understood(request.method, request.target, fields, content, reader.keep_alive))
                content = b""
                if not reader.keep_alive:
                    return found, "the last one"
                reader.begin()
    return found, (reader.partial, reader.request and (reader.request.method, reader.request.target, content))


def h11s(data: bytes) -> tuple[list[Understood], str]:
    """The same by h11, as a server; how it ended: "error", "over", or "more" when it waits."""
    found: list[Understood] = []
    while True:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
        # RFC 9112 section 2.2, which h11 leaves to its user, and llhttp reads generously.
        connection.receive_data(data.lstrip(b"\r\n"))
        request: Understood | None = None
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = Understood(event.method, event.target, list(event.headers), b"", True)
                elif isinstance(event, h11.Data):
                    assert request
                    request.body += bytes(event.data)
                else:
                    return found, "more"
        except h11.RemoteProtocolError:
            return found, "error"
        assert request
        found.append(request)
        if connection.their_state is not h11.DONE:
            return found, "over"
        data = connection.trailing_data[0]


def is_part(fields: list[tuple[bytes, bytes]], whole: list[tuple[bytes, bytes]]) -> bool:
    """Whether the fields stand in the whole, in their order."""
    rest = iter(whole)
    return all((name.lower(), value) in rest for name, value in fields)


def check_cuts(data: bytes, cuts: list[float]) -> None:
    whole = ours([data])
    assert ours(pieces(data, cuts)) == whole
    assert ours([data[at : at + 1] for at in range(len(data))]) == whole


def check_against_h11(data: bytes) -> None:
    if H11_MINDS.search(data):
        return
    # CONNECT is refused, and the connection closed: its body is not read.
    mine = list(takewhile(lambda request: request.method != b"CONNECT", ours([data])[0]))
    theirs, end = h11s(data)
    assert len(mine) <= len(theirs) or end == "over"
    for our, their in zip(mine, theirs, strict=False):
        assert (our.method, our.body) == (their.method, their.body)
        # Of an absolute-form target the path alone goes on.
        assert our.target == their.target or their.target.lower().startswith((b"http://", b"https://"))
        assert is_part(our.fields, their.fields)


@fuzz(REQUESTS, CUTS, examples=700)
def test_cuts_make_no_difference_and_nothing_but_a_proxy_error_escapes(
    data: bytes, cuts: list[float]
) -> None:
    check_cuts(data, cuts)


@fuzz(REQUESTS, examples=700)
def test_what_we_take_for_a_request_is_to_h11_the_same_request(data: bytes) -> None:
    check_against_h11(data)


# --- the whole way ---


class Fumage(asyncio.Protocol):
    """A server that is h11: it notes what it reads, and answers each request with 200."""

    def __init__(self, found: list[Understood], faults: list[str]):
        self._found, self._faults = found, faults
        self._h11 = h11.Connection(h11.SERVER)
        self._request: Understood | None = None
        self._raw = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        self._h11.receive_data(data)
        try:
            self._read()
        except h11.RemoteProtocolError as error:
            self._faults.append(f"h11 says {error} of {self._raw!r}")
            self._transport.abort()

    def _read(self) -> None:
        while (event := self._h11.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                if set(self._raw.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"")) & set(b"\r\n\0"):
                    self._faults.append(f"control bytes in a head: {self._raw!r}")
                self._request = Understood(event.method, event.target, list(event.headers), b"", True)
            elif isinstance(event, h11.Data):
                assert self._request
                self._request.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert self._request
                self._found.append(self._request)
                if self._h11.trailing_data[0]:
                    self._faults.append(f"bytes after the request: {self._raw!r}")
                length = [("Content-Length", "2")]
                self._transport.write(self._h11.send(h11.Response(status_code=200, headers=length)) or b"")
                if self._request.method != b"HEAD":
                    self._transport.write(self._h11.send(h11.Data(b"{}")) or b"")
                self._transport.write(self._h11.send(h11.EndOfMessage()) or b"")
                self._h11.start_next_cycle()
                self._raw = b""
            else:
                return


class Whole:
    """The product before that server, in a loop that all examples share."""

    def __init__(self) -> None:
        self.found: list[Understood] = []
        self.faults: list[str] = []
        self.loop = (loop_factory() or asyncio.new_event_loop)()
        self.loop.set_exception_handler(self._note)

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self.faults.append(f"in the loop: {context}")

    async def start(self) -> None:
        made = lambda: Fumage(self.found, self.faults)  # noqa: E731
        self._server = await self.loop.create_server(made, "127.0.0.1", 0)
        self.authority = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        settings = {"max_head": str(LIMITS.max_head), "max_body": str(LIMITS.max_body)}
        self.product = await Product(base_url=f"http://{self.authority}", **settings).__aenter__()

    async def stop(self) -> None:
        await self.product.__aexit__(None, None, None)
        self._server.close()
        await self._server.wait_closed()
        await asyncio.sleep(0.05)  # for what was aborted to be gone


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    one = Whole()
    one.loop.run_until_complete(one.start())
    yield one
    one.loop.run_until_complete(one.stop())
    one.loop.close()


def test_the_answer_to_a_head_whose_body_is_refused_has_no_body(whole: Whole) -> None:
    data = b"HEAD / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHost: localhost\r\n\r\n\r\n\r\n"
    whole.loop.run_until_complete(send_and_compare(whole, data, [data]))


@fuzz(REQUESTS, CUTS, examples=400, shared="whole")
def test_on_the_whole_way_fumage_reads_what_we_understood_and_the_next_caller_is_served(
    one: Whole, data: bytes, cuts: list[float]
) -> None:
    one.loop.run_until_complete(send_and_compare(one, data, pieces(data, cuts)))


async def send_and_compare(one: Whole, data: bytes, parts: list[bytes]) -> None:
    one.found.clear()
    one.product.records.clear()
    requests, end = ours([data])
    async with await Caller.connect(one.product.port) as caller:
        for part in parts:
            if caller.ending:
                break
            caller.write(part)
            await asyncio.sleep(0)
        asked: list[bytes | None] = [request.method for request in requests]
        if isinstance(end, tuple) and isinstance(end[0], type):
            asked.append(end[1])  # refused; its head may have been read
        await answers(caller, asked)
    for seen in one.found:
        credentials = [value for name, value in seen.fields if name == b"authorization"]
        assert len(credentials) == 1
        assert credentials[0].startswith(b"Bearer token-")
        assert [value for name, value in seen.fields if name == b"host"] == [one.authority.encode()]
        assert not {b"cookie", b"te", b"upgrade", b"expect"} & {name for name, _ in seen.fields}
    # Some were refused; those that came through are those that were understood, in their order.
    rest = iter([(request.method, request.target, request.body) for request in requests])
    assert all((seen.method, seen.target, seen.body) in rest for seen in one.found)
    assert (await fetch(one.product.port)).status == 200
    assert not one.faults
    assert all(record.defect is None for record in one.product.records)
    await nothing_left_of(one)


async def answers(caller: Caller, asked: list[bytes | None]) -> None:
    """Each request (by its method) is answered, or the connection is closed after an answer that says so."""
    for method in asked:
        answer = await caller.answer(head=method == b"HEAD")
        assert answer.status < 500 or answer.status in (501, 508)
        if answer["Connection"] == "close":
            try:
                while True:
                    await caller.some()
            except Ended:
                return


async def nothing_left_of(one: Whole) -> None:
    async with asyncio.timeout(15):
        while one.product.app._callers.open or one.product.app._pool.counts["active"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
