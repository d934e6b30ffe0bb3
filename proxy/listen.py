"""Sockets to listen on: TCP of both families, and unix sockets that nobody else can see before their mode is set."""

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from proxy.settings import TCP, Address, Unix

_BACKLOG = 1024
_FAMILY_MISSING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket. `inode` of a unix socket's path, so that only our own is removed."""

    sock: socket.socket
    path: str | None = None
    inode: int = 0

    @property
    def name(self) -> str:
        """The address as the caller would write it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host, port = self.sock.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Stop listening; remove the path if it is still ours."""
        self.sock.close()
        if self.path is not None:
            with suppress(OSError):
                if os.stat(self.path).st_ino == self.inode:
                    os.unlink(self.path)


def bind(addresses: Sequence[Address], *, lenient: bool) -> list[Bound]:
    """Listen on all addresses, or raise ListenError and on none.

    `lenient`: an address whose family this machine lacks is left out, as long as one remains (the defaults).
    """
    bound: list[Bound] = []
    with ExitStack() as undo:
        for address in addresses:
            for one in _bind(address, lenient=lenient):
                undo.callback(one.close)
                bound.append(one)
        if addresses and not bound:
            raise ListenError("None of the addresses to listen on exists on this machine.")
        undo.pop_all()
    return bound


def _bind(address: Address, *, lenient: bool) -> list[Bound]:
    if isinstance(address, Unix):
        return [_bind_unix(address)]
    try:
        found = _resolve(address)
    except socket.gaierror as error:
        raise ListenError(f"Cannot listen on {address}: {error.strerror}.") from None
    bound = []
    for family, where in found:
        try:
            bound.append(_bind_tcp(family, where))
        except OSError as error:
            # All addresses means those that there are; a name such as localhost may stand for two families.
            if error.errno in _FAMILY_MISSING and (lenient or len(found) > 1):
                continue
            for one in bound:
                one.close()
            advice = " Is another fumage-proxy running?" if error.errno == errno.EADDRINUSE else ""
            raise ListenError(
                f"Cannot listen on {address}: {os.strerror(error.errno or 0)}.{advice}"
            ) from None
    return bound


def _resolve(address: TCP) -> list[tuple[int, tuple[str, int]]]:
    if address.host == "":
        return [(socket.AF_INET, ("0.0.0.0", address.port)), (socket.AF_INET6, ("::", address.port))]  # noqa: S104
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), (str(where[0]), int(where[1]))) for family, *_, where in found))


def _bind_tcp(family: int, where: tuple[str, int]) -> Bound:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two processes share the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Bound(sock)


def _bind_unix(address: Unix) -> Bound:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        # The mode comes with the path, not after it: between bind and chmod anybody could connect.
        previous = os.umask(0o777 & ~address.mode)
        try:
            sock.bind(address.path)
        finally:
            os.umask(previous)
        sock.setblocking(False)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"Cannot listen on unix:{address.path}: {error.strerror}.") from None
    except BaseException:
        sock.close()
        raise
    return Bound(sock, address.path, os.stat(address.path).st_ino)


def _remove_stale(path: str) -> None:
    """Make room where a socket lies on which nobody answers any more; raise ListenError where anything else lies."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"Cannot listen on unix:{path}: there is something that is not a socket. Choose another path."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # busy (its backlog is full) or not ours to ask: somebody is there
    raise ListenError(
        f"Cannot listen on unix:{path}: somebody listens there. Is another fumage-proxy running?"
    )


def accept_waiting(
    loop: asyncio.AbstractEventLoop, bound: Bound, protocol: Callable[[], asyncio.Protocol]
) -> list[asyncio.Task[object]]:
    """Accept what the kernel has completed already, right before the socket is closed: it would be reset otherwise."""
    accepted: list[asyncio.Task[object]] = []
    while True:
        try:
            sock, _ = bound.sock.accept()
        except OSError:
            return accepted
        sock.setblocking(False)
        accepted.append(loop.create_task(loop.connect_accepted_socket(protocol, sock)))
