"""The event loop that the commands run on, and the tests."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None means asyncio's own (Windows, PyPy).

    uvloop 0.23 loses what its TLS layer holds when reading is paused and the peer closes. We read no body
    through that layer: TLS to Fumage is ours (`proxy.forward.tls`), and a token's answer is never paused.
    """
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if sys.version_info >= (3, 12):

    def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """A task that runs at once, up to its first wait, and not only in the next turn of the loop."""
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
else:

    def start(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """A task; before Python 3.12 it begins in the next turn of the loop."""
        return loop.create_task(coroutine)
