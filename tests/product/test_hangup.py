"""SIGHUP at the wrong moment, more than once, and from a terminal that is closed."""

import asyncio
import fcntl
import os
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.product.command import COMMAND, environment, running, signalled_at_import
from tests.product.reloading import NOTHING, Place
from tests.support.caller import Caller, fetch
from tests.support.emr import EMR, form
from tests.support.upstream import Upstream, after, hang, reply


@pytest.fixture
def place(fumage: Upstream, emr: EMR, tmp_path: Path) -> Place:
    return Place(fumage, emr, tmp_path)


# At the wrong moment, and more than once


async def test_many_hangups_at_once_are_harmless(place: Place) -> None:
    async with place.started() as proxy, await Caller.connect(place.port) as caller:
        for number in range(20):
            place.write(max_body=f"{number + 1}KiB")
            proxy.terminate(signal.SIGHUP)
            assert (await caller.request()).status == 200
        await proxy.says("changed: max_body = 20KiB")
        assert (await caller.request("POST", body=b"x" * 20 * 1024)).status == 200
        assert (await fetch(place.port, "POST", body=b"x" * (20 * 1024 + 1))).status == 413
        proxy.terminate()
        assert await proxy.ended() == 0


async def test_a_hangup_while_another_is_served_is_served_afterwards(place: Place) -> None:
    go_on = asyncio.Event()
    async with place.started() as proxy:
        asked = place.emr.requests
        place.emr.script.append(after(go_on, place.emr.grant()))
        place.write(scope="one")
        proxy.terminate(signal.SIGHUP)
        await place.emr.until(lambda: place.emr.requests > asked)
        place.write(scope="two")
        proxy.terminate(signal.SIGHUP)
        go_on.set()
        await proxy.says("changed: scope = two")
        assert form(place.emr.seen[-1])["scope"] == "two"


async def test_a_hangup_while_the_proxy_stops_changes_nothing(place: Place) -> None:
    go_on = asyncio.Event()
    place.fumage.answer = after(go_on, reply(200, b"late"))
    async with place.started() as proxy:
        late = asyncio.create_task(fetch(place.port))
        await place.fumage.until(lambda: place.fumage.seen)
        proxy.terminate()
        await proxy.says("Stopping")
        proxy.terminate(signal.SIGHUP)
        go_on.set()
        assert (await late).body == b"late"
        assert await proxy.ended() == 0
    assert not any("read again" in line for line in proxy.err)


async def test_an_end_in_the_middle_of_a_reload_ends_it(place: Place) -> None:
    async with place.started() as proxy:
        asked = place.emr.requests
        place.emr.script.append(hang())
        place.write(client_secret="other")
        proxy.terminate(signal.SIGHUP)
        await place.emr.until(lambda: place.emr.requests > asked)
        proxy.terminate()
        assert await proxy.ended() == 0
        assert not any("Traceback" in line or "exception" in line for line in proxy.err)


async def test_a_hangup_before_anything_runs_is_served_once_it_does(place: Place) -> None:
    prefix = signalled_at_import(signal.SIGHUP)
    async with running(cwd=place.folder, prefix=prefix) as proxy:
        await proxy.says(f"The settings were read again; {NOTHING}")
        assert (await fetch(await proxy.port())).status == 200


async def test_what_can_be_read_only_once_does_not_hold_it_up(place: Place) -> None:
    script = 'exec "$0" "$@" --env-file <(cat .env)'
    async with running(cwd=place.folder, prefix=("bash", "-c", script, *COMMAND), env={}) as proxy:
        port = await proxy.port()
        proxy.terminate(signal.SIGHUP)
        await proxy.says("is a pipe, which cannot be read again")
        await proxy.says("nothing was changed")
        assert (await fetch(port)).status == 200


# Terminals


def _on_a_terminal(
    place: Place, *prefix: str, stdin: str | None = None
) -> "tuple[subprocess.Popen[bytes], int]":
    """The command as a shell on a terminal of its own would start it; what it logs goes into a file.

    It reads from the terminal, unless `stdin` names something else.
    """
    ours, theirs = os.openpty()
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, *COMMAND],
            cwd=place.folder,
            env=environment({}),
            stdin=theirs,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(stdin),
        )
    os.close(theirs)
    return process, ours


def _take_terminal(stdin: str | None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as a shell has it, whoever runs the tests
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if stdin is not None:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)


async def _until_logged(place: Place, what: str, times: int = 1) -> None:
    async with asyncio.timeout(15):
        while (place.folder / "log").read_text().count(what) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stdin", [None, os.devnull], ids=["reads-it", "reads-nothing"])
@pytest.mark.parametrize("prefix", [(), ("nohup",)], ids=["plain", "nohup"])
async def test_a_closed_terminal_ends_it_and_nohup_keeps_it(
    prefix: tuple[str, ...], stdin: str | None, place: Place
) -> None:
    process, terminal = _on_a_terminal(place, *prefix, stdin=stdin)
    try:
        await _until_logged(place, "This is fumage-proxy")
        process.send_signal(signal.SIGHUP)
        await _until_logged(place, NOTHING)
        os.close(terminal)
        if prefix:
            await _until_logged(place, NOTHING, times=2)
            process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
    finally:
        process.kill()
        process.wait()
