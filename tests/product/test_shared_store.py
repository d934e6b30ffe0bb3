"""Many real proxies on one store, under load; and the store where the command meets it."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.product.command import Running, before, run, running
from tests.support.caller import Caller, fetch
from tests.support.emr import EMR
from tests.support.upstream import Seen, Upstream, Wire, tokens_only
from tests.token.replica import KEY
from tests.token.server import Server

PROXIES = 20
LONG, SHORT = 36000, 24  # s; of a short one it is half, and a tenth of that either way, to its refresh
PACE = 0.05  # s between two requests of a caller
PATIENCE = 90.0  # s for what takes a fraction of it on a machine that has nothing else to do


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "store")
    yield server
    server.stop()


class Patient(Caller):
    patience = PATIENCE


class Replicas:
    """Proxies that are called all the time, and what comes of it."""

    def __init__(self, fumage: Upstream, emr: EMR) -> None:
        self.fumage, self.emr = fumage, emr
        self.revoked: set[str] = set()
        self.proxies: list[Running] = []
        self.held: dict[bytes, str] = {}  # by a proxy's path: the token that Fumage saw last, and accepted
        self.answers: Counter[tuple[int, str]] = Counter()
        self._judge = tokens_only(lambda token: token not in self.revoked)
        fumage.answer = self._answer

    async def _answer(self, seen: Seen, wire: Wire) -> None:
        token = seen.bearer or ""
        if token not in self.revoked:
            self.held[seen.target] = token
        await self._judge(seen, wire)

    async def call(self, proxy: Running, path: str) -> None:
        """One request after the other, reads and writes, on one connection."""
        listening = await proxy.says(r"Listening on http://127\.0\.0\.1:(\d+)", seconds=PATIENCE)
        async with await Patient.connect(int(listening[1])) as caller:
            for number in range(sys.maxsize):
                method, body = ("POST", b'{"resourceType":"Patient"}') if number % 2 else ("GET", None)
                answer = await caller.request(method, path, body=body)
                self.answers[answer.status, answer["Proxy-Status"] or ""] += 1
                await asyncio.sleep(PACE)

    def revoke_all(self) -> None:
        self.revoked.update(self.emr.issued)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await self.fumage.pulse.until(
            condition, PATIENCE, lambda: f"{what}: {self.held}, {self.emr.requests} token requests"
        )

    async def all_hold(self, token: str) -> None:
        """Until each proxy has sent it; no other may have been asked for meanwhile."""
        await self.until(
            lambda: len(self.held) == PROXIES and set(self.held.values()) == {token}, f"all hold {token}"
        )
        assert self.emr.issued[-1] == token
        assert self.emr.requests == len(self.emr.issued)

    async def told(self, what: str) -> int:
        """A figure of /status, summed over all."""
        ports = [await proxy.admin_port() for proxy in self.proxies]
        status = [(await fetch(port, "GET", "/status")).json() for port in ports]
        return sum(each["token_store"][what] for each in status)


@asynccontextmanager
async def replicas(fumage: Upstream, emr: EMR, url: str, folder: Path) -> AsyncIterator[Replicas]:
    env = {
        **before(fumage, emr),
        "FUMAGE_PROXY_TOKEN_STORE": url,
        "FUMAGE_PROXY_TOKEN_STORE_KEY": KEY,
        "FUMAGE_PROXY_LOG_LEVEL": "warning",
    }
    found = Replicas(fumage, emr)
    async with AsyncExitStack() as stack:
        started = (stack.enter_async_context(running(cwd=folder, env=env)) for _ in range(PROXIES))
        found.proxies = list(await asyncio.gather(*started))
        calls = [
            asyncio.create_task(found.call(proxy, f"/Patient/p{number}"))
            for number, proxy in enumerate(found.proxies)
        ]
        try:
            yield found
            broken = [call.exception() for call in calls if call.done()]
            assert not broken
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.timeout(300)
async def test_twenty_proxies_ask_once_at_start_once_a_refresh_and_once_a_revocation(
    fumage: Upstream, emr: EMR, server: Server, tmp_path: Path
) -> None:
    emr.script += [emr.grant(expires_in=LONG), emr.grant(expires_in=SHORT)]
    async with replicas(fumage, emr, server.url, tmp_path) as those:
        await those.all_hold("token-1")  # at start
        those.revoke_all()
        await those.all_hold("token-2")  # replaced
        await those.all_hold("token-3")  # refreshed
        assert await those.told("fetched") == 3
        assert await those.told("hits") == 3 * (PROXIES - 1)
        assert await those.told("fallbacks") == 0

        server.pause()
        try:
            those.revoke_all()
            await those.until(lambda: not those.revoked.intersection(those.held.values()), "each has its own")
            assert emr.requests == 3 + PROXIES
        finally:
            server.resume()
        those.revoke_all()
        await those.all_hold(f"token-{4 + PROXIES}")  # shared again, by itself
        assert await those.told("fallbacks") == PROXIES
    assert list(those.answers) == [(200, "")]
    print(f"{PROXIES} proxies, {those.answers.total()} requests, all 200; {emr.requests} token requests")


# --- what it needs ---


def test_without_the_extra_a_shared_store_is_a_wrong_setting_that_says_what_to_install(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError")
    env = {**before(fumage, emr), "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    env |= {"FUMAGE_PROXY_TOKEN_STORE": "redis://127.0.0.1:1", "FUMAGE_PROXY_TOKEN_STORE_KEY": KEY}
    for command in ("serve", "check"):
        ended = run(command, cwd=tmp_path, env=env)
        assert ended.returncode == 78
        assert "pip install '.[redis]'" in ended.stderr


async def test_without_a_shared_store_nothing_of_the_extra_is_imported(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    for name in ("redis.py", "cryptography.py"):
        (tmp_path / name).write_text("raise ImportError")
    env = {**before(fumage, emr), "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    async with running(cwd=tmp_path, env=env) as proxy:
        assert (await fetch(await proxy.port())).status == 200
