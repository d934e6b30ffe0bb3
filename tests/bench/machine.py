"""Processes and what they cost, read from the scheduler's figures (Linux)."""

import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """A server process with all its children. Started at once; ended by `close`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environ: dict[str, str] | None = None,
        cpu: int | None = None,
    ):
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*pinned, *command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environ or {})},
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def wait_for(url: str, *, expect: bytes, seconds: float = 15, context: ssl.SSLContext | None = None) -> float:
    """Ask until the body is as expected; the seconds that took. Raises TimeoutError with the last answer."""
    began, last = time.monotonic(), ""
    while time.monotonic() - began < seconds:
        try:
            with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                body = answer.read()
            if body == expect:
                return time.monotonic() - began
            last = repr(body[:80])
        except OSError as error:
            last = repr(error)
        time.sleep(0.005)
    raise TimeoutError(f"{url}: {last}")
