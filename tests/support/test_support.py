"""The doubles prove themselves: each ending of a connection is told apart, on both sides."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.support import Malformed
from tests.support.caller import Caller, Closed, Cut, Reset, build, fetch
from tests.support.emr import EMR, form, refuse
from tests.support.upstream import (
    Seen,
    Upstream,
    Wire,
    after,
    close_without_answer,
    early,
    echo,
    hang,
    raw,
    reply,
    reset_without_answer,
    tls_cut,
    tokens_only,
)

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nall of it"
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]  # the server's, the client's
FORM = [("Content-Type", "application/x-www-form-urlencoded")]


async def test_a_request_is_seen_with_its_case_order_and_duplicates() -> None:
    async with Upstream() as upstream:
        answer = await fetch(
            upstream.port,
            "PUT",
            "/Patient/%7c?a=b|c",
            [("x-A", "1"), ("X-a", "2")],
            [b"ab", b"c"],
            chunked=True,
        )
        assert (answer.status, answer.reason, answer.json()) == (200, "OK", {"resourceType": "Patient"})
        assert answer["content-TYPE"] == "application/fhir+json"
        [seen] = upstream.seen
        assert (seen.method, seen.target, seen.version) == ("PUT", b"/Patient/%7c?a=b|c", "HTTP/1.1")
        assert seen.headers[1:3] == [(b"x-A", b"1"), (b"X-a", b"2")]
        assert seen.all("X-A") == ["1", "2"]
        assert (seen.body, seen.raw_body, seen.complete) == (b"abc", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", True)
        assert seen.raw_head.startswith(b"PUT /Patient/%7c?a=b|c HTTP/1.1\r\nHost: localhost\r\nx-A: 1\r\n")
        await upstream.until(lambda: upstream.open == 0)


async def test_each_framing_is_told_apart() -> None:
    async with Upstream() as upstream:
        upstream.script += [
            reply(200, framing="chunked", chunks=[b"ab", b"c"], trailers=[("X-Sum", "1")]),
            reply(201, b"abc", reason="Made"),
            reply(204),
            reply(200, b"abc"),
            raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 304 \r\n\r\n"),
            reply(200, b"abc", framing="close"),
        ]
        async with await Caller.connect(upstream.port) as caller:
            answers = [await caller.request(method) for method in ("GET", "GET", "GET", "HEAD", "GET", "GET")]
            assert await caller.eof() == "eof"
        assert [answer.framing for answer in answers] == [
            "chunked",
            "length",
            "none",
            "none",
            "none",
            "close",
        ]
        assert [answer.body for answer in answers] == [b"abc", b"abc", b"", b"", b"", b"abc"]
        assert answers[0].trailers == [(b"X-Sum", b"1")]
        assert answers[1].reason == "Made"
        assert [early_hints.status for early_hints in answers[4].interim] == [103]
        assert [seen.connection for seen in upstream.seen] == [1] * 6


@pytest.mark.parametrize(
    ("behaviour", "error", "ending", "read"),
    [
        (close_without_answer(), Closed, "eof", b""),
        (reset_without_answer(), Reset, "reset", b""),
        (raw(b"HTTP/1.1 200", "close"), Cut, "eof", b"HTTP/1.1 200"),
        (raw(HALF, "close"), Cut, "eof", HALF),
        (raw(HALF, "reset"), Cut, "reset", HALF),
        (raw(HALF_CHUNKED, "close"), Cut, "eof", HALF_CHUNKED),
        (raw(UNTIL_CLOSE, "reset"), Cut, "reset", UNTIL_CLOSE),
    ],
    ids=["closed", "reset", "head-cut", "length-cut", "length-reset", "chunked-cut", "close-delimited-reset"],
)
async def test_a_broken_answer_says_how(
    behaviour: object, error: type[Closed], ending: str, read: bytes
) -> None:
    async with Upstream() as upstream:
        upstream.answer = behaviour  # type: ignore[assignment]
        with pytest.raises(error) as broken:
            await fetch(upstream.port)
        assert (broken.value.ending, broken.value.read) == (ending, read)


async def test_the_script_comes_first_and_events_hold_answers_back() -> None:
    go = asyncio.Event()
    async with Upstream(answer=echo()) as upstream:
        upstream.script += [after(go, reply(500)), early(reply(413, keep_alive=False))]
        first = asyncio.create_task(fetch(upstream.port, body=b"x"))
        await upstream.until(lambda: upstream.seen and upstream.seen[0].complete)
        async with await Caller.connect(upstream.port) as caller:
            await caller.send(build("POST", body=b"never read")[:-4])
            assert (await caller.answer()).status == 413
            assert not upstream.seen[1].complete
        assert not first.done()
        go.set()
        assert (await first).status == 500
        told = (await fetch(upstream.port, "POST", "/Task", body=b"\xff")).json()
        assert (told["method"], told["target"], told["body"]) == ("POST", "/Task", "\xff")


async def test_the_peer_going_away_is_noticed_and_a_body_in_pieces_is_watched() -> None:
    async with Upstream(answer=hang()) as upstream:
        async with await Caller.connect(upstream.port) as caller:
            await caller.send(build("POST", body=b"abcd")[:-2])
            await upstream.until(lambda: upstream.seen and upstream.seen[0].body == b"ab")
            caller.reset()
        await upstream.until(lambda: upstream.open == 0)
        assert not upstream.seen[0].complete
        async with await Caller.connect(upstream.port) as caller:
            await caller.send(build())
            await upstream.until(lambda: len(upstream.seen) == 2)
        await upstream.until(lambda: upstream.open == 0)


async def test_writing_without_a_reader_stops_until_it_reads() -> None:
    body = bytes(16 * 2**20)
    answer = reply(200, chunks=[body, b"end"])
    async with Upstream(answer=answer) as upstream, await Caller.connect(upstream.port) as caller:
        await caller.send(build())
        await upstream.until(lambda: any(wire.stalled for wire in upstream.wires))
        assert (await caller.answer()).body == body + b"end"


async def test_expect_gets_100_before_the_body_is_read() -> None:
    async with Upstream() as upstream, await Caller.connect(upstream.port) as caller:
        request = build("POST", headers=[("Expect", "100-continue")], body=b"abc")
        await caller.send(request[:-3])
        await upstream.until(lambda: upstream.seen)
        await caller.pulse.until(lambda: caller.buffer, 5, lambda: "no 100")
        await caller.send(request[-3:])
        answer = await caller.answer()
        assert [interim.status for interim in answer.interim] == [100]
        assert upstream.seen[0].body == b"abc"


async def test_a_stopped_upstream_refuses_and_comes_back_on_its_port() -> None:
    async with Upstream() as upstream:
        async with await Caller.connect(upstream.port) as caller:
            await caller.request()
            await upstream.stop()
            assert await caller.eof() == "eof"
        with pytest.raises(ConnectionRefusedError):
            await fetch(upstream.port)
        await upstream.restart()
        assert (await fetch(upstream.port)).status == 200


async def test_what_is_not_http_or_goes_wrong_in_a_behaviour_fails_the_test() -> None:
    async def wrong(seen: Seen, wire: Wire) -> None:
        raise ZeroDivisionError

    for answer, data, failure in [(wrong, build(), ZeroDivisionError), (echo(), b"GET /\n\n", Malformed)]:
        with pytest.raises(failure):  # noqa: PT012  # the end of the block raises
            async with Upstream(answer=answer) as upstream, await Caller.connect(upstream.port) as caller:
                await caller.send(data)
                assert await caller.eof() == "eof"


async def test_the_emr_issues_tokens_that_an_upstream_accepts() -> None:
    body = b"grant_type=client_credentials&client_id=a%26b"
    async with EMR(expires_in=60) as emr, Upstream(answer=tokens_only(emr.issued)) as upstream:
        emr.script += [refuse(), emr.grant(), emr.grant("mine", expires_in=..., token_type="bearer")]
        answers = [await fetch(emr.port, "POST", "/auth/token/", FORM, body) for _ in range(3)]
        assert [answer.status for answer in answers] == [401, 200, 200]
        assert answers[1].json()["expires_in"] == 60
        assert "expires_in" not in answers[2].json()
        assert (emr.issued, emr.requests) == (["token-1", "mine"], 3)
        assert form(emr.seen[0]) == {"grant_type": "client_credentials", "client_id": "a&b"}
        statuses = [
            (await fetch(upstream.port, headers=[("Authorization", f"Bearer {token}")])).status
            for token in ("mine", "other")
        ]
        assert statuses == [200, 401]


async def test_proxy_status_is_read_from_our_own_member() -> None:
    line = 'cdn; error=dns_error, fumage-proxy; error=connection_terminated; details="not-sent"'
    async with Upstream(answer=reply(502, headers=[("Proxy-Status", line)])) as upstream:
        answer = await fetch(upstream.port)
        assert answer.proxy_status == {"error": "connection_terminated", "details": "not-sent"}


@pytest.fixture(scope="module")
def tls() -> Contexts:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_tls_serves_and_can_be_cut(tls: Contexts) -> None:
    server, client = tls
    async with Upstream(tls=server) as upstream:
        assert upstream.url == f"https://localhost:{upstream.port}"
        upstream.script += [reply(200, b"abc"), tls_cut(HALF)]
        async with await Caller.connect(upstream.port, tls=client) as caller:
            assert (await caller.request()).body == b"abc"
            with pytest.raises(Cut) as cut:
                await caller.request()
            assert cut.value.read == HALF


async def test_a_tls_cut_sends_no_close_notify_and_a_close_does(
    tls: Contexts,
) -> None:
    server, client = tls

    def read_blocking() -> bytes:
        """OpenSSL itself tells the two apart, where asyncio does not."""
        plain = socket.create_connection(("127.0.0.1", upstream.port), timeout=5)
        with client.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as wrapped:
            wrapped.sendall(build())
            return b"".join(iter(lambda: wrapped.recv(1000), b""))

    async with Upstream(tls=server) as upstream:
        upstream.script += [raw(UNTIL_CLOSE, "close"), tls_cut(UNTIL_CLOSE)]
        assert await asyncio.to_thread(read_blocking) == UNTIL_CLOSE
        with pytest.raises(ssl.SSLEOFError):
            await asyncio.to_thread(read_blocking)


async def test_a_unix_socket_is_reached_by_its_path(tmp_path: Path) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UNTIL_CLOSE)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_unix_server(hello, tmp_path / "socket")
    answer = await fetch(None, path=str(tmp_path / "socket"))
    assert (answer.body, answer.framing, answer.ending) == (b"all of it", "close", "eof")
    server.close()
    await server.wait_closed()
