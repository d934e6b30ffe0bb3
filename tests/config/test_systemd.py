"""config/systemd: systemd takes the unit, and what it starts works and tells how it is."""

import asyncio
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.sandbox import Sandbox
from tests.config.examples import CONFIG, SECRET_FILE, Example
from tests.support.caller import fetch

FOLDER = CONFIG / "systemd"
UNIT = (FOLDER / "fumage-proxy.service").read_text()
PROGRAM = "/opt/fumage-proxy/bin/fumage-proxy"
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def values(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def analyzed(folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    # systemd looks whether the program is there.
    (folder / "fumage-proxy.service").write_text(UNIT.replace(PROGRAM, sys.executable))
    return subprocess.run(
        ["systemd-analyze", *command, str(folder / "fumage-proxy.service")], capture_output=True, text=True
    )


@analyze
def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "verify")
    about = [line for line in done.stderr.splitlines() if "fumage-proxy" in line]
    assert (done.returncode, about) == (0, [])


@analyze
def test_systemd_finds_little_exposed(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "security", "--offline=true", "--threshold=15")  # tenths: 1.5 of 10
    assert done.returncode == 0, done.stdout[-200:]


def example(folder: Path) -> Example:
    """Credentials lie where systemd would put them; the TOML file names the Canvas instance."""
    (command,) = values("ExecStart")
    program, *arguments = shlex.split(command)
    assert program == PROGRAM
    (credential,) = values("LoadCredential")
    (setting,) = values("Environment")
    name, _, path = setting.partition("=")
    assert (name, path) == (SECRET_FILE, f"%d/{credential.split(':')[0]}")
    etc = folder / "fumage-proxy.toml"
    etc.write_text((FOLDER / "fumage-proxy.toml").read_text())
    return Example(
        ["fumage-proxy", *(each.replace("/etc/fumage-proxy", str(folder)) for each in arguments)],
        {name: path.replace("%d", str(folder))},
    )


async def test_it_starts_serves_is_watched_reloads_and_stops(sandbox: Sandbox, tmp_path: Path) -> None:
    here = example(tmp_path).here(sandbox, tmp_path)
    etc = tmp_path / "fumage-proxy.toml"
    etc.write_text(
        etc.read_text()
        .replace("https://fumage-example.canvasmedical.com", sandbox.fumage_url)
        .replace("your-client-id", sandbox.client_id)
    )
    assert values("Type") == ["notify"]
    (seconds,) = values("WatchdogSec")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        environment = {
            **here.example.env,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": str(int(seconds.rstrip("s")) * 1_000_000),
        }
        here = here.__class__(Example(here.example.argv, environment), here.ports, tmp_path)
        async with here.started() as proxy:
            assert (await fetch(here.ports[3447], "GET", "/Patient")).status == 200
            etc.write_text(etc.read_text() + 'allow = "*.rs"\n')
            (reload,) = values("ExecReload")
            asked = await asyncio.create_subprocess_exec(
                *shlex.split(reload.replace("$MAINPID", str(proxy.process.pid)))
            )
            assert await asked.wait() == 0
            await proxy.says(r"changed: allow = \*\.rs")
            assert (await fetch(here.ports[3447], "DELETE", "/Patient/1")).status == 403
            proxy.terminate()
            assert await proxy.ended() == 0
        told = [systemd.recv(100).partition(b"=")[0] for _ in range(5)]
    assert told == [b"READY", b"WATCHDOG", b"RELOADING", b"READY", b"STOPPING"]
