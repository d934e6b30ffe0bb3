"""Latency at one connection: through a party, and directly to the upstream with the bearer."""

import socket
import ssl
import statistics
import time
from collections.abc import Mapping

from tests.bench.upstream import TOKEN, Upstream

_WARM = 20  # requests that are not counted


class Caller:
    """One kept-alive connection that asks for one patient again and again."""

    def __init__(self, port: int, *, trust: ssl.SSLContext | None = None, bearer: str | None = None):
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if trust is not None:
            self._sock = trust.wrap_socket(self._sock, server_hostname="localhost")
        bearer_line = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
        self._request = (
            "GET /Patient/5deece66-d000-4000-8000-000000000000 HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: application/fhir+json\r\nUser-Agent: bench/1\r\n{bearer_line}\r\n"
        ).encode()

    def latencies(self, seconds: float) -> list[float]:
        """Milliseconds from request to whole answer, for as long as that."""
        for _ in range(_WARM):
            self._ask()
        found = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            self._ask()
            found.append((time.perf_counter() - began) * 1e3)
        return found

    def close(self) -> None:
        self._sock.close()

    def _ask(self) -> None:
        self._sock.sendall(self._request)
        answer = self._sock.recv(1 << 16)
        while not _whole(answer):
            more = self._sock.recv(1 << 16)
            if not more:
                raise RuntimeError(f"broke off after {len(answer)} bytes")
            answer += more
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(answer[:200])


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")  # chunked


def direct(upstream: Upstream, scheme: str) -> Caller:
    trust = ssl.create_default_context(cafile=upstream.ca_file) if scheme == "https" else None
    return Caller(upstream.port(scheme), trust=trust, bearer=TOKEN)


def percentiles(latencies: list[float]) -> dict[str, float]:
    """`p50_ms` and `p99_ms`."""
    return {
        "p50_ms": statistics.median(latencies),
        "p99_ms": statistics.quantiles(latencies, n=100, method="inclusive")[98],
    }


def added(through: Mapping[str, float], directly: Mapping[str, float]) -> dict[str, float]:
    """What a party adds: the differences of the percentiles."""
    return {name: through[name] - directly[name] for name in through}
