import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from proxy.token.source import TokenSource
from tests.support.clock import FakeClock
from tests.token.script import Script
from tests.token.server import Server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def script(clock: FakeClock) -> Script:
    return Script(clock)


@pytest.fixture
async def source(script: Script, clock: FakeClock) -> AsyncIterator[TokenSource]:
    """With a margin of 60 s and no jitter."""
    source = TokenSource(script, refresh_margin=60, clock=clock, random=lambda: 0.5)
    yield source
    await source.close()


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., "asyncio.Task[Any]"]]:
    """Runs a coroutine beside the test, and ends it with the test."""
    tasks: list[asyncio.Task[Any]] = []

    def start(coroutine: Any) -> "asyncio.Task[Any]":
        tasks.append(asyncio.create_task(coroutine))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Server:
    running.forget()
    return running
