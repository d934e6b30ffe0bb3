"""Descriptors exhausted: the process survives, says what is wrong, and serves again afterwards."""

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from tests.forward.fumage import authority, quiet, quiet_product, server, told
from tests.forward.leftovers import until
from tests.product.command import COMMAND, Running, before, running
from tests.support import head, unused_port
from tests.support.caller import Answer, Caller, build, fetch
from tests.support.emr import EMR
from tests.support.product import Product
from tests.support.upstream import Seen, Upstream, Wire, early

resource = pytest.importorskip("resource")

LIMIT = 64
LIMITED = ("bash", "-c", f'ulimit -n {LIMIT}; exec "$0" "$@"', *COMMAND)


def descriptors(proxy: Running) -> int:
    return len(os.listdir(f"/proc/{proxy.process.pid}/fd"))


def seconds(proxy: Running) -> float:
    """Of CPU so far."""
    words = Path(f"/proc/{proxy.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def bounds(proxy: Running) -> tuple[int, int]:
    """How many callers, and how many connections to Fumage, fit into the limit."""
    told = await proxy.says(rf"may open {LIMIT} files: max_clients is (\d+) and max_connections is (\d+)\.")
    return int(told[1]), int(told[2])


async def at_most(proxy: Running, number: int) -> None:
    """Return when no more descriptors are open than that: what callers leave is closed a moment later."""
    async with asyncio.timeout(10):
        while descriptors(proxy) > number:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def many(stack: AsyncExitStack, port: int, number: int) -> list[Caller]:
    return [await stack.enter_async_context(await Caller.connect(port)) for _ in range(number)]


def method_and_body(method: str) -> tuple[str, bytes | None]:
    return method, b"{}" if method == "POST" else None


async def ask(caller: Caller, method: str) -> Answer:
    method, body = method_and_body(method)
    return await caller.request(method, body=body)


async def all_is_well(proxy: Running, port: int) -> None:
    for method in ("GET", "POST", "GET", "POST"):
        method, body = method_and_body(method)
        assert (await fetch(port, method, body=body)).status == 200
    proxy.terminate()
    assert await proxy.ended() == 0
    assert '"level": "error"' not in "\n".join(proxy.err)


FULL = (503, "throttled", "connection_limit_reached", None)
in_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")


@in_proc
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_callers_beyond_what_the_limit_of_open_files_allows_are_told_503(
    tls: bool, emr: EMR, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority().cert_pem.bytes())
    async with Upstream(tls=server() if tls else None) as fumage, AsyncExitStack() as stack:
        env = {**before(fumage, emr), "FUMAGE_PROXY_CA_FILE": str(tmp_path / "ca.pem")}
        proxy = await stack.enter_async_context(running(cwd=tmp_path, env=env, prefix=LIMITED))
        clients, connections = await bounds(proxy)
        port = await proxy.port()
        assert (await fetch(port)).status == 200
        at_rest = descriptors(proxy)

        async with AsyncExitStack() as left:
            callers = await many(left, port, 2 * LIMIT)
            answers = await asyncio.gather(*(ask(caller, "GET") for caller in callers))
            served = [caller for caller, answer in zip(callers, answers, strict=True) if answer.status == 200]
            assert clients - 1 <= len(served) <= clients  # that the first one left may be seen late
            assert {told(answer) for answer in answers if answer.status != 200} == {FULL}
            # More than there may be connections to Fumage: some wait for one.
            again = await asyncio.gather(*(ask(caller, "POST") for caller in served))
            assert {answer.status for answer in again} == {200}
            spent = seconds(proxy)
            await asyncio.sleep(0.5)
            assert seconds(proxy) - spent < 0.2, "it waits, and does not spin"

        await at_most(proxy, at_rest + connections)
        await all_is_well(proxy, port)


@in_proc
async def test_a_burst_of_callers_beyond_the_limit_of_open_files_is_answered_to_the_last(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    """All of them wait in the kernel, each with a request, before the process can accept the first."""
    async with running(cwd=tmp_path, env=before(fumage, emr), prefix=LIMITED) as proxy:
        clients, connections = await bounds(proxy)
        port = await proxy.port()
        assert (await fetch(port)).status == 200
        at_rest = descriptors(proxy)
        async with AsyncExitStack() as left:
            proxy.terminate(signal.SIGSTOP)
            callers = await many(left, port, 4 * LIMIT)
            for caller in callers:
                await caller.send(build())
            proxy.terminate(signal.SIGCONT)
            answers = [await caller.answer() for caller in callers]
            assert clients - 1 <= [answer.status for answer in answers].count(200) <= clients
            assert {told(answer) for answer in answers if answer.status != 200} == {FULL}
        # Those who left may not have been noticed yet; whoever comes is told so, and never cut off.
        while (answer := await fetch(port)).status != 200:
            assert told(answer) == FULL
        await at_most(proxy, at_rest + connections)
        await all_is_well(proxy, port)


@in_proc
async def test_with_no_descriptor_left_it_goes_on_and_afterwards_all_is_well(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    """The admin listener may have 64 connections: where the limit is as low, they can still use up all there
    are."""
    async with running(cwd=tmp_path, env=before(fumage, emr), prefix=LIMITED) as proxy:
        port, admin = await proxy.port(), await proxy.admin_port()
        assert (await fetch(port)).status == 200
        at_rest = descriptors(proxy)
        async with AsyncExitStack() as left:
            early = (await many(left, port, 1))[0]
            await many(left, admin, 2 * LIMIT)
            assert (await early.request()).status == 200
            spent = seconds(proxy)
            await asyncio.sleep(0.5)
            assert seconds(proxy) - spent < 0.2, "it waits, and does not spin"
        await at_most(proxy, at_rest + 2)
        await all_is_well(proxy, port)


async def test_with_open_files_enough_the_settings_stand(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    few = ("--max-clients", "5", "--max-connections", "5")
    async with running(*few, cwd=tmp_path, env=before(fumage, emr), prefix=LIMITED) as proxy:
        status = (await fetch(await proxy.admin_port(), "GET", "/status")).json()
        assert (status["callers"]["limit"], status["connections"]["limit"]) == (5, 5)
        assert not any("open files" in line or "may open" in line for line in proxy.err)


@contextmanager
def no_descriptor() -> Iterator[None]:
    """Whatever opens a file or a socket in this process fails."""
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_reset_during_an_upload_is_noticed_when_no_descriptor_is_left() -> None:
    """To read what a server said before its reset takes a descriptor."""
    gate = asyncio.Event()

    @early
    async def reset(seen: Seen, wire: Wire) -> None:
        await gate.wait()
        wire.reset()

    async with quiet_product() as product, await Caller.connect(product.port) as caller:
        product.fumage.script += [reset]
        caller.write(head("POST /Patient HTTP/1.1", [("Host", "localhost"), ("Content-Length", "1000000")]))
        caller.write(b"x" * 200_000)
        await product.fumage.until(lambda: product.fumage.seen)
        with no_descriptor():
            gate.set()
            assert told(await caller.answer())[2:] == ("connection_terminated", "outcome-unknown")
        await quiet(product, 0)
        assert (await fetch(product.port)).status == 200


async def test_a_name_that_cannot_be_looked_up_without_a_descriptor_is_no_fault_of_fumage() -> None:
    async with Product(base_url=f"https://localhost:{unused_port()}") as product:
        assert told(await fetch(product.port))[2] == "connection_refused"
        await quiet(product, 0)
        async with await Caller.connect(product.port) as caller:
            # Nothing may be left that closes a descriptor meanwhile: uvloop does that some turns later.
            await until(lambda: len(product.app._callers.open) == 1)
            gc.collect()
            for _ in range(5):
                await asyncio.sleep(0)
            with no_descriptor():
                answer = await caller.request()
            assert told(answer) == (503, "throttled", "connection_limit_reached", None)
