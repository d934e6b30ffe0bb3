import errno
import os
import select
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from proxy.listen import Bound, ListenError, bind
from proxy.settings import TCP, Address, Unix

LOOPBACK = TCP("127.0.0.1", 0)
FOREIGN = TCP("192.0.2.1", 0)  # RFC 5737: no machine has it, as if its family were missing


@contextmanager
def listening(*addresses: Address, lenient: bool = False) -> Iterator[list[Bound]]:
    with ExitStack() as stack:
        bound = bind(addresses, lenient=lenient)
        for one in bound:
            stack.callback(one.close)
        yield bound


def connect(one: Bound) -> socket.socket:
    sock = socket.socket(one.sock.family)
    sock.connect(one.sock.getsockname())
    return sock


def test_port_0_picks_one_and_the_name_tells_it() -> None:
    with listening(LOOPBACK, TCP("::1", 0)) as (v4, v6):
        assert v4.name == f"http://127.0.0.1:{v4.sock.getsockname()[1]}"
        assert v6.name == f"http://[::1]:{v6.sock.getsockname()[1]}"


def test_no_host_means_all_addresses_of_both_families_on_one_port() -> None:
    with listening(TCP("", 0)) as bound:
        assert [one.sock.getsockname()[0] for one in bound] == ["0.0.0.0", "::"]
        assert len({one.sock.getsockname()[1] for one in bound}) == 1
        assert not any(one.loopback for one in bound)


def test_a_port_that_is_taken_in_the_other_family_is_not_the_one_that_is_picked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else is a moment earlier, twice."""
    real, others = socket.socket.bind, ExitStack()
    late = iter([True, True])

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6 and next(late, False):
            other = others.enter_context(socket.socket(socket.AF_INET6))
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            real(other, address)
            other.listen()
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    with others, listening(TCP("", 0)) as (v4, v6):
        assert next(late, None) is None
        assert v4.sock.getsockname()[1] == v6.sock.getsockname()[1]


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)])
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    with listening(TCP(host, 0)) as (one,):
        assert one.loopback is loopback


def test_a_missing_family_is_left_out_where_that_is_allowed() -> None:
    with listening(LOOPBACK, FOREIGN, lenient=True) as bound:
        assert [one.sock.getsockname()[0] for one in bound] == ["127.0.0.1"]


@pytest.mark.parametrize("addresses", [(LOOPBACK, FOREIGN), (FOREIGN,)], ids=["both", "alone"])
def test_a_missing_address_is_an_error_where_somebody_asked_for_it(addresses: tuple[Address, ...]) -> None:
    with pytest.raises(ListenError, match="This machine does not have that address"), listening(*addresses):
        pass


def test_if_every_family_is_missing_leniency_ends() -> None:
    with pytest.raises(ListenError, match="None of the addresses"), listening(FOREIGN, lenient=True):
        pass


def test_an_occupied_port_is_never_skipped_and_nothing_stays_bound() -> None:
    with listening(LOOPBACK) as (taken,), listening(LOOPBACK) as (free,):
        port = free.sock.getsockname()[1]
        free.close()
        occupied = TCP("127.0.0.1", taken.sock.getsockname()[1])
        with pytest.raises(ListenError, match="Is another fumage-proxy running"):
            bind((TCP("127.0.0.1", port), occupied), lenient=True)
        with listening(TCP("127.0.0.1", port)):
            pass


def test_a_name_that_does_not_resolve_is_told() -> None:
    with (
        pytest.raises(ListenError, match=r"Cannot listen on nowhere\.invalid:1"),
        listening(TCP("nowhere.invalid", 1)),
    ):
        pass


def test_the_rest_is_accepted_when_listening_ends() -> None:
    with listening(LOOPBACK) as (one,):
        callers = [connect(one) for _ in range(3)]
        accepted = one.accept_rest()
        with pytest.raises(OSError, match="Bad file descriptor"):
            one.sock.getsockname()
        assert {sock.getpeername() for sock in accepted} == {caller.getsockname() for caller in callers}
        for sock in (*callers, *accepted):
            sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel goes on completing handshakes")
def test_whoever_comes_before_listening_ends_is_neither_accepted_nor_reset() -> None:
    with listening(LOOPBACK) as (one,), socket.socket() as late:
        early = connect(one)
        one.take_no_more()
        late.setblocking(False)
        assert late.connect_ex(one.sock.getsockname()) == errno.EINPROGRESS
        early.sendall(b"request")
        (accepted,) = one.accept_rest()
        assert accepted.recv(100) == b"request"
        accepted.sendall(b"answer")
        assert early.recv(100) == b"answer"
        assert select.select([], [late], [], 0)[1] == [], "the kernel tries again in a second"
        for sock in (early, accepted):
            sock.close()


# Unix sockets


def test_the_mode_is_there_when_the_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "socket"
    seen: list[int] = []
    before = os.umask(0)
    try:
        real = socket.socket.listen

        def listen(self: socket.socket, backlog: int) -> None:
            seen.append(stat.S_IMODE(path.stat().st_mode))
            real(self, backlog)

        monkeypatch.setattr(socket.socket, "listen", listen)
        with listening(Unix(str(path), 0o640)):
            pass
        assert os.umask(0) == 0, "the process's umask is as it was"
    finally:
        os.umask(before)
    assert seen == [0o640]


def test_the_path_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(Unix(str(path))) as (one,):
        assert one.name == f"unix:{path}"
        connect(one).close()
    assert not path.exists()


def test_a_path_that_another_process_has_taken_over_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(Unix(str(path))) as (first,):
        path.unlink()
        with listening(Unix(str(path))):
            first.close()
            assert path.exists()


def test_a_path_is_given_up_once(tmp_path: Path) -> None:
    """The next process may get the same inode number: a second close must not take its socket away."""
    path = tmp_path / "socket"
    with listening(Unix(str(path))) as (first,):
        first.close()
        with listening(Unix(str(path))):
            first.close()
            assert path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with listening(Unix(str(path))) as (one,):
        connect(one).close()


def test_a_live_socket_is_refused_also_when_its_backlog_is_full(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as live, ExitStack() as callers:
        live.bind(path)
        live.listen(0)
        with pytest.raises(ListenError, match="somebody listens there"):
            bind((Unix(path),), lenient=False)
        while True:
            caller = callers.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            if caller.connect_ex(path) == errno.EAGAIN:
                break
        with pytest.raises(ListenError, match="somebody listens there"):
            bind((Unix(path),), lenient=False)
    assert os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    match kind:
        case "file":
            path.touch()
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ListenError, match="not a socket"):
        bind((Unix(str(path)),), lenient=False)
    assert os.path.lexists(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="The folder has to be there already"):
        bind((Unix(str(tmp_path / "none" / "socket")),), lenient=False)
