"""What runs beside the requests does not die unseen."""

import asyncio
import io
from pathlib import Path

import pytest

from proxy.tasks import end, watched
from proxy.token.rotation import POLL
from tests.product.command import COMMAND, before, running
from tests.support.clock import FakeClock
from tests.support.emr import EMR
from tests.support.logs import configured
from tests.support.product import Product
from tests.support.upstream import Upstream

SECRET = "hush-nobody-logs-this"


class Broken(FakeClock):
    """A clock that fails who watches the secret's file."""

    async def sleep(self, seconds: float) -> None:
        if seconds == POLL:
            raise RuntimeError(SECRET)
        await super().sleep(seconds)


async def _dies() -> None:
    raise RuntimeError(SECRET)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_a_task_that_dies_is_logged_by_type_and_place_and_told(log_format: str) -> None:
    lines, died = io.StringIO(), asyncio.Event()
    with configured("error", log_format, lines):
        task = watched(_dies(), died.set)
        await died.wait()
    assert task.done()
    logged = lines.getvalue()
    assert "critical" in logged
    assert "this process stops" in logged
    assert "RuntimeError at test_tasks.py:" in logged
    assert SECRET not in logged


async def test_a_task_that_is_ended_or_done_tells_nobody() -> None:
    died = asyncio.Event()
    waits, done = watched(asyncio.sleep(3600), died.set), watched(asyncio.sleep(0), died.set)
    await done
    await end(waits, done)
    assert waits.cancelled()
    assert not died.is_set()


def _with_a_file(folder: Path) -> dict[str, str]:
    (folder / "secret").write_text("s")
    return {"CANVAS_API_CLIENT_SECRET": "", "CANVAS_API_CLIENT_SECRET_FILE": str(folder / "secret")}


async def test_an_app_whose_secret_is_no_longer_watched_asks_to_be_stopped(tmp_path: Path) -> None:
    async with Product(clock=Broken(), environ=_with_a_file(tmp_path)) as product:
        await product.app.stop.wait()
        assert product.app.failed


_DIES = """
import sys
from proxy.clock import SystemClock
from proxy.token.rotation import POLL

sleep = SystemClock.sleep

def break_down(self, seconds):
    if seconds == POLL:
        raise RuntimeError
    return sleep(self, seconds)

SystemClock.sleep = break_down
from proxy.cli import main
sys.exit(main())
"""


async def test_a_process_in_which_a_task_dies_ends_with_1_so_that_its_supervisor_starts_another(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    prefix = (COMMAND[0], "-c", _DIES)
    env = before(fumage, emr) | _with_a_file(tmp_path)
    async with running("serve", cwd=tmp_path, env=env, prefix=prefix) as proxy:
        assert await proxy.ended() == 1
        assert any("this process stops" in line and "RuntimeError at" in line for line in proxy.err)
        assert any("Stopping: what runs may take" in line for line in proxy.err)
