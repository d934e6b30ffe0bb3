"""Sockets to listen on: TCP of both families, and unix sockets that nobody sees before their mode is set."""

import errno
import ipaddress
import os
import socket
import stat
import struct
import sys
from array import array
from collections.abc import Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from proxy.settings import TCP, Address, Unix

BACKLOG = 1024  # connections that wait to be accepted; asyncio's 100 would make bursts wait for a second SYN
_FAMILY_MISSING = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))
_TRIES = 5  # to find a port that is free in both families

_SO_ATTACH_FILTER = 26  # Linux; the socket module does not name it
# A classic BPF program (https://docs.kernel.org/networking/filter.html): it sees a segment from the header of
# TCP on, and answers how many of its bytes pass.
_NO_SYN = array(
    "B",
    b"".join(
        struct.pack("=HBBI", *step)
        for step in (
            (0x30, 0, 0, 13),  # load the byte of the flags (RFC 9293 section 3.1)
            (0x45, 0, 1, 0x02),  # SYN: go on, else skip one
            (0x06, 0, 0, 0),  # nothing passes
            (0x06, 0, 0, 0xFFFFFFFF),  # all of it
        )
    ),
)


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

    def take_no_more(self) -> None:
        """Let no TCP handshake begin any more, and those that run come to their end (Linux; else: no change).

        Who comes now is not answered, tries again within a second, and finds the port closed or a successor.
        """
        if self.path is None and sys.platform == "linux":
            address, size = _NO_SYN.buffer_info()
            with suppress(OSError):  # a kernel without socket filters
                program = struct.pack("HP", size // 8, address)
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def accept_rest(self) -> list[socket.socket]:
        """Stop listening; the connections that were complete by then, which the kernel would reset."""
        self.remove_path()  # first: nobody finds the way here any more
        if self.path is not None:
            with suppress(OSError):  # Linux then refuses whoever found it before
                self.sock.shutdown(socket.SHUT_RD)
        accepted: list[socket.socket] = []
        while True:
            try:
                accepted.append(self.sock.accept()[0])
            except ConnectionAbortedError:
                continue  # that one left again
            except OSError:
                # With nothing in between: where take_no_more changes nothing, who comes now is lost.
                self.sock.close()
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
    # All addresses means those that there are; a name such as localhost may stand for two families.
    skip = _FAMILY_MISSING if lenient or len(found) > 1 else frozenset()
    for left in reversed(range(_TRIES)):
        try:
            return _bind_same_port(found, skip)
        except OSError as error:
            # The port that was picked in one family is another's in the other.
            if not (left and address.port == 0 and error.errno == errno.EADDRINUSE):
                raise _refusal(address, error) from None
    raise AssertionError("the last try returns or raises")


def _bind_same_port(found: Sequence[tuple[int, tuple[str, int]]], skip: Set[int]) -> list[Bound]:
    """Bind all of them, less those that fail with an errno to skip; port 0 becomes one port for all."""
    bound: list[Bound] = []
    with ExitStack() as undo:
        for family, (host, port) in found:
            if port == 0 and bound:
                port = bound[0].sock.getsockname()[1]
            try:
                one = _bind_tcp(family, (host, port))
            except OSError as error:
                if error.errno in skip:
                    continue
                raise
            undo.callback(one.close)
            bound.append(one)
        undo.pop_all()
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
