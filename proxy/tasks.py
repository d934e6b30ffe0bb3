"""Tasks that run beside requests: none of them dies unseen."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger(__name__)


def watched(work: Coroutine[Any, Any, None], died: Callable[[], None]) -> asyncio.Task[None]:
    """Start the work. Should it raise, that is logged, and `died` is called; to be cancelled is no death."""
    task = asyncio.create_task(work)
    task.add_done_callback(partial(_look, died))
    return task


def _look(died: Callable[[], None], task: asyncio.Task[None]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    # Without it a token would run out, or a rotated secret go unseen, hours later: a new start is better.
    log.critical("Defect: what runs beside the requests has died, so this process stops.", exc_info=error)
    died()


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel them, and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
