"""TLS and the egress proxy."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trustme

from proxy.rules.errors import EgressProxyFailed, TokenEndpointUnavailable, TokenEndpointUntrusted, TokenError
from tests.support.emr import EMR
from tests.support.upstream import (
    Behaviour,
    Upstream,
    Wire,
    close_without_answer,
    hang,
    raw,
    reply,
    reset_without_answer,
)
from tests.token.client import URL_PASSWORD, Client, client, leaks

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    authority = trustme.CA()
    server, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    return server, trusting


async def test_a_trusted_certificate_is_accepted_and_an_unknown_one_is_not(contexts: Contexts) -> None:
    async with EMR(tls=contexts[0]) as emr:
        async with client(emr, ssl=contexts[1]) as asking:
            assert await asking.request()
        async with client(emr) as asking:
            with pytest.raises(TokenEndpointUntrusted, match="unable to get local issuer"):
                await asking.request()
            assert asking.observed == [("client_credentials", "unreachable")]
        async with client(emr.token_url.replace("localhost", "127.0.0.1"), ssl=contexts[1]) as asking:
            with pytest.raises(TokenEndpointUntrusted, match="mismatch"):
                await asking.request()
        assert emr.requests == 1


async def test_a_port_that_speaks_no_tls_is_unreachable() -> None:
    async with Upstream(on_connect=lambda wire: _say(wire, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as plain:
        asking = Client(f"https://localhost:{plain.port}/")
        with pytest.raises(TokenEndpointUnavailable, match=r"TLS handshake failed \(WRONG_VERSION_NUMBER\)"):
            await asking.request()
        await asking.close()
        assert asking.observed == [("client_credentials", "unreachable")]


async def _say(wire: Wire, data: bytes) -> None:
    wire.write(data)
    wire.close()


@asynccontextmanager
async def tunnel() -> AsyncIterator[tuple[str, list[str]]]:
    """An egress proxy that lets everything through: its URL, and the heads that it saw."""
    heads: list[str] = []
    serving: list[asyncio.Task[Any]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(cast("asyncio.Task[Any]", asyncio.current_task()))
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        host, _, port = heads[-1].split()[1].rpartition(":")
        further = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, further[1]), pump(further[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield f"http://me:{URL_PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
        await asyncio.gather(*serving)  # before 3.12 the server does not wait for its connections


async def test_the_egress_proxy_gets_its_credentials_and_never_the_secret(contexts: Contexts) -> None:
    async with EMR(tls=contexts[0]) as emr, tunnel() as (proxy, heads):
        async with client(emr, ssl=contexts[1], proxy=proxy, client_auth="basic") as asking:
            assert await asking.request()
        [seen] = heads
        assert seen.startswith(f"CONNECT localhost:{emr.port} HTTP/1.1\r\n")
        assert base64.b64encode(f"me:{URL_PASSWORD}".encode()).decode() in seen
        assert "\r\nAuthorization" not in seen
        assert "Proxy-Authorization" not in str(emr.seen[0].headers)
        async with client(emr, proxy=proxy) as asking:  # the EMR's certificate, not the proxy's
            with pytest.raises(TokenEndpointUntrusted):
                await asking.request()


@pytest.mark.parametrize(
    ("scheme", "status", "error"),
    [
        ("https", 407, EgressProxyFailed),
        ("https", 403, EgressProxyFailed),
        ("https", 500, EgressProxyFailed),
        ("https", 502, EgressProxyFailed),
        ("https", 503, EgressProxyFailed),
        ("https", 504, EgressProxyFailed),
        ("http", 407, EgressProxyFailed),
        ("http", 502, TokenEndpointUnavailable),
        # Without a tunnel it cannot be told whose 403 it is.
    ],
)
async def test_what_the_egress_proxy_answers(scheme: str, status: int, error: type[TokenError]) -> None:
    async with Upstream(answer=reply(status, b"no")) as proxy:
        url = f"http://me:{URL_PASSWORD}@127.0.0.1:{proxy.port}"
        async with client(f"{scheme}://emr.example/auth/token/", proxy=url) as asking:
            with pytest.raises(TokenError, match=str(status)) as caught:
                await asking.request()
            assert type(caught.value) is error
            assert not leaks(caught.value, URL_PASSWORD)
        assert proxy.seen[0].method == ("CONNECT" if scheme == "https" else "POST")
        await proxy.until(lambda: proxy.open == 0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (close_without_answer(), "closed the connection instead of connecting us"),
        (reset_without_answer(), r"closed the connection instead of connecting us \(ECONNRESET\)"),
        (raw(b"HTTP/1.1 200 Conn", "close"), "closed the connection instead of connecting us"),
        (raw(b"\x05\x00 I speak SOCKS\r\n", "close"), "does not speak HTTP"),
    ],
    ids=["closed", "reset", "half an answer", "garbage"],
)
async def test_an_egress_proxy_that_spoils_connect_is_named(answer: Behaviour, said: str) -> None:
    async with Upstream(answer=answer) as proxy:
        url = f"http://me:{URL_PASSWORD}@127.0.0.1:{proxy.port}"
        async with client("https://emr.example/auth/token/", proxy=url) as asking:
            with pytest.raises(EgressProxyFailed, match=f"egress proxy {said}") as caught:
                await asking.request()
            assert asking.observed == [("client_credentials", "unreachable")]
            assert not leaks(caught.value, URL_PASSWORD)
        await proxy.until(lambda: proxy.open == 0)


@pytest.mark.parametrize("answer", [hang(), raw(b"HTTP/1.1 200")], ids=["silent", "half an answer"])
async def test_a_tunnel_that_does_not_come_about_in_time_is_the_egress_proxys_fault(
    answer: Behaviour,
) -> None:
    async with Upstream(answer=answer) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with client("https://emr.example/auth/token/", proxy=url, timeout=0.05) as asking:
            with pytest.raises(EgressProxyFailed, match=r"through the egress proxy within 0\.05 s"):
                await asking.request()
            assert asking.observed == [("client_credentials", "timeout")]
        await proxy.until(lambda: proxy.open == 0)


@pytest.mark.parametrize(
    "answer",
    [close_without_answer(), reset_without_answer(), raw(b"SSH-2.0-OpenSSH_9.6\r\n", "close"), reply(502)],
    ids=["closed", "reset", "not HTTP", "502"],
)
async def test_what_the_emr_spoils_inside_of_the_tunnel_is_not_the_egress_proxys_fault(
    answer: Behaviour, contexts: Contexts
) -> None:
    async with EMR(tls=contexts[0]) as emr, tunnel() as (proxy, heads):
        emr.answer = answer
        async with client(emr, ssl=contexts[1], proxy=proxy) as asking:
            with pytest.raises(TokenEndpointUnavailable):
                await asking.request()
        assert len(heads) == 1


async def test_an_emr_that_is_silent_inside_of_the_tunnel_is_not_the_egress_proxys_fault(
    contexts: Contexts,
) -> None:
    async with EMR(tls=contexts[0]) as emr, tunnel() as (proxy, _):
        emr.answer = hang()
        timeout = 0.1
        while not emr.requests:  # on a slow machine the first ones end before the tunnel is up
            timeout *= 2
            async with client(emr, ssl=contexts[1], proxy=proxy, timeout=timeout) as asking:
                with pytest.raises(TokenError) as caught:
                    await asking.request()
        assert type(caught.value) is TokenEndpointUnavailable


async def test_a_handshake_that_fails_inside_of_the_tunnel_is_not_the_egress_proxys_fault() -> None:
    async def leave(wire: Wire) -> None:
        wire.close()

    async with Upstream(on_connect=leave) as emr, tunnel() as (proxy, heads):
        async with client(f"https://localhost:{emr.port}/", proxy=proxy) as asking:
            with pytest.raises(TokenEndpointUnavailable, match="could not be reached"):
                await asking.request()
        assert len(heads) == 1


async def test_an_egress_proxy_that_is_not_there_is_named(contexts: Contexts) -> None:
    async with Upstream() as proxy:
        gone = proxy.port
    async with Upstream(tls=contexts[0]) as untrusted:
        for url in (
            f"http://me:{URL_PASSWORD}@127.0.0.1:{gone}",
            f"http://me:{URL_PASSWORD}@nowhere.invalid:3128",
            f"https://me:{URL_PASSWORD}@localhost:{untrusted.port}",
        ):
            async with client("https://emr.example/auth/token/", proxy=url) as asking:
                with pytest.raises(EgressProxyFailed, match="could not be reached") as caught:
                    await asking.request()
                assert asking.observed == [("client_credentials", "unreachable")]
                assert not leaks(caught.value, URL_PASSWORD)
