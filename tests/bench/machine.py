"""Processes and what they cost, read from the scheduler's figures (Linux)."""

import os
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_EGRESS = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")  # what is measured is loopback alone
_DIRECTLY = urllib.request.ProxyHandler({})
_IN_MEMORY = "/dev/shm"
_ALL_CORES = f"0-{(os.cpu_count() or 1) - 1}"


@dataclass(frozen=True)
class Cores:
    """Which core runs what: the party that is measured shares its own with nobody."""

    party: int
    load: int
    upstream: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Raises RuntimeError where there is only one."""
        free = sorted(os.sched_getaffinity(0))
        if len(free) < 2:
            raise RuntimeError("two cores are needed: one for the party, one for load and upstream")
        return cls(free[0], free[1], free[2] if len(free) > 2 else free[1])


class Server:
    """A server process with all its children, on one core, or any (None). Starts at once; `close` ends it."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environ: dict[str, str] | None = None,
        cpu: int | None = None,
    ):
        pinned = ["taskset", "-c", _ALL_CORES if cpu is None else str(cpu)]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*pinned, *command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**without_egress(os.environ), **(environ or {})},
            )

    def pids(self) -> list[int]:
        """The process and its descendants."""
        found, new = [self.process.pid], [self.process.pid]
        while new:
            children: list[int] = []
            for pid in new:
                for listing in Path(f"/proc/{pid}/task").glob("*/children"):
                    children += map(int, listing.read_text().split())
            found += children
            new = children
        return found

    def cpu_seconds(self) -> float:
        """User and system time so far, from nanosecond counters of all threads."""
        total = 0
        for pid in self.pids():
            for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                total += int(schedstat.read_text().split()[0])
        return total / 1e9

    def memory(self, field: str = "VmRSS") -> int:
        """Resident bytes of all processes; `field` VmHWM: at their peak."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(field):
                    total += int(line.split()[1]) * 1024
        return total

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def memory_folder() -> str | None:
    """Where files are in memory, so that no log waits for a disk; None if there is no such place."""
    return _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None


def without_egress(environ: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment less the names of an egress proxy."""
    return {name: value for name, value in environ.items() if name.lower() not in _EGRESS}


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, runs on that core alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_for(url: str, *, expect: bytes, seconds: float = 15, context: ssl.SSLContext | None = None) -> float:
    """Ask until the body is as expected; the seconds that took. Raises TimeoutError with the last answer."""
    opener = urllib.request.build_opener(_DIRECTLY, urllib.request.HTTPSHandler(context=context))
    began, last = time.monotonic(), ""
    while time.monotonic() - began < seconds:
        try:
            with opener.open(url, timeout=2) as answer:
                body = answer.read()
            if body == expect:
                return time.monotonic() - began
            last = repr(body[:80])
        except OSError as error:
            last = repr(error)
        time.sleep(0.002)
    raise TimeoutError(f"{url}: {last}")
