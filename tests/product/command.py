"""The real command, `python -m proxy …`, as a process with a folder and an environment of its own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support import Pulse
from tests.support.emr import EMR
from tests.support.upstream import Upstream

COMMAND = (sys.executable, "-m", "proxy")
SECRET = "s3cret-that-nobody-sees"
FREE_PORTS = {"FUMAGE_PROXY_LISTEN": "127.0.0.1:0", "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0"}
CANVAS = {
    "FUMAGE_BASE_URL": "https://fumage-example.canvasmedical.com",
    "CANVAS_API_CLIENT_ID": "client",
    "CANVAS_API_CLIENT_SECRET": SECRET,
}


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Nothing of the environment that the tests run in, but what an interpreter needs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return {**kept, **given}


def run(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """A command that ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(env or {}),
        capture_output=True,
        text=True,
        timeout=20,
    )


def before(fumage: Upstream, emr: EMR) -> dict[str, str]:
    """The environment of a proxy between the test and these two, on free ports."""
    return {
        **FREE_PORTS,
        **CANVAS,
        "FUMAGE_BASE_URL": fumage.url,
        "FUMAGE_PROXY_TOKEN_URL": emr.token_url,
    }


class Running:
    """A command that runs; `out` and `err` are the lines that it has written."""

    def __init__(self, process: asyncio.subprocess.Process):
        assert process.stdout
        assert process.stderr
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._pulse = Pulse()
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))
            self._pulse.beat()
        self._pulse.beat()

    async def says(self, pattern: str, *, seconds: float = 15) -> re.Match[str]:
        """The first match on a line of either stream."""

        def found() -> re.Match[str] | None:
            return next((m for line in (*self.out, *self.err) if (m := re.search(pattern, line))), None)

        over = lambda: found() or all(reader.done() for reader in self._readers)  # noqa: E731
        await self._pulse.until(over, seconds, lambda: f"{pattern!r} in {self.out + self.err}")
        match = found()
        assert match, f"the command ended without {pattern!r}: {self.out + self.err}"
        return match

    async def port(self) -> int:
        return int((await self.says(r"Listening on http://127\.0\.0\.1:(\d+)"))[1])

    async def admin_port(self) -> int:
        return int((await self.says(r"Health on http://127\.0\.0\.1:(\d+)"))[1])

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self, seconds: float = 15) -> int:
        """The exit code, once the process is over and all it wrote is read."""
        async with asyncio.timeout(seconds):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code


@asynccontextmanager
async def running(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = COMMAND
) -> AsyncIterator[Running]:
    """Start the command; what still runs at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *arguments,
        cwd=cwd,
        env=environment(env or {}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    command = Running(process)
    try:
        yield command
    finally:
        if process.returncode is None:
            process.kill()
        await command.ended()


_AT_IMPORT = """
import os, sys

number = int(sys.argv.pop(1))

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "proxy.run":
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Finder())
from proxy.cli import main
sys.exit(main())
"""


def signalled_at_import(number: int) -> tuple[str, ...]:
    """What to start the command with so that it gets this signal before anything of it runs."""
    return COMMAND[0], "-c", _AT_IMPORT, str(number)
