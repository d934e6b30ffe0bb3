"""The shared store: where it is, how it fails, and many who use it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.clock import SystemClock
from proxy.token.seal import Seal
from proxy.token.shared import SharedGrant
from proxy.token.source import TokenSource
from proxy.token.store import RedisStore
from tests.support.emr import EMR
from tests.token.client import Client
from tests.token.replica import KEY, Replica, text, until
from tests.token.script import Start
from tests.token.server import Server, in_front, nonsense

SOON = 4  # seconds; what waits for a store that is silent waits for much less

# --- a store that fails ---


@asynccontextmanager
async def stopped(path: Path) -> AsyncIterator[str]:
    server = Server(path)
    server.stop()
    yield server.url


@asynccontextmanager
async def paused(path: Path) -> AsyncIterator[str]:
    server = Server(path)
    server.pause()
    yield server.url
    server.stop()


@asynccontextmanager
async def configured(path: Path, **config: str) -> AsyncIterator[str]:
    server = Server(path)
    with server.ask() as redis:
        for name, value in config.items():
            redis.config_set(name.replace("_", "-"), value)
    yield server.url
    server.stop()


@asynccontextmanager
async def replica(path: Path) -> AsyncIterator[str]:
    server = Server(path)
    with server.ask() as redis:
        redis.replicaof("127.0.0.1", 1)
    yield server.url
    server.stop()


ANSWER = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n%b\r\n"


@asynccontextmanager
async def unresolvable(path: Path) -> AsyncIterator[str]:
    yield "redis://redis.invalid"


@pytest.mark.parametrize(
    ("failing", "why"),
    [
        (stopped, "could not be reached"),
        (unresolvable, ""),
        (paused, "did not answer within 0.25 s"),
        (lambda path: configured(path, requirepass="x"), "refused the password"),
        (lambda path: configured(path, maxmemory="1"), "is full"),
        (replica, "is read-only"),
        (lambda path: nonsense(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "something that is not Redis"),
        (lambda path: nonsense(ANSWER % b":99999999999\r\n:1", to=b"MULTI"), "nonsense"),
        (lambda path: nonsense(ANSWER % b"$1\r\nx\r\n$1\r\nx", to=b"MULTI"), "nonsense"),
        (lambda path: nonsense(ANSWER.replace(b"*2", b"*-1") % b"", to=b"MULTI"), "nonsense"),
        (lambda path: nonsense(b"$99999999999\r\n"), "did not answer within 0.25 s"),
        (lambda path: nonsense(b"*1\r\n" * 20000), "nonsense"),
        (lambda path: nonsense(b"-ERR my-secret-text\r\n"), ""),
        (lambda path: nonsense(b"*-1\r\n"), ""),
        (lambda path: nonsense(b"\xff\x00\r\n"), ""),
    ],
)
async def test_without_a_store_each_gets_its_own_token_soon(
    tmp_path: Path, failing: Callable[[Path], Any], why: str
) -> None:
    async with failing(tmp_path) as url:
        one = Replica(url)
        async with asyncio.timeout(SOON):
            assert text(await one.source.get()) == "a-tok-1"
    assert one.told == ["fallback"]
    assert why in (one.why[0] or "")
    assert "my-secret-text" not in (one.why[0] or "")


async def test_a_wrong_password_is_no_secret_told(server: Server) -> None:
    one = Replica(server.url, password="my-pa55word")
    assert text(await one.source.get()) == "a-tok-1"
    assert one.told == ["fallback"]
    assert "my-pa55word" not in f"{one.why} {one.grant!r} {vars(one.grant)!r}"


async def test_a_store_that_comes_back_is_used_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    await two.source.get()
    for leave, come_back in ((server.stop, server.restart), (server.pause, server.resume)):
        leave()
        mine, yours = await one.grant.request(), await two.grant.request()
        assert text(mine) != text(yours)
        come_back()
        for each in (one, two):
            await each.clock.advance(100)
        assert text(await one.grant.request()) == text(await two.grant.request())
    server.stop()


@pytest.mark.parametrize("leave", [Server.stop, Server.pause])
async def test_a_store_that_goes_while_one_fetches_costs_no_token(
    tmp_path: Path, start: Start, leave: Callable[[Server], None]
) -> None:
    server = Server(tmp_path)
    one = Replica(server.url)
    one.script.gate.clear()
    fetching = start(one.source.get())
    await until(lambda: one.script.busy)
    leave(server)
    one.script.gate.set()
    async with asyncio.timeout(SOON):
        assert text(await fetching) == "a-tok-1"
    assert one.script.requests == 1
    assert one.told == ["fallback"]
    server.stop()


# --- many ---


async def test_twenty_replicas_ask_once_at_start_once_a_refresh_and_once_a_revocation(
    server: Server, start: Start
) -> None:
    clock = SystemClock()
    async with EMR(expires_in=4) as emr:

        def replica() -> TokenSource:
            grant = SharedGrant(
                Client(emr.token_url, clock=clock),
                store=RedisStore(server.url),
                seal=Seal([KEY]),
                refresh_margin=60,
                patience=5.0,
                clock=clock,
            )
            return TokenSource(grant, refresh_margin=60, clock=clock)

        sources = [replica() for _ in range(20)]
        revoked: set[str] = set()
        served = 0

        async def call(source: TokenSource) -> None:
            nonlocal served
            while True:
                sent_at = clock.now()
                token = await source.get()
                await asyncio.sleep(0.01)
                if token.access_token in revoked:
                    fresh = await source.replace(token, sent_at)
                    assert fresh is not None
                    assert fresh.access_token not in revoked
                source.accepted(token, clock.now())
                served += 1

        tasks = [start(work(source)) for source in sources for work in (TokenSource.run, call)]

        async def all_hold(number: int) -> None:
            name = f"token-{number}"
            await until(lambda: all(text(source.current()) == name for source in sources))
            assert emr.requests == number

        await all_hold(1)
        await all_hold(2)  # refreshed
        revoked.add("token-2")
        await all_hold(3)
        await all_hold(4)
        assert served > 1000
        assert not [task for task in tasks if task.done()]
        for source in sources:
            await source.close()


# --- where it is ---


async def test_a_unix_socket(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a socket"
    async with in_front(server, asyncio.start_unix_server, path):
        one = Replica(f"unix:{path}")
        await one.source.get()
        assert one.told == ["fetched"]


async def test_tls_proves_both_sides(server: Server, tmp_path: Path) -> None:
    ca, files = trustme.CA(), {name: tmp_path / name for name in ("ca", "certificate", "key")}
    ours, theirs = ca.issue_cert("127.0.0.1"), ca.issue_cert("client")
    ca.cert_pem.write_to_path(files["ca"])
    theirs.cert_chain_pems[0].write_to_path(files["certificate"])
    theirs.private_key_pem.write_to_path(files["key"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    ours.configure_cert(context)
    ca.configure_trust(context)
    async with in_front(server, asyncio.start_server, "127.0.0.1", 0, ssl=context) as front:
        url = f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}"
        trusting = f"{url}?ssl_ca_certs={files['ca']}"
        for each, told in [
            (f"{trusting}&ssl_certfile={files['certificate']}&ssl_keyfile={files['key']}", "fetched"),
            (trusting, "fallback"),
            (url, "fallback"),
        ]:
            one = Replica(each)
            await one.source.get()
            assert one.told == [told]
            server.forget()


async def test_a_database_a_user_and_a_password(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with server.ask() as redis:
        redis.config_set("requirepass", "secret")
        redis.execute_command("ACL", "SETUSER", "proxy", "on", ">pass:word", "~fumage-proxy:*", "+@all")
    authority = f"127.0.0.1:{server.port}"
    for url, password in [
        (f"redis://:secret@{authority}", None),
        (f"redis://{authority}/3", "secret"),
        (f"redis://proxy:pass%3Aword@{authority}", None),
        (f"redis://proxy@{authority}/0", "pass:word"),
    ]:
        one = Replica(url, password=password)
        await one.source.get()
        assert one.told in (["fetched"], ["hit"]), (url, one.why)
    server.stop()


@pytest.mark.parametrize(
    "url",
    ["", "redis", "redis://", "http://h", "unix:path", "unix://host/path", "redis://h/x", "redis://h:x", "redis://me:pass/word@h",
     "redis://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none", "rediss://h?socket_timeout=9"],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(
        ValueError, match=r"^is not the URL of a Redis: redis://host, rediss://host or unix:/path$"
    ):
        RedisStore(url)
