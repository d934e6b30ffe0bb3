"""`proxy.notify` before a real datagram socket, alone and in the real command."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.notify import Supervisor
from tests.product.command import before, running
from tests.support.caller import fetch
from tests.support.emr import EMR
from tests.support.upstream import Upstream


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def silent(systemd: socket.socket) -> bool:
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)
    return True


def test_ready_reloading_and_stopping_are_told(systemd: socket.socket, environ: dict[str, str]) -> None:
    supervisor = Supervisor(environ)
    supervisor.ready()
    began = time.monotonic_ns() // 1000
    supervisor.reloading()
    supervisor.stopping()
    ready, reloading, stopping = (systemd.recv(100) for _ in range(3))
    assert (ready, stopping) == (b"READY=1", b"STOPPING=1")
    told, _, microseconds = reloading.partition(b"\nMONOTONIC_USEC=")
    assert told == b"RELOADING=1"
    assert began <= int(microseconds) <= time.monotonic_ns() // 1000


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has them")
def test_an_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # Linux picks an abstract name
        name = systemd.getsockname()
        Supervisor({"NOTIFY_SOCKET": "@" + name[1:].decode()}).ready()
        assert systemd.recv(100) == b"READY=1"


async def test_without_a_notify_socket_nothing_is_done() -> None:
    supervisor = Supervisor({"WATCHDOG_USEC": "1000"})
    supervisor.ready()
    await supervisor.keep_alive()
    supervisor.stopping()


def test_a_socket_that_is_gone_ends_nothing(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    Supervisor(environ).ready()
    assert "READY=1 was not heard: No such file or directory" in caplog.text


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
    ids=["none", "zero", "not a number", "another process's"],
)
async def test_a_watchdog_that_is_not_ours_is_not_fed(
    watchdog: dict[str, str], systemd: socket.socket, environ: dict[str, str]
) -> None:
    await Supervisor(environ | watchdog).keep_alive()
    assert silent(systemd)


async def test_the_watchdog_is_fed_while_the_loop_turns_and_not_when_it_hangs(
    systemd: socket.socket, environ: dict[str, str]
) -> None:
    watchdog = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
    feeding = asyncio.create_task(Supervisor(environ | watchdog).keep_alive())
    systemd.setblocking(False)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        for _ in range(3):
            assert await loop.sock_recv(systemd, 100) == b"WATCHDOG=1"
    systemd.settimeout(0.3)  # three times the interval, in which this loop stands still
    with pytest.raises(TimeoutError):
        systemd.recv(100)
    feeding.cancel()


async def test_the_command_tells_that_it_listens_lives_reloads_and_stops(
    systemd: socket.socket, environ: dict[str, str], tmp_path: Path
) -> None:
    async with Upstream() as fumage, EMR() as emr:
        env = {**before(fumage, emr), **environ, "WATCHDOG_USEC": "200000"}
        loop = asyncio.get_running_loop()
        systemd.setblocking(False)
        async with running(cwd=tmp_path, env=env) as proxy, asyncio.timeout(20):
            assert await loop.sock_recv(systemd, 100) == b"READY=1"
            assert (await fetch(await proxy.port())).status == 200
            assert [await loop.sock_recv(systemd, 100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            proxy.terminate(signal.SIGHUP)
            told = b"WATCHDOG=1"
            while told == b"WATCHDOG=1":
                told = await loop.sock_recv(systemd, 100)
            assert told.startswith(b"RELOADING=1")
            assert await loop.sock_recv(systemd, 100) in (b"READY=1", b"WATCHDOG=1")
            proxy.terminate()
            while (told := await loop.sock_recv(systemd, 100)) != b"STOPPING=1":
                assert told in (b"READY=1", b"WATCHDOG=1")
            assert await proxy.ended() == 0
