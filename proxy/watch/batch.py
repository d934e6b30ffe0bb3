"""Records of requests that are over wait for each other: looked at many at a time, each costs less, since the
code that does it and what it needs stay in the processor's caches."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from proxy.watch.record import Record

_SOON: Final = 0.1  # seconds that a record may wait
_MANY: Final = 64  # records that are looked at together; more would hold up requests for milliseconds


class Batch:
    """Hands records on to `look`, many at a time and soon; at once what waits at a `flush`."""

    def __init__(self, look: Callable[[Sequence[Record]], None]):
        self._look = look
        self._waiting: list[Record] = []

    def __call__(self, record: Record) -> None:
        waiting = self._waiting
        waiting.append(record)
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(_SOON, self.flush)
        elif len(waiting) >= _MANY:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._look(waiting)
