"""HTTPS_PROXY and NO_PROXY with an egress proxy that many use (Debian package tinyproxy)."""

import asyncio
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forward.fumage import authority, quiet, server, told
from tests.forward.leftovers import ready
from tests.support import unused_port
from tests.support.caller import Answer, fetch
from tests.support.emr import EMR
from tests.support.product import Product, trusting
from tests.support.upstream import PATIENT, Upstream, unauthorized

TINYPROXY = shutil.which("tinyproxy")
pytestmark = pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed")

EGRESS = (502, "transient", "destination_unavailable", "egress-proxy")
GOOD, WRONG, NONE = "user:hunter2@", "user:wrong-one@", ""


@dataclass
class Tinyproxy:
    port: int
    log: list[str]

    @property
    def authorities(self) -> list[str]:
        """Which it was asked to connect to."""
        return re.findall(r"CONNECT (\S+) HTTP", "\n".join(self.log))


@asynccontextmanager
async def tinyproxy(folder: Path, *lines: str) -> AsyncIterator[Tinyproxy]:
    assert TINYPROXY is not None
    port, conf = unused_port(), folder / "tinyproxy.conf"
    usual = (f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 50", "LogLevel Connect")
    conf.write_text("\n".join((*usual, "Allow 127.0.0.1", "BasicAuth user hunter2", *lines, "")))
    process = await asyncio.create_subprocess_exec(
        TINYPROXY, "-d", "-c", str(conf), stdout=PIPE, stderr=DEVNULL
    )
    one = Tinyproxy(port, [])
    reading = asyncio.create_task(_read(process.stdout, one.log))
    try:
        await _listening(port)
        yield one
    finally:
        process.kill()  # a SIGTERM in its first moments is lost on it
        await process.wait()
        await reading


async def _read(stream: asyncio.StreamReader | None, log: list[str]) -> None:
    assert stream is not None
    while line := await stream.readline():
        log.append(line.decode())


async def _listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "no_proxy", "all_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Behind:
    """A product on TLS, on both legs, whose way out is tinyproxy."""

    monkeypatch: pytest.MonkeyPatch
    trust: dict[str, str]

    @asynccontextmanager
    async def __call__(
        self, egress: Tinyproxy, credentials: str = GOOD, *, tls_emr: bool = True
    ) -> AsyncIterator[Product]:
        """`tls_emr` False: an EMR on plain http, which no proxy is asked for."""
        self.monkeypatch.setenv("HTTPS_PROXY", f"http://{credentials}127.0.0.1:{egress.port}")
        async with (
            Upstream(tls=server()) as fumage,
            EMR(tls=server() if tls_emr else None) as emr,
            Product(fumage, emr, **self.trust) as product,
        ):
            yield product


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Behind:
    return Behind(monkeypatch, trusting(authority().cert_pem.bytes(), tmp_path))


def diagnostics(answer: Answer) -> str:
    assert told(answer) == EGRESS
    assert b"hunter2" not in answer.body
    assert b"wrong-one" not in answer.body
    text: str = answer.json()["issue"][0]["diagnostics"]
    return text


async def test_with_its_password_both_legs_go_through(behind: Behind, tmp_path: Path) -> None:
    async with tinyproxy(tmp_path) as egress, behind(egress) as product:
        for _ in range(3):
            assert (await fetch(product.port, "POST", body=b"x" * 100_000)).body == PATIENT
        assert {len(seen.body) for seen in product.fumage.seen} == {100_000}
        wanted = {f"localhost:{product.fumage.port}", f"localhost:{product.emr.port}"}
    assert set(egress.authorities) == wanted


async def test_a_401_is_replayed_through_it(behind: Behind, tmp_path: Path) -> None:
    async with tinyproxy(tmp_path) as egress, behind(egress) as product:
        await ready(product)
        product.fumage.script += [unauthorized()]
        assert (await fetch(product.port, "POST", body=b"{}")).body == PATIENT
        assert [seen.bearer for seen in product.fumage.seen] == ["token-1", "token-2"]


async def test_no_proxy_leads_past_it(
    behind: Behind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com,localhost")
    async with tinyproxy(tmp_path) as egress, behind(egress) as product:
        assert (await fetch(product.port)).body == PATIENT
    assert egress.authorities == []


REFUSALS = {
    "no credentials": (NONE, (), "wants credentials", "407"),
    "wrong credentials": (WRONG, (), "wants credentials", "401"),
    "a port that it does not connect to": (GOOD, ("ConnectPort 443",), "does not allow", "403"),
}


@pytest.mark.parametrize(("credentials", "lines", "words", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_its_refusals_are_told_apart(
    credentials: str, lines: tuple[str, ...], words: str, status: str, behind: Behind, tmp_path: Path
) -> None:
    async with tinyproxy(tmp_path, *lines) as egress:
        async with behind(egress, credentials, tls_emr=False) as product:
            for method in ("GET", "POST"):
                text = diagnostics(await fetch(product.port, method))
                assert words in text
                assert status in text
            assert not product.fumage.seen
        async with behind(egress, credentials) as product:  # on the token's leg
            assert status in diagnostics(await fetch(product.port))
            assert not product.emr.seen


async def test_a_fumage_that_it_cannot_reach_is_told_from_a_refusal(behind: Behind, tmp_path: Path) -> None:
    async with tinyproxy(tmp_path) as egress, behind(egress, tls_emr=False) as product:
        await ready(product)
        product.fumage.stop_accepting()
        product.fumage.close_all()
        await quiet(product, 0)  # it takes a moment for tinyproxy to pass the close on
        assert "could not connect us" in diagnostics(await fetch(product.port, "POST"))


async def test_when_it_is_gone_that_is_told(behind: Behind, tmp_path: Path) -> None:
    async with tinyproxy(tmp_path) as egress:
        pass
    async with behind(egress, tls_emr=False) as product:
        assert "refused the connection" in diagnostics(await fetch(product.port))
