"""What Fumage may send, however broken: no caller gets a whole-looking answer from a broken one."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

import h11
import pytest
from hypothesis import strategies as st

from proxy.forward.answer import AnswerReader
from proxy.loop import loop_factory
from proxy.rules.errors import FumageNotHTTP
from tests.forward.test_upstream_faults import NOT_HTTP
from tests.fuzz.fuzzing import CUTS, fuzz, messages, pieces
from tests.support.caller import Answer, Broken, fetch
from tests.support.product import Product
from tests.support.upstream import PATIENT, Behaviour, Seen, Wire

OK = b"HTTP/1.1 200 OK\r\n"
GOOD = [
    OK + b"Content-Length: 5\r\n\r\nhello",
    OK + b"Content-Length: 0\r\nConnection: close\r\n\r\n",
    OK + b"A: b\r\na: c\r\nETag: W/\"1\"\r\nContent-Length: 2\r\n\r\n{}",
    OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nConnection: close, X\r\nX: 1\r\n\r\n0\r\n\r\n",
    OK + b"Connection: close\r\n\r\nuntil the end",
    OK + b"\r\nuntil the end\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"1\"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2 + OK + b"Content-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 404 \r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 500\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\nhello",
    OK + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 599 \xe9\r\nX: \xff\r\nContent-Length: 0\r\n\r\n",
]  # fmt: skip
BAD = [data for data in NOT_HTTP.values() if len(data) < 2000]
WORDS = [
    OK, b"HTTP/1.1 ", b"HTTP/1.0 ", b"100 Continue\r\n\r\n", b"103 A\r\n\r\n", b"204 No\r\n",
    b"304 Not\r\n", b"101 S\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"Transfer-Encoding: gzip\r\n", b"chunked",
    b", ", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\n",
    b"Connection: content-length\r\n", b"Upgrade: h2c\r\n", b"Set-Cookie: a=b\r\n",
    b"Proxy-Authenticate: Basic\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"hello", b"\r\n",
    b"\r\n\r\n", b"\r", b"\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b":", b";", b",", b"0", b"1", b"f",
    b"\xff", b"a" * 300, b"0" * 20, b"OK",
]  # fmt: skip
ANSWERS = messages(GOOD, BAD, WORDS, most=1)


@dataclass
class Read:
    """What came of the bytes of one connection, after one request and before the connection's end."""

    status: int | None = None
    reason: bytes = b""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    complete: bool = False
    keep_alive: bool = False
    interim: tuple[int, ...] = ()
    error: str = ""


def read(reader: AnswerReader, parts: list[bytes], *, head_only: bool, fin: bool) -> Read:
    """As a Connection reads; `fin`: the connection ends by a FIN, not by a reset."""
    reader.expect(head_only=head_only)
    found, body, surplus = Read(), b"", False
    for part in parts:
        if reader.complete:
            surplus = True  # nobody asked: the connection is closed
            break
        try:
            reader.feed(part)
        except FumageNotHTTP as error:
            found.error = str(error)
            break
        body += reader.take()
        assert reader.buffered == 0
    if fin and not found.error and not reader.complete:
        reader.end()
    found.body = body + reader.take()
    found.complete, found.keep_alive = reader.complete, reader.keep_alive and reader.complete and not surplus
    found.interim = tuple(answer.status for answer in reader.answers if answer.status < 200)
    if (final := reader.final) is not None:
        found.status, found.reason = final.status, final.reason
        found.fields = tuple(final.fields)
        # Of a HEAD's answer nothing goes on that comes after its head, and a trailer only if it is whole.
        if final.framing == "chunked" and reader.complete:
            found.trailers = tuple(final.trailers)
    return found


def h11s(data: bytes, *, head_only: bool) -> Read | None:
    """The same by h11, as a client, the end of the connection included; None where it minds the bytes."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=10**6)
    method = "HEAD" if head_only else "GET"
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    found = Read()
    connection.receive_data(data)
    at_end = False
    try:
        while not found.complete:
            event = connection.next_event()
            if event is h11.NEED_DATA and not at_end:
                connection.receive_data(b"")
                at_end = True
                continue
            if isinstance(event, h11.InformationalResponse):
                found.interim += (event.status_code,)
            elif isinstance(event, h11.Response):
                found.status, found.reason = event.status_code, bytes(event.reason)
                found.fields = tuple(event.headers)
            elif isinstance(event, h11.Data):
                found.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.trailers = tuple(event.headers)
                found.complete = True
            else:
                return None
    except h11.RemoteProtocolError:
        return found if at_end and found.status else None  # not complete
    return found


def check_cuts(data: bytes, cuts: list[float], head_only: bool, fin: bool) -> None:
    ways = [[data], pieces(data, cuts), [data[at : at + 1] for at in range(len(data))]]
    found = [read(AnswerReader(), parts, head_only=head_only, fin=fin) for parts in ways]
    if data.endswith((b"\r", b"\n")):
        # llhttp skips line ends after an answer if they come along with it; by themselves they close.
        found = [replace(one, keep_alive=False) for one in found]
    assert found[1:] == [found[0]] * 2


def check_against_h11(data: bytes, head_only: bool) -> None:
    ours = read(AnswerReader(), [data], head_only=head_only, fin=True)
    theirs = h11s(data, head_only=head_only)
    if theirs is None or ours.error:
        return
    assert (ours.status, ours.reason, ours.body) == (theirs.status, theirs.reason, theirs.body)
    assert (ours.complete, ours.interim) == (theirs.complete, theirs.interim)
    rest = iter(theirs.fields)
    assert all((name.lower(), value.strip(b" \t")) in rest for name, value in ours.fields)
    assert [(name.lower(), value.strip(b" \t")) for name, value in ours.trailers] == list(theirs.trailers)


@fuzz(ANSWERS, CUTS, st.booleans(), st.booleans(), examples=700)
def test_cuts_make_no_difference_and_only_not_http_escapes(
    data: bytes, cuts: list[float], head_only: bool, fin: bool
) -> None:
    check_cuts(data, cuts, head_only, fin)


@fuzz(ANSWERS, st.booleans(), examples=700)
def test_an_answer_that_we_and_h11_both_accept_is_the_same_and_one_that_h11_misses_bytes_of_is_not_whole(
    data: bytes, head_only: bool
) -> None:
    check_against_h11(data, head_only)


@fuzz(st.lists(st.tuples(ANSWERS, CUTS, st.booleans()), min_size=2, max_size=4), examples=300)
def test_a_connection_that_may_be_used_again_reads_like_a_new_one(
    answers: list[tuple[bytes, list[float], bool]],
) -> None:
    kept = AnswerReader()
    for data, cuts, head_only in answers:
        parts = pieces(data, cuts)
        found = read(kept, parts, head_only=head_only, fin=False)
        assert found == read(AnswerReader(), parts, head_only=head_only, fin=False)
        if not found.keep_alive:
            return


# --- the whole way ---


class Whole:
    """The product before a scripted Fumage, in a loop that all examples share."""

    def __init__(self) -> None:
        self.faults: list[object] = []
        self.loop = (loop_factory() or asyncio.new_event_loop)()
        self.loop.set_exception_handler(lambda loop, context: self.faults.append(context))

    async def start(self) -> None:
        self.product = await Product().__aenter__()

    async def stop(self) -> None:
        await self.product.__aexit__(None, None, None)
        await asyncio.sleep(0.05)  # for what was aborted to be gone


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    one = Whole()
    one.loop.run_until_complete(one.start())
    yield one
    one.loop.run_until_complete(one.stop())
    one.loop.close()


@fuzz(ANSWERS, CUTS, st.sampled_from(("GET", "HEAD", "POST")), st.booleans(), examples=300, shared="whole")
def test_on_the_whole_way_a_caller_gets_a_whole_answer_from_none_but_a_whole_one(
    one: Whole, data: bytes, cuts: list[float], method: str, fin: bool
) -> None:
    one.loop.run_until_complete(answer_and_compare(one, pieces(data, cuts), method, fin=fin))


def played(parts: list[bytes], *, fin: bool) -> Behaviour:
    async def answer(seen: Seen, wire: Wire) -> None:
        for part in parts:
            if wire.lost:
                return
            wire.write(part)
            await asyncio.sleep(0)
        (wire.close if fin else wire.reset)()

    return answer


async def outcome(port: int, method: str) -> Answer | Broken:
    try:
        return await fetch(port, method, body=b"{}" if method == "POST" else None)
    except Broken as broken:
        return broken


async def answer_and_compare(one: Whole, parts: list[bytes], method: str, *, fin: bool) -> None:
    product = one.product
    product.records.clear()
    product.fumage.seen.clear()
    product.fumage.script.clear()
    product.fumage.script.append(played(parts, fin=fin))
    wanted = read(AnswerReader(), [b"".join(parts)], head_only=method == "HEAD", fin=fin)
    if wanted.status is not None and wanted.status > 599:
        return  # passed on, but our caller would not have it
    got = await outcome(product.port, method)
    if isinstance(got, Broken):
        assert got.answer is not None, "an error of our own, if no answer had begun"
        assert got.answer.status == wanted.status
        assert wanted.body.startswith(got.answer.body)
        # A reset takes back what the product has not read yet.
        assert not wanted.complete or not fin
    elif wanted.status == 401:
        assert got.status in (200, 502)  # replayed
    elif got["Proxy-Status"]:
        assert got.status == 502
        assert not wanted.complete or not fin
    elif wanted.complete:
        assert (got.status, got.body) == (wanted.status, wanted.body)
        assert got["Set-Cookie"] is None
    else:
        assert not fin
        assert got.body == (b"" if method == "HEAD" else PATIENT), "a lost GET is sent once more"
    product.fumage.script.clear()
    assert (await fetch(product.port)).body == PATIENT
    assert not one.faults
    assert all(record.defect is None for record in product.records)
    async with asyncio.timeout(15):
        while product.app._callers.open or product.app._pool.counts["active"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
