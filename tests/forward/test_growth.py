"""What an exchange takes does not depend on what else is open: nothing looks at every connection."""

import asyncio
import sys
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import pytest

import proxy
import proxy.forward.exchange
from tests.forward.fumage import quiet
from tests.forward.leftovers import until
from tests.support.caller import Caller
from tests.support.product import Product
from tests.support.upstream import after, reply

MANY = 150
CODE = proxy.__path__[0]


class Lines:
    """Counts the lines of the product that run meanwhile."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "Lines":
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(CODE) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        self.count += event == "line"
        return self._line


async def lines_of_an_exchange(caller: Caller) -> int:
    """The least of some: now and then something else is due, such as the log."""
    counts = []
    for _ in range(8):
        with Lines() as lines:
            assert (await caller.request()).status == 200
        counts.append(lines.count)
    return min(counts)


@pytest.mark.skipif(not proxy.forward.exchange.__file__.endswith(".py"), reason="compiled code has no lines")
async def test_an_exchange_runs_the_same_lines_however_many_connections_are_open() -> None:
    async with Product(max_connections="1000") as product, await Caller.connect(product.port) as caller:
        await quiet(product)
        few = await lines_of_an_exchange(caller)
        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(await Caller.connect(product.port)) for _ in range(MANY)
            ]
            go = asyncio.Event()
            product.fumage.script.extend([after(go, reply(200))] * MANY)
            waiting = [asyncio.create_task(other.request()) for other in others]
            await until(lambda: not product.fumage.script)
            while_they_wait = await lines_of_an_exchange(caller)
            go.set()
            await asyncio.gather(*waiting)
            await quiet(product, idle=MANY + 1)
            while_they_are_idle = await lines_of_an_exchange(caller)
    assert few == while_they_wait == while_they_are_idle > 100
