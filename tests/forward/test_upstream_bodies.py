"""Bodies of any size pass through a proxy that keeps its size, and neither side gets ahead of the other."""

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forward.fumage import authority, counts, quiet, server
from tests.forward.leftovers import until
from tests.support import head
from tests.support.caller import Caller, build
from tests.support.product import Product, trusting
from tests.support.upstream import Seen, Upstream, Wire, early, reply

PIECE = bytes(range(256)) * 256  # 64 KiB
PIECES = 3200  # 200 MiB
BUFFERS = 24 << 20  # bytes that kernels and both doubles may hold on the way
GROWTH = 32 << 20  # bytes that the process, doubles included, may grow by


def rss() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_huge_answer_waits_for_its_caller_and_takes_no_memory(tls: bool, tmp_path: Path) -> None:
    sent = 0

    async def answer(seen: Seen, wire: Wire) -> None:
        nonlocal sent
        wire.write(head("HTTP/1.1 200 OK", [("Content-Length", str(PIECES * len(PIECE)))]))
        for _ in range(PIECES):
            wire.write(PIECE)
            await wire.drain()
            sent += len(PIECE)

    trust = trusting(authority().cert_pem.bytes(), tmp_path)
    async with (
        Upstream(tls=server() if tls else None, answer=answer) as fumage,
        Product(fumage, **trust) as product,
        await Caller.connect(product.port) as caller,
    ):
        await quiet(product)
        before = most = rss()
        caller.limit = 1
        caller.write(build())
        await stands_still(lambda: sent)
        assert sent < BUFFERS
        got = 0
        await caller.line()
        while await caller.line():
            pass
        caller.tap = bytearray()
        while got < PIECES * len(PIECE):
            got += len(await caller.some())
            caller.tap.clear()
            most = max(most, rss())
        assert most - before < GROWTH
        await quiet(product)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_huge_upload_waits_for_fumage_and_takes_no_memory(tls: bool, tmp_path: Path) -> None:
    gate = asyncio.Event()
    taken, most = 0, 0

    @early
    async def answer(seen: Seen, wire: Wire) -> None:
        nonlocal taken, most
        wire.transport.pause_reading()
        await gate.wait()
        while taken < PIECES * len(PIECE):
            taken += len(await wire.some())
            wire.tap.clear()
            most = max(most, rss())
        seen.complete = True
        await reply(201)(seen, wire)

    trust = trusting(authority().cert_pem.bytes(), tmp_path)
    async with (
        Upstream(tls=server() if tls else None, answer=answer) as fumage,
        Product(fumage, **trust) as product,
        await Caller.connect(product.port) as caller,
    ):
        await quiet(product)
        before, sent = rss(), 0
        caller.write(build("POST", headers=[("Content-Length", str(PIECES * len(PIECE)))]))

        async def send() -> None:
            nonlocal sent
            for _ in range(PIECES):
                caller.write(PIECE)
                await caller.drain()
                sent += len(PIECE)

        sending = asyncio.create_task(send())
        await stands_still(lambda: sent)
        assert sent < BUFFERS
        gate.set()
        await sending
        assert (await caller.answer()).status == 201
        assert most - before < GROWTH
        await until(lambda: counts(product)["active"] == 0)


async def stands_still(value: Callable[[], int]) -> None:
    """Return when the value has grown, and then not for 100 ms."""
    last = 0
    while not last or last != value():
        last = value()
        await asyncio.sleep(0.1)
