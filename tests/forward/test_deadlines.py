"""Timeouts of one length on one timer, whose length may change meanwhile."""

import asyncio
from collections.abc import Callable

import pytest

from proxy.forward.deadlines import Deadlines

LONG, SHORT = 3600.0, 0.02  # s


class Expired:
    """What expired, in this order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, key: str) -> None:
        self.order.append(key)
        self._more.set()

    async def number(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.order) < count:
                self._more.clear()
                await self._more.wait()
        return self.order


async def test_a_shorter_length_counts_for_those_that_run_and_those_that_come() -> None:
    expired = Expired()
    deadlines = Deadlines(LONG, expired)
    for key in "ab":
        deadlines.start(key)
    deadlines.change(SHORT)
    deadlines.start("c")
    assert await expired.number(3) == ["a", "b", "c"]
    assert not len(deadlines)


async def test_a_longer_length_counts_for_those_that_run_too() -> None:
    expired = Expired()
    deadlines = Deadlines(SHORT, expired)
    deadlines.start("a")
    deadlines.change(LONG)
    await asyncio.sleep(2 * SHORT)
    assert "a" in deadlines
    deadlines.change(SHORT)
    assert await expired.number(1) == ["a"]


@pytest.mark.parametrize("before", [lambda deadlines: None, lambda deadlines: deadlines.start("gone")])
async def test_a_timer_that_nobody_needs_does_not_delay_a_shorter_one(
    before: Callable[[Deadlines[str]], None],
) -> None:
    expired = Expired()
    deadlines = Deadlines(LONG, expired)
    before(deadlines)
    deadlines.stop("gone")
    deadlines.change(SHORT)
    deadlines.start("a")
    assert await expired.number(1) == ["a"]
