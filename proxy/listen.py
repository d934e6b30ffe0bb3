"""Sockets to listen on: TCP of both families, and unix sockets that nobody sees before their mode is set."""

import errno
import ipaddress
import os
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from proxy.settings import TCP, Address, Unix

BACKLOG = 1024  # connections that wait to be accepted; asyncio's 100 would make bursts wait for a second SYN
_FAMILY_MISSING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


class ListenError(Exception):
    """An address cannot be listened on; the text says which, why, and what to do."""


@dataclass(slots=True)
class Bound:
    """A listening socket; one on a path knows what lies there, so that only our own is removed."""

    sock: socket.socket
    path: str | None = None
    _ours: tuple[int, int] | None = None  # device and inode of what `path` names

    @property
    def loopback(self) -> bool:
        """Whether it is a TCP socket that this machine alone can reach."""
        if self.path is not None:
            return False
        host: str = self.sock.getsockname()[0]
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback

    @property
    def name(self) -> str:
        """The address as the caller would write it."""
        if self.path is not None:
            return f"unix:{self.path}"
        host, port = self.sock.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def accept_rest(self) -> list[socket.socket]:
        """Stop listening; the connections that were complete by then, which the kernel would reset."""
        self.remove_path()  # first: nobody finds the way here any more
        accepted: list[socket.socket] = []
        while True:
            try:
                accepted.append(self.sock.accept()[0])
            except ConnectionAbortedError:
                continue  # that one left again
            except OSError:
                self.sock.close()  # with nothing in between: who comes between the two is lost
                return accepted

    def remove_path(self) -> None:
        """Remove a unix socket's path if it is still ours.

        Once, and before the socket closes: afterwards another process may get the same inode for its own.
        """
        if self.path is not None and self._ours is not None:
            with suppress(OSError):
                if _identity(self.path) == self._ours:
                    os.unlink(self.path)
            self._ours = None

    def close(self) -> None:
        """Stop listening; remove the path if it is still ours."""
        self.remove_path()
        self.sock.close()


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


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
            raise _refusal(address, error) from None
    return bound


_ADVICE = {
    errno.EADDRINUSE: "Is another fumage-proxy running? Stop it, or choose another address.",
    errno.EADDRNOTAVAIL: "This machine does not have that address.",
    errno.EACCES: "This user may not: choose a port from 1024, or a folder that it may write to.",
    errno.ENOENT: "The folder has to be there already.",
}


def _refusal(address: Address, error: OSError) -> ListenError:
    reason = os.strerror(error.errno or 0)
    return ListenError(f"Cannot listen on {address}: {reason}. {_ADVICE.get(error.errno or 0, '')}".rstrip())


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
        sock.listen(BACKLOG)
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
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(address, error) from None
    except BaseException:
        sock.close()
        raise
    return Bound(sock, address.path, _identity(address.path))


def _remove_stale(path: str) -> None:
    """Make room where a socket lies on which nobody answers any more; raise ListenError for all else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"Cannot listen on unix:{path}: something lies there that is not a socket. Choose another path."
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
