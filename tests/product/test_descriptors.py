"""Descriptors exhausted: the process survives, says what is wrong, and serves again afterwards."""

import asyncio
import gc
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from tests.forward.fumage import authority, quiet, quiet_product, server, told, until, unused_port
from tests.product.command import COMMAND, Running, before, running
from tests.support import head
from tests.support.caller import Answer, Broken, Caller, fetch
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


async def ask(caller: Caller, method: str) -> Answer | None:
    """None: the connection was closed without an answer."""
    try:
        return await caller.request(method, body=b"{}" if method == "POST" else None)
    except Broken:
        return None


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks into /proc")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_with_no_descriptor_left_each_caller_is_answered_or_closed_and_afterwards_all_is_well(
    tls: bool, emr: EMR, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(authority().cert_pem.bytes())
    async with Upstream(tls=server() if tls else None) as fumage, AsyncExitStack() as stack:
        env = {**before(fumage, emr), "FUMAGE_PROXY_CA_FILE": str(tmp_path / "ca.pem")}
        proxy = await stack.enter_async_context(running(cwd=tmp_path, env=env, prefix=LIMITED))
        port = await proxy.port()
        assert (await fetch(port)).status == 200
        at_rest = descriptors(proxy)

        async with AsyncExitStack() as many:
            callers = [await many.enter_async_context(await Caller.connect(port)) for _ in range(2 * LIMIT)]
            # Some ride the connection that there is; for the others none can be opened.
            for method in ("GET", "POST"):
                answers = await asyncio.gather(*(ask(caller, method) for caller in callers))
                served = [answer for answer in answers if answer and answer.status == 200]
                refused = {told(answer) for answer in answers if answer and answer.status != 200}
                assert served
                assert refused <= {(503, "throttled", "connection_limit_reached", None)}
                callers = [caller for caller, answer in zip(callers, answers, strict=True) if answer]
            spent = seconds(proxy)
            await asyncio.sleep(0.5)
            assert seconds(proxy) - spent < 0.2, "it waits, and does not spin"

        async with asyncio.timeout(5):
            while descriptors(proxy) > at_rest + 2:  # noqa: ASYNC110 (connections to Fumage that wait)
                await asyncio.sleep(0.01)
        for method in ("GET", "POST", "GET", "POST"):
            assert (await fetch(port, method, body=b"{}" if method == "POST" else None)).status == 200
        proxy.terminate()
        assert await proxy.ended() == 0
        assert '"level": "error"' not in "\n".join(proxy.err)


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
