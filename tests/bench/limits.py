"""Memory, start and many callers: `python -m tests.bench.limits` (needs nginx and wrk, Debian packages)."""

import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.installed import installed
from tests.bench.machine import Server, wait_for
from tests.bench.parties import start_fumage_proxy
from tests.bench.upstream import BODY, Upstream, start_upstream
from tests.support import unused_port

BIG = 300 << 20  # bytes
PIECE = bytes(1 << 16)


def main() -> None:
    with installed(sys.executable) as python, tempfile.TemporaryDirectory() as folder:
        upstream, nginx = start_upstream(Path(folder), cpu=1)
        with (upstream.folder / "www" / "big").open("wb") as big:
            big.truncate(BIG)
        try:
            for scheme in ("http", "https"):
                _measure(upstream, scheme, python)
        finally:
            nginx.close()


def _measure(upstream: Upstream, scheme: str, python: str) -> None:
    port = unused_port()
    began = time.monotonic()
    proxy = start_fumage_proxy(upstream, scheme, port, cpu=0, python=python)
    try:
        wait_for(f"http://127.0.0.1:{port}/patient", expect=BODY)
        print(f"{scheme}: exec to first answer {1000 * (time.monotonic() - began):.0f} ms")
        time.sleep(1)
        print(f"{scheme}: idle {proxy.memory() / 1e6:.0f} MB")
        for what, transfer in (("down", _download), ("up", _upload)):
            before = proxy.memory()
            seconds = transfer(port)
            grown = proxy.memory("VmHWM") - before
            print(f"{scheme}: 300 MB {what} in {seconds:.1f} s, grown by {grown / 1e6:.1f} MB at its peak")
        _many_callers(proxy, port, scheme)
    finally:
        proxy.close()


def _download(port: int) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = 0
        while data := sock.recv(1 << 20):
            received += len(data)
            if received % 7 == 0:
                time.sleep(0.001)  # slower than the upstream: what is not read must not pile up
    if received < BIG:
        raise RuntimeError(f"only {received} bytes came")
    return time.monotonic() - began


def _upload(port: int) -> float:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        head = f"POST /sink HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BIG}\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        for _ in range(BIG // len(PIECE)):
            sock.sendall(PIECE)
        answer = b""
        while data := sock.recv(1 << 16):
            answer += data
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(answer[:200])
    return time.monotonic() - began


def _many_callers(proxy: Server, port: int, scheme: str) -> None:
    wrk = ["wrk", "-t1", "-c1000", "-d5s", "--timeout", "10s", f"http://127.0.0.1:{port}/patient"]
    printed = subprocess.run(["taskset", "-c", "1", *wrk], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise RuntimeError(printed)
    requests = re.search(r"(\d+) requests in", printed)
    assert requests is not None
    memory = proxy.memory() / 1e6
    print(f"{scheme}: 1,000 callers at once: {requests[1]} requests in 5 s, none failed; {memory:.0f} MB")


if __name__ == "__main__":
    main()
