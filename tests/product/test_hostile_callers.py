"""Thousands of callers that hold on to their connections: little memory, and others are served meanwhile."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.product.command import Running, before, running
from tests.support.caller import Caller, build, fetch
from tests.support.emr import EMR
from tests.support.upstream import FHIR, PATIENT, Seen, Upstream, Wire, reply

resource = pytest.importorskip("resource")

MANY = {"that ask for nothing": 1500, "in the middle of a head": 300, "in the middle of a body": 300}
DEAF = 40  # fewer than max_connections: each holds one to Fumage
FILES = 2 * (sum(MANY.values()) + DEAF) + 500
MORE = 150.0  # MiB that all of them may cost; their answers alone are 640
WORDS = {
    "that ask for nothing": b"",
    "in the middle of a head": b"GET /Patient HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    "in the middle of a body": build("POST", headers=[("Content-Length", "60000")]) + b"x" * 50_000,
}
LARGE = [b"x" * 65536] * 256  # 16 MiB: more than kernels keep for somebody who does not read
TIMES = ("--client-timeout", "3s", "--idle-timeout", "3s")


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """As many descriptors as this takes, here and in the command."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"this user may open {hard} files, and this takes {FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(proxy: Running) -> float:
    """MiB resident."""
    pages = int(Path(f"/proc/{proxy.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def answer(seen: Seen, wire: Wire) -> None:
    chunks = LARGE if seen.target == b"/Binary/large" else [PATIENT]
    await reply(200, headers=[FHIR], chunks=chunks)(seen, wire)


class Deaf(Caller):
    """It reads nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.pause_reading()


async def good_callers_are_served(port: int, kept: Caller) -> None:
    for _ in range(10):
        assert (await kept.request()).status == 200
        assert (await fetch(port, "POST", body=b"{}")).status == 200


async def open_callers(admin: int) -> int:
    status = (await fetch(admin, "GET", "/status")).json()
    number: int = status["callers"]["open"]
    return number


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
@pytest.mark.timeout(120)
async def test_thousands_of_slow_callers_cost_little_and_nobody_else_notices_them(
    emr: EMR, tmp_path: Path
) -> None:
    async with (
        Upstream(answer=answer) as fumage,
        running("--max-clients", "3000", *TIMES, cwd=tmp_path, env=before(fumage, emr)) as proxy,
        AsyncExitStack() as stack,
    ):
        port, admin = await proxy.port(), await proxy.admin_port()
        kept = await stack.enter_async_context(await Caller.connect(port))
        await good_callers_are_served(port, kept)
        at_first = memory(proxy)
        for kind, number in MANY.items():
            for _ in range(number):
                caller = await stack.enter_async_context(await Caller.connect(port))
                caller.write(WORDS[kind])
        for _ in range(DEAF):
            deaf = await stack.enter_async_context(await Deaf.connect(port))
            deaf.write(build("GET", "/Binary/large"))
            fumage.seen.clear()
            await good_callers_are_served(port, kept)
        await good_callers_are_served(port, kept)
        assert memory(proxy) - at_first < MORE
        kept.close()
        async with asyncio.timeout(60):
            while await open_callers(admin):  # noqa: ASYNC110 (what the process does is seen in its status alone)
                await asyncio.sleep(0.1)
        assert (await fetch(port)).status == 200
        assert '"level": "error"' not in "\n".join(proxy.err)
