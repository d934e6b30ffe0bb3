"""A coroutine without a task, for as long as it waits for nothing but bytes from Fumage.

A task and the futures that it waits for are a twentieth of what an exchange costs, and before Python 3.12 a
task begins in a later turn of the loop only. So an exchange begins as a strand, which runs inside the
callbacks that bring the bytes: from the caller's request to ours in one, from Fumage's answer to ours in
another. Before any other wait (for a token, a free connection, a slow caller) it becomes a task, by
`as_task`, and stays one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from inspect import CORO_CLOSED, CORO_RUNNING, getcoroutinestate
from types import coroutine
from typing import Any, Protocol

_OVER = object()


class Source(Protocol):
    """What news come from: it calls `on_news` once, at the end of a callback of the loop."""

    on_news: Callable[[], None] | None


async def news(source: Source) -> None:
    """Wait for news of the source; for tasks."""
    told = asyncio.Event()
    source.on_news = told.set
    try:
        await told.wait()
    finally:
        source.on_news = None


class Strand:
    """Drives coroutines, one after the other."""

    __slots__ = ("_coroutine", "_loop", "_steps", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    # --- for the coroutine ---

    @coroutine
    def news(self, source: Source) -> Generator[Any, None, None]:
        """Wait for news of the source."""
        if self._task is not None:
            yield from news(source).__await__()
            return
        source.on_news = self._step
        try:
            yield source
        finally:
            source.on_news = None

    @coroutine
    def as_task(self) -> Generator[None, None, None]:
        """Be a task from here on, which may wait for whatever it likes."""
        if self._task is None:
            yield

    # --- for who started it ---

    @property
    def running(self) -> bool:
        """Whether it is this coroutine's own code that asks."""
        return getcoroutinestate(self._coroutine) == CORO_RUNNING

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine up to its first wait that is not over yet. The one before must have ended."""
        self._coroutine = coroutine
        self._steps = coroutine.__await__()
        self._task = None
        self._step()

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine, where it waits, in a later turn of the loop."""
        self._loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif getcoroutinestate(self._coroutine) != CORO_CLOSED:
            self._step(asyncio.CancelledError())

    def _step(self, error: BaseException | None = None) -> None:
        try:
            # `next` with a default spares the StopIteration with which `send` tells the end.
            waits = next(self._steps, _OVER) if error is None else self._coroutine.throw(error)
            if waits is None:
                self._task = self._loop.create_task(self._coroutine)
        except (StopIteration, asyncio.CancelledError):
            pass
        except Exception as failure:
            self._loop.call_exception_handler({"message": "An exchange failed.", "exception": failure})
