"""HTTPS_PROXY and NO_PROXY: both legs go through the egress proxy, and its faults are called its own."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.forward.dial import EgressProxy
from tests.forward.fumage import authority, counts, listener, quiet, server, told
from tests.forward.leftovers import until
from tests.support import unused_port
from tests.support.caller import Broken, fetch
from tests.support.emr import EMR
from tests.support.product import Product, server_context, trusting
from tests.support.upstream import PATIENT, Upstream, tls_cut

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class ConnectProxy:
    """A forward proxy that knows CONNECT. `answer` is what it says; it goes on only after a 2xx."""

    answer: bytes = ESTABLISHED
    tls: ssl.SSLContext | None = None
    heads: list[bytes] = field(default_factory=list)
    port: int = 0
    open: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ConnectProxy"]:
        tasks: set[asyncio.Task[None]] = set()

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.open += 1
            try:
                await self._serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                self.open -= 1
                tasks.discard(task)
                writer.transport.abort()

        one = await asyncio.start_server(run, "127.0.0.1", 0, ssl=self.tls)
        self.port = one.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            one.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if not self.answer:
            return
        if b" 200 " not in self.answer:
            writer.write(self.answer)
            await writer.drain()
            await reader.read(1)
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        upstream = await asyncio.open_connection(host, int(port))
        writer.write(self.answer)
        both = [
            asyncio.create_task(_copy(reader, upstream[1])),
            asyncio.create_task(_copy(upstream[0], writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            upstream[1].transport.abort()  # before any wait: this task may be cancelled once more
            await asyncio.gather(*both, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    @property
    def authorities(self) -> list[str]:
        return [head.split(b" ")[1].decode() for head in self.heads]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "no_proxy", "all_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def trust(tmp_path: Path) -> dict[str, str]:
    return trusting(authority().cert_pem.bytes(), tmp_path)


@asynccontextmanager
async def behind(
    monkeypatch: pytest.MonkeyPatch, url: str, trust: dict[str, str], **settings: str
) -> AsyncIterator[Product]:
    """A product on TLS whose Fumage is reached through the egress proxy."""
    monkeypatch.setenv("HTTPS_PROXY", url)
    async with Upstream(tls=server()) as fumage, Product(fumage, **trust, **settings) as product:
        yield product


async def test_both_legs_go_through_the_proxy(monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]) -> None:
    async with ConnectProxy().running() as egress:
        monkeypatch.setenv("HTTPS_PROXY", egress.url)
        async with (
            Upstream(tls=server()) as fumage,
            EMR(tls=server()) as emr,
            Product(fumage, emr, **trust) as product,
        ):
            assert (await fetch(product.port)).body == PATIENT
            assert (await fetch(product.port, "POST", body=b"{}")).body == PATIENT
            assert {f"localhost:{fumage.port}", f"localhost:{emr.port}"} == set(egress.authorities)
        for head, wanted in zip(egress.heads, egress.authorities, strict=True):
            assert f"\r\nHost: {wanted}\r\n".encode() in head
            assert b"uthorization" not in head


async def test_the_proxys_credentials_go_to_the_proxy_alone(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with ConnectProxy().running() as egress:
        url = f"http://us%40er:p%3Aass%20w@localhost:{egress.port}"
        async with behind(monkeypatch, url, trust) as product:
            assert (await fetch(product.port)).body == PATIENT
            wanted = b"\r\nProxy-Authorization: Basic " + b64encode(b"us@er:p:ass w") + b"\r\n"
            assert all(wanted in head for head in egress.heads)
            assert all(seen["Proxy-Authorization"] is None for seen in product.fumage.seen)


@pytest.mark.parametrize(
    ("bypass", "used"),
    [("localhost", False), ("*", False), ("example.com,localhost", False), ("example.com", True), ("", True)],
)
async def test_no_proxy_exempts_a_host(
    bypass: str, used: bool, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    monkeypatch.setenv("NO_PROXY", bypass)
    async with ConnectProxy().running() as egress, behind(monkeypatch, egress.url, trust) as product:
        assert (await fetch(product.port)).body == PATIENT
        assert bool(egress.heads) == used


ANSWERS = {
    "HTTP/1.0": b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    "an interim answer before it": b"HTTP/1.1 100 Continue\r\n\r\n" + ESTABLISHED,
    "a length, which is to be ignored": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "chunked, which is to be ignored": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_any_2xx_opens_the_tunnel(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with ConnectProxy(answer).running() as egress, behind(monkeypatch, egress.url, trust) as product:
        for _ in range(3):
            assert (await fetch(product.port)).body == PATIENT
        await quiet(product, product.fumage.open)


REFUSALS = {
    "407": b"HTTP/1.1 407 Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "502": b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>",
    "503": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: http://login.corp/\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"\x05\x00 I speak SOCKS",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
async def test_what_the_proxy_refuses_is_its_fault(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with ConnectProxy(answer).running() as egress:
        url = f"http://user:hunter2@localhost:{egress.port}"
        async with behind(monkeypatch, url, trust) as product:
            for method in ("GET", "POST"):
                got = await fetch(product.port, method)
                assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")
                assert b"hunter2" not in got.body
            assert not product.fumage.seen
            await until(lambda: egress.open == 0)
            assert counts(product) == {"idle": 0, "active": 0, "opening": 0}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
async def test_what_it_refuses_to_the_token_leg_is_its_fault_too(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with ConnectProxy(answer).running() as egress:
        monkeypatch.setenv("HTTPS_PROXY", egress.url)
        async with EMR(tls=server()) as emr, Product(emr=emr, **trust) as product:
            got = await fetch(product.port)
            assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")


@pytest.mark.parametrize("host", ["localhost", "egress.invalid"], ids=["refused", "unknown"])
async def test_a_proxy_that_cannot_be_reached_is_named(
    host: str, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with behind(monkeypatch, f"http://{host}:{unused_port()}", trust) as product:
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def test_a_proxy_whose_handshake_hangs_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with listener(hang) as port:
        url = f"https://localhost:{port}"
        async with behind(monkeypatch, url, trust, connect_timeout="200ms") as product:
            got = await fetch(product.port)
            assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")


@pytest.mark.parametrize("leg", ["Fumage", "EMR"])
async def test_a_tunnel_that_does_not_come_about_is_the_proxys_fault(
    leg: str, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    """Whether it waits for the far side as we would cannot be known, no more than with its 504."""
    async with listener(hang) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{port}")
        async with (
            Upstream(tls=server() if leg == "Fumage" else None) as fumage,
            EMR(tls=server() if leg == "EMR" else None) as emr,
            Product(fumage, emr, **trust, connect_timeout="200ms", token_timeout="200ms") as product,
        ):
            got = await fetch(product.port)
            assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")
            assert "Cause: the egress proxy" in got.json()["issue"][0]["diagnostics"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_tunnel_that_closes_at_once_means_that_nothing_was_sent(
    scheme: str, monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ESTABLISHED)
        writer.close()  # with TLS the close_notify is in the same segment
        await writer.wait_closed()

    async with (
        listener(close, tls=server() if scheme == "https" else None) as port,
        behind(monkeypatch, f"{scheme}://localhost:{port}", trust) as product,
    ):
        got = await asyncio.wait_for(fetch(product.port, "POST"), 15)
        assert told(got) == (502, "transient", "connection_terminated", "not-sent")


async def test_fumages_certificate_is_checked_inside_of_the_tunnel(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    other = server_context(authority("another").issue_cert("localhost"))
    async with ConnectProxy().running() as egress:
        monkeypatch.setenv("HTTPS_PROXY", egress.url)
        async with Upstream(tls=other) as fumage, Product(fumage, **trust) as product:
            assert told(await fetch(product.port)) == (502, "security", "tls_certificate_error", None)
            assert not fumage.seen


# --- a proxy that is itself reached by https ---


async def test_tls_runs_inside_of_tls_on_both_legs(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    body = bytes(range(256)) * 8000
    async with ConnectProxy(tls=server()).running() as egress:
        monkeypatch.setenv("HTTPS_PROXY", egress.url)
        async with (
            Upstream(tls=server()) as fumage,
            EMR(tls=server()) as emr,
            Product(fumage, emr, **trust) as product,
        ):
            assert (await fetch(product.port, "POST", body=body)).body == PATIENT
            assert fumage.seen[-1].body == body
            assert {f"localhost:{fumage.port}", f"localhost:{emr.port}"} == set(egress.authorities)


async def test_a_body_that_the_outer_tls_cuts_is_not_whole(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with (
        ConnectProxy(tls=server()).running() as egress,
        behind(monkeypatch, egress.url, trust) as product,
    ):
        product.fumage.answer = tls_cut(b"HTTP/1.1 200 OK\r\n\r\nhello")
        with pytest.raises(Broken):
            await fetch(product.port)


OUTER: dict[str, Callable[[], ssl.SSLContext]] = {
    "an unknown authority": lambda: server_context(authority("another").issue_cert("localhost")),
    "another host's certificate": lambda: server("other.example"),
}


@pytest.mark.parametrize("context", OUTER.values(), ids=OUTER)
async def test_an_https_proxy_that_is_not_trusted_is_named(
    context: Callable[[], ssl.SSLContext], monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with (
        ConnectProxy(tls=context()).running() as egress,
        behind(monkeypatch, egress.url, trust) as product,
    ):
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")
        assert not egress.heads


async def test_an_https_proxy_that_speaks_no_tls_is_named(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with (
        listener(hello) as port,
        behind(monkeypatch, f"https://localhost:{port}", trust) as product,
    ):
        got = await fetch(product.port)
        assert told(got) == (502, "transient", "destination_unavailable", "egress-proxy")


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65536)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read(65536)


async def test_a_proxy_may_be_named_without_a_scheme(
    monkeypatch: pytest.MonkeyPatch, trust: dict[str, str]
) -> None:
    async with ConnectProxy().running() as egress, EMR(tls=server()) as emr, Upstream(tls=server()) as fumage:
        monkeypatch.setenv("HTTPS_PROXY", f"user:password@localhost:{egress.port}")
        async with Product(fumage, emr, **trust) as product:
            assert (await fetch(product.port)).body == PATIENT
            assert {f"localhost:{fumage.port}", f"localhost:{emr.port}"} == set(egress.authorities)


# --- its address ---


@pytest.mark.parametrize(
    ("url", "egress"),
    [
        ("http://proxy.corp:3128", EgressProxy("proxy.corp", 3128, False, None)),
        ("proxy.corp:3128", EgressProxy("proxy.corp", 3128, False, None)),
        ("http://proxy.corp", EgressProxy("proxy.corp", 80, False, None)),
        ("https://proxy.corp/", EgressProxy("proxy.corp", 443, True, None)),
        ("http://[::1]:3128", EgressProxy("::1", 3128, False, None)),
        ("http://u@proxy.corp", EgressProxy("proxy.corp", 80, False, b"Basic dTo=")),
        ("http://u:%C3%A9@proxy.corp", EgressProxy("proxy.corp", 80, False, b"Basic dTrDqQ==")),
    ],
)
def test_the_address_of_a_proxy_is_read_as_curl_does(url: str, egress: EgressProxy) -> None:
    assert EgressProxy.of(url) == egress


@pytest.mark.parametrize(
    "url", ["socks5://u:hunter2@proxy:1080", "http://", "http://proxy:99999", "http://u:hunter2@[x", "://"]
)
def test_what_is_no_proxys_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match="HTTPS_PROXY") as raised:
        EgressProxy.of(url)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
