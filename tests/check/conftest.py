"""`check` runs on asyncio's own loop, which tells more of a handshake that failed."""

import asyncio
from collections.abc import Callable, Mapping


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"loop": asyncio.new_event_loop}
