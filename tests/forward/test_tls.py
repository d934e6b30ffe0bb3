"""TLS to Fumage: whom it trusts, what a cut is, and that nothing is lost."""

import asyncio
import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from proxy.forward.tls import TLS
from tests.forward.fumage import authority, counts, listener, quiet, server, tls_server, told
from tests.forward.leftovers import until
from tests.support.caller import Broken, Caller, Cut, build, fetch
from tests.support.product import Product, server_context, trusting
from tests.support.upstream import (
    PATIENT,
    Seen,
    Upstream,
    Wire,
    close_without_answer,
    early,
    raw,
    reply,
    tls_cut,
)

OK = b"HTTP/1.1 200 OK\r\n"


def trusted(folder: Path) -> dict[str, str]:
    return trusting(authority().cert_pem.bytes(), folder)


async def test_a_request_goes_through_tls_and_its_connection_is_kept(tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        async with await Caller.connect(product.port) as caller:
            for _ in range(3):
                assert (await caller.request("POST", body=b"{}")).body == PATIENT
        await quiet(product, len(fumage.wires))


# --- whom it trusts ---


def expired() -> ssl.SSLContext:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return server_context(authority().issue_cert("localhost", not_after=past))


def self_signed() -> ssl.SSLContext:
    alone = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with alone.private_key_pem.tempfile() as key, alone.cert_pem.tempfile() as cert:
        context.load_cert_chain(cert, key)
    return context


UNTRUSTED: dict[str, Callable[[], ssl.SSLContext]] = {
    "an unknown authority": lambda: server_context(authority("another").issue_cert("localhost")),
    "an expired certificate": expired,
    "another host's": lambda: server("fumage-other.example"),
    "a self-signed one": self_signed,
}


@pytest.mark.parametrize("context", UNTRUSTED.values(), ids=UNTRUSTED)
async def test_a_certificate_that_is_not_trusted_is_named_and_sees_no_request(
    context: Callable[[], ssl.SSLContext], tmp_path: Path
) -> None:
    async with Upstream(tls=context()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        for method in ("GET", "POST"):
            assert told(await fetch(product.port, method)) == (502, "security", "tls_certificate_error", None)
        assert not fumage.seen
        await fumage.until(lambda: fumage.open == 0)
        assert counts(product) == {"idle": 0, "active": 0, "opening": 0}


async def test_fumage_is_told_that_we_do_not_trust_it(tmp_path: Path) -> None:
    ends: list[str] = []
    async with (
        listener(tls_server(server("fumage-other.example"), ends.append)) as port,
        Product(base_url=f"https://localhost:{port}", **trusted(tmp_path)) as product,
    ):
        assert told(await fetch(product.port))[2] == "tls_certificate_error"
        await until(lambda: ends)
        assert "ALERT" in ends[0]


# --- what is not TLS ---


async def test_a_port_without_tls_is_a_protocol_error(tmp_path: Path) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await reader.read(65536)

    async with listener(plain) as port, Product(base_url=f"https://localhost:{port}") as product:
        assert told(await fetch(product.port)) == (502, "security", "tls_protocol_error", None)
        assert counts(product) == {"idle": 0, "active": 0, "opening": 0}


async def test_no_common_tls_version_is_a_protocol_error(tmp_path: Path) -> None:
    old = server_context(authority().issue_cert("localhost"))
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with (
        listener(tls_server(old)) as port,
        Product(base_url=f"https://localhost:{port}", **trusted(tmp_path)) as product,
    ):
        assert told(await fetch(product.port)) == (502, "security", "tls_protocol_error", None)


@pytest.mark.parametrize("say", [b"", b"\x16\x03"], ids=["at once", "in a record"])
async def test_a_close_in_the_handshake_means_that_nothing_was_sent(say: bytes) -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(say)

    async with listener(leave) as port, Product(base_url=f"https://localhost:{port}") as product:
        got = await fetch(product.port, "POST", body=b"{}")
        assert told(got) == (502, "transient", "connection_terminated", "not-sent")


async def test_garbage_in_the_middle_of_tls_is_a_protocol_error(tmp_path: Path) -> None:
    async def garble(seen: Seen, wire: Wire) -> None:
        sock = wire.transport.get_extra_info("socket").dup()
        sock.setblocking(True)
        sock.sendall(b"no TLS record at all")
        sock.close()
        await wire.forever()

    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        await quiet(product)
        fumage.script += [garble]
        assert told(await fetch(product.port)) == (502, "security", "tls_protocol_error", None)
        await fumage.until(lambda: fumage.open == 0)
        assert (await fetch(product.port)).body == PATIENT


# --- ends ---


async def test_a_close_delimited_body_is_whole_if_close_notify_came(tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.answer = raw(OK + b"\r\nhello", then="close")
        assert (await fetch(product.port)).body == b"hello"


@pytest.mark.parametrize("end", ["cut", "reset"])
async def test_a_close_delimited_body_without_close_notify_is_not_whole(end: str, tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.answer = raw(OK + b"\r\nhello", then=end)  # type: ignore[arg-type]
        with pytest.raises(Broken):
            await fetch(product.port)


async def test_a_body_with_a_length_is_whole_without_close_notify(tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.answer = tls_cut(OK + b"Content-Length: 5\r\n\r\nhello")
        assert (await fetch(product.port)).body == b"hello"


async def test_close_notify_in_a_chunked_body_does_not_make_it_whole(tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.answer = raw(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", then="close")
        with pytest.raises(Cut):
            await fetch(product.port)


@pytest.mark.parametrize("whole", [True, False], ids=["close_notify", "cut"])
async def test_what_tls_holds_when_reading_pauses_and_the_peer_closes_is_not_lost(
    whole: bool, tmp_path: Path
) -> None:
    """A slow caller, several MB, close-delimited, a peer that closes at once: uvloop 0.23 loses the rest."""
    body = bytes(range(256)) * 24 * 1024  # 6 MB

    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(OK + b"\r\n" + body)
        if whole:
            wire.close()
        else:
            await wire.drain()
            wire.cut()

    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.answer = answer
        async with await Caller.connect(product.port) as caller:
            caller.write(build())
            await fumage.until(lambda: bool(fumage.seen))
            await asyncio.sleep(0.2)  # the caller reads nothing; all buffers between fill up
            if whole:
                assert (await caller.answer()).body == body
            else:
                with pytest.raises(Broken):
                    await caller.answer()


async def test_an_idle_connection_is_closed_with_close_notify(tmp_path: Path) -> None:
    ends: list[str] = []
    async with listener(tls_server(server(), ends.append)) as port:
        settings = {"base_url": f"https://localhost:{port}", "upstream_keepalive": "100ms"}
        async with Product(**settings, **trusted(tmp_path)) as product:
            await quiet(product)
            await until(lambda: ends)
            assert ends == ["close_notify"]


# --- what may happen in between ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_bodies_of_many_records_pass_both_ways(version: ssl.TLSVersion, tmp_path: Path) -> None:
    context = server_context(authority().issue_cert("localhost"))
    context.maximum_version = version
    body = bytes(range(256)) * 12_000

    async def double(seen: Seen, wire: Wire) -> None:
        await reply(200, seen.body * 2, framing="chunked")(seen, wire)

    async with (
        Upstream(tls=context, answer=double) as fumage,
        Product(fumage, **trusted(tmp_path)) as product,
    ):
        async with await Caller.connect(product.port) as caller:
            for _ in range(2):
                assert (await caller.request("POST", body=body)).body == body * 2
        await quiet(product, len(fumage.wires))


def handshake(client: TLS, peer: ssl.SSLObject, to_peer: ssl.MemoryBIO, from_peer: ssl.MemoryBIO) -> None:
    to_peer.write(client.start())
    while not client.ready:
        try:
            peer.do_handshake()
        except ssl.SSLWantReadError:
            pass
        client.receive(from_peer.read())
        to_peer.write(client.pending())
    peer.do_handshake()


def pair() -> tuple[TLS, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    trust = ssl.create_default_context()
    authority().configure_trust(trust)
    to_peer, from_peer = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = server().wrap_bio(to_peer, from_peer, server_side=True)
    client = TLS(trust, "localhost")
    handshake(client, peer, to_peer, from_peer)
    return client, peer, to_peer, from_peer


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_records_may_come_in_any_pieces(size: int) -> None:
    client, peer, _, from_peer = pair()
    sent = b"".join(bytes([n]) * n * 100 for n in range(1, 40))
    peer.write(sent)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()
    wire = from_peer.read()
    got = b"".join(client.receive(wire[at : at + size]) for at in range(0, len(wire), size))
    assert got == sent
    assert client.closed_by_peer
    assert client.ended


def test_what_came_before_a_broken_record_is_handed_out() -> None:
    client, peer, _, from_peer = pair()
    peer.write(b"whole")
    assert client.receive(from_peer.read() + b"\x17\x03\x03\x00\x20" + b"z" * 32) == b"whole"
    assert client.error is not None
    assert client.pending()  # our alert


def test_what_runs_inside_of_a_tls_that_was_closed_has_ended_but_not_by_its_own_close_notify() -> None:
    outer, peer, _, from_peer = pair()
    trust = ssl.create_default_context()
    authority().configure_trust(trust)
    inner = TLS(trust, "localhost", outer)
    with pytest.raises(ssl.SSLWantReadError):
        peer.unwrap()
    assert inner.receive(from_peer.read()) == b""
    assert inner.ended
    assert not inner.closed_by_peer
    assert inner.pending() == b""


def test_a_write_of_any_size_is_taken_whole() -> None:
    client, peer, to_peer, _ = pair()
    to_peer.write(client.send(b"x" * 3_000_000))
    got = 0
    while got < 3_000_000:
        got += len(peer.read(65536))


# --- client certificates ---


async def test_a_client_certificate_is_shown_on_fumages_leg(tmp_path: Path) -> None:
    mutual = server_context(authority().issue_cert("localhost"))
    authority().configure_trust(mutual)
    mutual.verify_mode = ssl.CERT_REQUIRED
    shown = authority().issue_cert("client@clinic.example", common_name="clinic")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(b"".join(blob.bytes() for blob in shown.cert_chain_pems))
    key.write_bytes(shown.private_key_pem.bytes())
    seen: list[object] = []

    async def look(one: Seen, wire: Wire) -> None:
        seen.append(wire.transport.get_extra_info("peercert")["subject"])
        await reply(200)(one, wire)

    async with Upstream(tls=mutual, answer=look) as fumage:
        both = {"client_cert": str(cert), "client_key": str(key)}
        async with Product(fumage, **trusted(tmp_path), **both) as product:
            assert (await fetch(product.port, "POST")).status == 200
    assert "clinic" in str(seen)


async def test_a_fumage_that_misses_our_certificate_is_a_protocol_error(tmp_path: Path) -> None:
    mutual = server_context(authority().issue_cert("localhost"))
    mutual.verify_mode = ssl.CERT_REQUIRED
    async with (
        listener(tls_server(mutual)) as port,
        Product(base_url=f"https://localhost:{port}", **trusted(tmp_path)) as product,
    ):
        got = await fetch(product.port, "POST")
        assert told(got) == (502, "security", "tls_protocol_error", None)
        await quiet(product, 0)


# --- the rest of the contract, on TLS ---


async def test_a_get_on_a_closed_tls_connection_is_sent_once_more(tmp_path: Path) -> None:
    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        await quiet(product)
        fumage.script += [close_without_answer()]
        assert (await fetch(product.port)).status == 200
        assert [seen.connection for seen in fumage.seen] == [1, 2]


async def test_an_answer_that_comes_before_an_upload_was_read_is_heard_on_tls(tmp_path: Path) -> None:
    @early
    async def refuse(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 413 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n")
        wire.cut()

    async with Upstream(tls=server()) as fumage, Product(fumage, **trusted(tmp_path)) as product:
        fumage.script += [refuse]
        assert (await fetch(product.port, "POST", body=b"x" * 3_000_000)).status == 413
