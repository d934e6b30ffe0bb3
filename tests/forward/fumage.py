"""What the tests of Fumage's side share: how an error reads, a quiet pool, certificates, and servers that
misbehave below HTTP."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache

import trustme

from tests.forward.leftovers import until
from tests.support.caller import Answer
from tests.support.product import Product, server_context

# Fields that end at the next hop, in either direction (RFC 9110 section 7.6.1).
HOPS = [
    ("Connection", "close, X-Mine"),
    ("X-Mine", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic eDp5"),
    ("TE", "trailers"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQ"),
]


def told(answer: Answer) -> tuple[int, str, str | None, str | None]:
    """Status, issue code, and error and details of Proxy-Status: a row of section 7 of the contract."""
    assert answer["Content-Type"] == "application/fhir+json"
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    (issue,) = outcome["issue"]
    assert answer["X-Request-Id"] in issue["diagnostics"]
    status = answer.proxy_status
    return answer.status, issue["code"], status.get("error"), status.get("details")


def counts(product: Product) -> dict[str, int]:
    return product.app._pool.counts


async def quiet(product: Product, idle: int = 1) -> None:
    """Wait until exactly so many connections to Fumage lie in the pool, and no others exist."""
    await until(lambda: counts(product) == {"idle": idle, "active": 0, "opening": 0})


@asynccontextmanager
async def quiet_product(**settings: str) -> AsyncIterator[Product]:
    """A product that has opened its first connection to Fumage, and uses no other."""
    async with Product(**settings) as product:
        await quiet(product)
        yield product


@cache
def authority(name: str = "trusted") -> trustme.CA:
    return trustme.CA(organization_name=name)


@cache
def server(host: str = "localhost") -> ssl.SSLContext:
    return server_context(authority().issue_cert(host))


@asynccontextmanager
async def listener(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server below HTTP; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    one = await asyncio.start_server(run, host, 0, ssl=tls)
    try:
        yield one.sockets[0].getsockname()[1]
    finally:
        one.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks)


def tls_server(
    context: ssl.SSLContext, ended: Callable[[str], None] = lambda how: None
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A TLS server that only listens, but says its alerts, which asyncio's does not.

    `ended` learns how it went: "close_notify", "cut", or the reason of an ssl.SSLError.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        how = ""
        while not how:
            data = await reader.read(65536)
            incoming.write(data)
            try:
                tls.do_handshake()
                how = "" if tls.read(65536) else "close_notify"
            except ssl.SSLWantReadError:
                how = "" if data else "cut"
            except ssl.SSLError as error:
                how = error.reason or "?"
            writer.write(outgoing.read())
        ended(how)
        await writer.drain()

    return serve
