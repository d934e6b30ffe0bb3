"""A coroutine without a task, for as long as it waits for nothing but bytes from Fumage.

A task and the futures that it waits for are a twentieth of what an exchange costs, and before Python 3.12 a
task begins in a later turn of the loop only. So an exchange begins as a strand, which runs inside the
callbacks that bring the bytes: from the caller's request to ours in one, from Fumage's answer to ours in
another. Before any other wait (for a token, a free connection, a slow caller) it becomes a task, by
`as_task`, and stays one.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Final, cast

_OVER: Final = object()


class Listener:
    """Who waits for news."""

    __slots__ = ()

    def hear(self) -> None:
        raise NotImplementedError


class Source:
    """What news come from. Who has become its `listener` hears of them once."""

    def __init__(self) -> None:
        self.listener: Listener | None = None

    def tell(self) -> None:
        """There are news; to be called at the end of a callback of the loop."""
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.hear()


class _Waiting(Listener):
    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = asyncio.Event()

    def hear(self) -> None:
        self.over.set()


async def news(source: Source) -> None:
    """Wait for news of the source; for tasks."""
    source.listener = waiting = _Waiting()
    try:
        await waiting.over.wait()
    finally:
        source.listener = None


class _Yielding:
    """To await it hands these values, one after the other, to who drives the coroutine."""

    __slots__ = ("_values",)

    def __init__(self, *values: object):
        self._values = values

    def __await__(self) -> Generator[Any, Any, None]:
        return cast(Generator[Any, Any, None], iter(self._values))  # an iterator will do (PEP 492)


_NEWS: Final = _Yielding("news")
_TASK: Final = _Yielding(None)  # of which `_step` makes a task
_NOTHING: Final = _Yielding()


class Strand(Listener):
    """Drives coroutines, one after the other."""

    __slots__ = ("_coroutine", "_loop", "_over", "_source", "_stepping", "_steps", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._source: Source | None = None  # whose news it waits for
        self._stepping = False
        self._over = True

    # --- for the coroutine, to be awaited at once ---

    def news(self, source: Source) -> Awaitable[None]:
        """Wait for news of the source."""
        if self._task is not None:
            return news(source)
        self._source = source
        source.listener = self
        return _NEWS

    def as_task(self) -> Awaitable[None]:
        """Be a task from here on, which may wait for whatever it likes."""
        return _TASK if self._task is None else _NOTHING

    # --- for who started it ---

    @property
    def running(self) -> bool:
        """Whether it is this coroutine's own code that asks."""
        if self._task is not None:
            return asyncio.current_task(self._loop) is self._task
        return self._stepping

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run the coroutine up to its first wait that is not over yet. The one before must have ended."""
        self._coroutine = coroutine
        self._steps = coroutine.__await__()
        self._task = None
        self._over = False
        self._step()

    def hear(self) -> None:
        self._step()

    def cancel(self) -> None:
        """Raise CancelledError in the coroutine, where it waits, in a later turn of the loop."""
        self._loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self._over:
            self._step(asyncio.CancelledError())

    def _step(self, error: BaseException | None = None) -> None:
        if self._source is not None:
            self._source.listener = None
            self._source = None
        waits: object = _OVER
        self._stepping = True
        try:
            # `next` with a default spares the StopIteration with which `send` tells the end.
            waits = next(self._steps, _OVER) if error is None else self._coroutine.throw(error)
        except (StopIteration, asyncio.CancelledError):
            pass
        except Exception as failure:
            self._loop.call_exception_handler({"message": "An exchange failed.", "exception": failure})
        self._stepping = False
        if waits is None:
            self._task = self._loop.create_task(self._coroutine)
        self._over = waits is _OVER
