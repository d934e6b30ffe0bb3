"""A coroutine that runs inside the loop's callbacks until it has to wait for more than bytes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.forward.strand import Source, Strand


def from_a_callback(act: Callable[[], object]) -> Coroutine[Any, Any, None]:
    """Act as the loop's callbacks do: in no task."""

    async def done() -> None:
        over = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: over.set_result(act()))
        await over

    return done()


class Diary:
    """A strand and what became of its coroutine so far."""

    def __init__(self, tap: Source):
        self.strand = Strand(asyncio.get_running_loop())
        self.tap = tap
        self.entries: list[str] = []

    async def write(self, *waits: str) -> None:
        try:
            for wait in waits:
                if wait == "news":
                    await self.strand.news(self.tap)
                elif wait == "task":
                    await self.strand.as_task()
                else:
                    raise ValueError(wait)
                self.entries.append(wait)
            self.entries.append("over")
        except asyncio.CancelledError:
            self.entries.append("cancelled")
            raise

    def start(self, *waits: str) -> None:
        self.strand.start(self.write(*waits))


@pytest.fixture
def tap() -> Source:
    return Source()


async def test_it_runs_at_once_up_to_its_first_wait_and_on_within_the_call_that_brings_news(
    tap: Source,
) -> None:
    diary = Diary(tap)
    diary.start("news", "news")
    assert diary.entries == []
    tap.tell()
    assert diary.entries == ["news"]
    tap.tell()
    assert diary.entries == ["news", "news", "over"]
    assert tap.listener is None


async def test_as_a_task_it_goes_on_in_a_later_turn_of_the_loop_and_still_gets_its_news(tap: Source) -> None:
    diary = Diary(tap)
    diary.start("task", "news", "task")
    assert diary.entries == []
    await asyncio.sleep(0)
    assert diary.entries == ["task"]
    tap.tell()
    assert diary.entries == ["task"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert diary.entries == ["task", "news", "task", "over"]
    assert tap.listener is None


@pytest.mark.parametrize("waits", [["news"], ["task", "news"]], ids=["in callbacks", "as a task"])
async def test_cancelling_ends_its_wait_in_a_later_turn(tap: Source, waits: list[str]) -> None:
    diary = Diary(tap)
    diary.start(*waits)
    await asyncio.sleep(0)
    diary.strand.cancel()
    assert "cancelled" not in diary.entries
    for _ in range(3):
        await asyncio.sleep(0)
    assert diary.entries[-1] == "cancelled"
    assert tap.listener is None


async def test_cancelling_just_before_it_becomes_a_task_ends_it_too(tap: Source) -> None:
    diary = Diary(tap)
    diary.start("news", "task", "news")
    diary.strand.cancel()
    tap.tell()  # which makes a task of it, before the cancelling has its turn
    for _ in range(4):
        await asyncio.sleep(0)
    assert diary.entries[-1] == "cancelled"


async def test_news_that_come_before_the_cancelling_win(tap: Source) -> None:
    diary = Diary(tap)
    diary.start("news")
    diary.strand.cancel()
    tap.tell()
    await asyncio.sleep(0)
    assert diary.entries == ["news", "over"]
    diary.strand.cancel()
    await asyncio.sleep(0)
    assert diary.entries == ["news", "over"]


async def test_it_knows_when_its_own_code_asks(tap: Source) -> None:
    strand, seen = Strand(asyncio.get_running_loop()), []

    async def ask() -> None:
        seen.append(strand.running)
        await strand.as_task()
        seen.append(strand.running)

    await from_a_callback(lambda: strand.start(ask()))
    assert not strand.running
    await asyncio.sleep(0)
    assert seen == [True, True]
    assert not strand.running


async def test_a_defect_ends_it_and_is_reported(tap: Source) -> None:
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    diary = Diary(tap)
    diary.start("nonsense")
    assert [type(report["exception"]) for report in reports] == [ValueError]
    diary.strand.cancel()
    await asyncio.sleep(0)
    assert diary.entries == []
