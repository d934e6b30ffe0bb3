"""Asks a running proxy whether it is ready: for probes and for scripts that wait.

Nothing here imports asyncio or aiohttp, and not http.client either: a probe starts a process every few
seconds, and one GET needs none of them.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence

Target = tuple[str, int] | str  # where the proxy was told to listen: host and port, or a unix socket's path

_TIMEOUT = 3.0  # seconds for one question
_PAUSE = 0.1  # seconds between two of them
_MOST = 64 * 1024  # bytes of an answer
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[^\n]*\n.*?\r?\n\r?\n(.*)", re.DOTALL)
_EVERYWHERE = {"": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",), "::": ("::1",)}  # noqa: S104


def why_not_ready(targets: Sequence[Target], *, timeout: float = _TIMEOUT) -> str | None:
    """None if the proxy that listens there is ready, or the reason why not; `timeout` in seconds."""
    return _cannot_ask(targets) or _ask_all(targets, timeout)


def wait(
    targets: Sequence[Target],
    longest: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Return None as soon as the proxy is ready, or after `longest` seconds the reason why it is not."""
    if reason := _cannot_ask(targets):
        return reason
    end = clock() + longest
    while True:
        left = end - clock()
        reason = _ask_all(targets, min(_TIMEOUT, max(left, _PAUSE)))
        if reason is None or (left := end - clock()) <= 0:
            return reason
        sleep(min(_PAUSE, left))


def _cannot_ask(targets: Sequence[Target]) -> str | None:
    if not targets:
        return "admin_listen is off, so nobody can be asked; give it an address"
    if any(isinstance(target, tuple) and target[1] == 0 for target in targets):
        return "admin_listen says port 0, so where the proxy listens is not known here; give it a port"
    return None


def _ask_all(targets: Sequence[Target], timeout: float) -> str | None:
    # All lead to the same proxy, so the first that answers decides; a missing address family is no reason.
    failures = []
    for target in _reachable(targets):
        try:
            return _ask(target, timeout)
        except OSError as error:
            failures.append(f"{_name(target)}: {os.strerror(error.errno) if error.errno else error}")
    return f"no proxy answers on {'; '.join(failures)}"


def _reachable(targets: Sequence[Target]) -> Iterator[Target]:
    for target in targets:
        if isinstance(target, str):
            yield target
        else:
            yield from ((host, target[1]) for host in _EVERYWHERE.get(target[0], (target[0],)))


def _ask(target: Target, timeout: float) -> str | None:
    with _connect(target, timeout) as connection:
        connection.sendall(_REQUEST)
        data = b""
        while len(data) < _MOST and (more := connection.recv(_MOST)):
            data += more
    answer = _ANSWER.fullmatch(data)
    if answer is None or answer[1] not in (b"200", b"503"):
        return f"what answers on {_name(target)} is not fumage-proxy's admin listener; check admin_listen"
    return None if answer[1] == b"200" else answer[2].decode("utf-8", "replace").strip()


def _connect(target: Target, timeout: float) -> socket.socket:
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return connection


def _name(target: Target) -> str:
    if isinstance(target, str):
        return f"unix:{target}"
    host, port = target
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
