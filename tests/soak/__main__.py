"""`python -m tests.soak --seconds 600`: figures on stdout; exit 1 when a promise was broken."""

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak import REPLAY_LIMIT
from tests.soak.promises import Fate, Notes, broken_promises
from tests.soak.traffic import Traffic
from tests.support.caller import fetch

_ROOT = Path(__file__).parents[2]
_WORKERS = 24
_KEEPALIVE = 3  # s that the proxy keeps idle connections to Fumage
_MEMORY = 12.0  # MiB by which the process may be larger at the end than after the first third
_SETTINGS = {
    "CANVAS_API_CLIENT_ID": "soak",
    "CANVAS_API_CLIENT_SECRET": "soak-secret",
    "FUMAGE_PROXY_LISTEN": "127.0.0.1:0",
    "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
    "FUMAGE_PROXY_REPLAY_LIMIT": str(REPLAY_LIMIT),
    "FUMAGE_PROXY_RESPONSE_TIMEOUT": "6s",
    "FUMAGE_PROXY_TOKEN_TIMEOUT": "1s",
    "FUMAGE_PROXY_UPSTREAM_KEEPALIVE": f"{_KEEPALIVE}s",
    "FUMAGE_PROXY_UPSTREAM_MAX_AGE": "10s",
}


class Other:
    """The process that plays Fumage and the EMR."""

    def __init__(self, process: Process):
        self._process = process

    async def ask(self, word: str = "") -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        if word:
            self._process.stdin.write(word.encode() + b"\n")
        told: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return told


@dataclass
class State:
    """The command's process at one moment."""

    descriptors: int
    tasks: int
    objects: dict[str, int]


class Command:
    """The command under test, and what can be seen of it from outside."""

    def __init__(self, process: Process, folder: Path):
        self.process = process
        self._proc = Path(f"/proc/{process.pid}")
        self._look = folder / "look.json"
        self.log = folder / "stderr"

    async def port(self, what: str) -> int:
        async with asyncio.timeout(20):
            while not (match := re.search(rf"{what} on http://127\.0\.0\.1:(\d+)", self.log.read_text())):
                assert self.process.returncode is None, self.log.read_text()
                await asyncio.sleep(0.05)
        return int(match[1])

    def memory(self) -> float:
        """MiB resident."""
        pages = int((self._proc / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def state(self) -> State:
        self._look.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(20):
            while not self._look.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        seen = json.loads(self._look.read_text())
        return State(len(os.listdir(self._proc / "fd")), seen["tasks"], seen["objects"])


async def _metrics(port: int) -> dict[str, float]:
    text = (await fetch(port, "GET", "/metrics")).body.decode()
    return {
        name: float(value)
        for line in text.splitlines()
        if not line.startswith("#")
        for name, _, value in [line.rpartition(" ")]
    }


async def soak(seconds: float, seed: int, rate: float, folder: Path, scheme: str = "http") -> int:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    other_process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.fumage", str(seed), scheme),
        cwd=_ROOT, env=environment, stdin=PIPE, stdout=PIPE, limit=2**30,
    )  # fmt: skip
    try:
        other = Other(other_process)
        urls = await other.ask()
        (folder / "ca.pem").write_text(urls["trusted"])
        with (folder / "stderr").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "serve"),
                cwd=folder, stderr=log,
                env={
                    **environment, **_SETTINGS,
                    "FUMAGE_BASE_URL": urls["fumage"], "FUMAGE_PROXY_TOKEN_URL": urls["token_url"],
                    "FUMAGE_PROXY_CA_FILE": str(folder / "ca.pem"),
                    "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'tests/soak/look'}",
                    "SOAK_LOOK": str(folder / "look.json"),
                },
            )  # fmt: skip
        try:
            return await _soak(Command(process, folder), other, seconds, seed, rate)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    finally:
        if other_process.returncode is None:
            other_process.kill()
        await other_process.wait()


async def _soak(command: Command, other: Other, seconds: float, seed: int, rate: float) -> int:
    port, admin = await command.port("Listening"), await command.port("Health")
    await asyncio.sleep(0.5)  # the first token and the first connection are there
    before = await command.state()
    traffic = Traffic(port, seed, _WORKERS, rate)
    sizes: list[float] = []
    sampling = asyncio.create_task(_sample(command, sizes))
    await traffic.run(time.monotonic() + seconds)
    sampling.cancel()
    await other.ask("rest")
    await asyncio.sleep(_KEEPALIVE + 1)
    metrics = await _metrics(admin)
    await asyncio.sleep(0.2)
    after, open_at_fumage = await command.state(), (await other.ask("open"))["open"]
    told = await other.ask("tell")
    alive = command.process.returncode is None
    command.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        code = await command.process.wait()

    fates = {int(number): [Fate(*one) for one in all_] for number, all_ in told["fates"].items()}
    notes = Notes(fates, told["restarts"], told["outages"])
    broken = [wrong for one in traffic.sent.items() for wrong in broken_promises(*one, notes)]
    broken += told["wrong"]
    posts = sum(sent.method == "POST" for sent in traffic.sent.values())
    if len(notes.lost_posts) > max(3, posts // 200):
        broken.append(f"{len(notes.lost_posts)} of {posts} POSTs were lost to connections that Fumage closed")
    broken += _ends(before, after, sizes, metrics, open_at_fumage)
    broken += _log(command.log)
    if not alive or code != 0:
        broken.append(f"the command ended with {code}")
    _tell(traffic, notes, told["counts"], before, after, sizes, metrics, open_at_fumage)
    for wrong in broken[:50]:
        print("BROKEN:", wrong)
    print(f"{len(broken)} broken promises." if broken else "All promises were kept.")
    return 1 if broken else 0


async def _sample(command: Command, sizes: list[float]) -> None:
    while True:
        sizes.append(command.memory())
        await asyncio.sleep(0.5)


def _thirds(sizes: Sequence[float]) -> tuple[float, float]:
    """What the process took around the end of the first third, and at the end."""
    third = max(1, len(sizes) // 3)
    return statistics.median(sizes[third : third + third // 2 + 1]), statistics.median(sizes[-third // 2 :])


def _ends(
    before: State, after: State, sizes: list[float], metrics: dict[str, float], open_at_fumage: int
) -> list[str]:
    """What is left over when all is quiet."""
    early, late = _thirds(sizes)
    left = {
        "descriptors": after.descriptors - before.descriptors,
        "tasks": after.tasks - before.tasks,
        "callers' connections": after.objects.get("CallerConnection", 0),
        "connections to Fumage": after.objects.get("Connection", 0),
        "exchanges": after.objects.get("Exchange", 0),
        "requests in flight by the metrics": metrics["fumage_proxy_in_flight_requests"],
        "connections by the metrics": sum(
            value for name, value in metrics.items() if name.startswith("fumage_proxy_upstream_connections{")
        ),
        "connections open at Fumage": open_at_fumage,
    }
    found = [f"{value:g} {name} are left over" for name, value in left.items() if value > 0]
    if late - early > _MEMORY:
        found.append(f"memory grew from {early:.1f} to {late:.1f} MiB")
    return found


def _log(path: Path) -> list[str]:
    with path.open() as lines:
        bad = [line.strip() for line in lines if re.search(r'"level": "(error|critical)"|Traceback', line)]
    return [f"the log says {line[:300]}" for line in bad[:5]]


def _tell(
    traffic: Traffic,
    notes: Notes,
    counts: dict[str, int],
    before: State,
    after: State,
    sizes: list[float],
    metrics: dict[str, float],
    open_at_fumage: int,
) -> None:
    sent = traffic.sent
    kinds = Counter(one.kind for one in sent.values())
    methods = Counter(one.method for one in sent.values())
    fates = [fate for all_ in notes.fates.values() for fate in all_]
    left = kinds.pop("left", 0)
    early, late = _thirds(sizes)
    logged = sum(value for name, value in metrics.items() if name.startswith("fumage_proxy_requests_total{"))
    print(f"sent: {len(sent)} ({', '.join(f'{many} {name}' for name, many in methods.most_common())})")
    print(f"left on purpose: {left}; outcomes of the others: {sum(kinds.values())}")
    for kind, many in kinds.most_common():
        print(f"  {many:7} {kind}")
    print(f"requests by the proxy's metrics: {logged:.0f}")
    print(f"arrivals at Fumage: {len(fates)}")
    for name, many in Counter(fate.name for fate in fates).most_common():
        print(f"  {many:7} {name}")
    posts = [number for number, one in sent.items() if one.method == "POST"]
    applied = sum(any(fate.applied for fate in notes.fates.get(number, ())) for number in posts)
    print(f"POSTs: {len(posts)}, carried out: {applied}, lost to idle closes: {len(notes.lost_posts)}")
    print("around it:", ", ".join(f"{many} {name}" for name, many in counts.items()))
    print(f"memory: {sizes[0]:.1f} MiB at first, {early:.1f} after a third, {late:.1f} at the end")
    print(f"descriptors: {before.descriptors} -> {after.descriptors}; tasks: {before.tasks} -> {after.tasks}")
    print(f"connections open at Fumage at the end: {open_at_fumage}; objects: {after.objects}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=80, help="requests a second")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--scheme", choices=("http", "https"), default="http", help="of Fumage and the EMR")
    given = parser.parse_args(arguments)
    seed = given.seed if given.seed is not None else secrets.randbelow(10**6)
    about = f"seed {seed}, {given.scheme}, {given.seconds:g} s, about {given.rate:g} requests a second"
    print(about, flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return asyncio.run(soak(given.seconds, seed, given.rate, Path(folder), given.scheme))


if __name__ == "__main__":
    sys.exit(main())
