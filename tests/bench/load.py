"""Load on a party with wrk, and what it cost the party."""

import json
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import Server

_SCRIPT = Path(__file__).with_name("load.lua")
# One patient after the other, as callers ask: what is remembered of the request before may not help too much.
_PATIENTS = tuple(f"/Patient/{uuid.UUID(int=(n + 1) * 0x5DEECE66D << 64 | n)}" for n in range(64))


@dataclass(frozen=True)
class Load:
    method: str
    paths: tuple[str, ...]
    body: int = 0  # bytes
    connections: int | None = None  # None: as many as the run has


LOADS = {
    "get": Load("GET", _PATIENTS),
    "post": Load("POST", ("/Observation",), body=2048),
    "bulk": Load("GET", ("/megabyte",), connections=8),
}


def apply_load(
    server: Server, port: int, load: Load, *, connections: int, seconds: int, cpu: int
) -> dict[str, float]:
    """What came of it: `cpu_us` a request, `requests` a second, `p50_ms`, `p99_ms`; `mb` a second, `cpu_gb`
    (CPU seconds per GB). Raises RuntimeError if a single request failed.
    """
    before = server.cpu_seconds()
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{load.connections or connections}"]
    command += [f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT), f"http://127.0.0.1:{port}"]
    command += ["--", load.method, str(load.body), *load.paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return costs(figures(done.stdout), server.cpu_seconds() - before)


def figures(printed: str) -> dict[str, float]:
    """The line of JSON in what wrk printed. Raises RuntimeError if a request failed."""
    line = next(line for line in printed.splitlines() if line.startswith("figures "))
    found: dict[str, float] = json.loads(line.removeprefix("figures "))
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"{found['failed']} of {found['requests']} requests failed")
    return found


def costs(found: Mapping[str, float], cpu_seconds: float) -> dict[str, float]:
    """The figures of a load, in the units in which they are told."""
    return {
        "cpu_us": cpu_seconds / found["requests"] * 1e6,
        "requests": found["requests"] / found["seconds"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "mb": found["bytes"] / found["seconds"] / 1e6,
        "cpu_gb": cpu_seconds / found["bytes"] * 1e9,
    }
