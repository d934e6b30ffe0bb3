"""One of several that share a token."""

import asyncio
from collections.abc import Callable
from typing import Any

from proxy.token.answer import Token
from proxy.token.seal import Seal
from proxy.token.shared import SharedGrant
from proxy.token.source import TokenSource
from proxy.token.store import RedisStore, StoreError
from tests.support.clock import FakeClock
from tests.token.script import Script

KEY, OTHER_KEY = "a store key of thirty-two characters", "another key of thirty-two characters"


class Replica:
    """A grant of its own, whose tokens bear its name, and the shared one around it."""

    def __init__(self, url: str, name: str = "a", **changes: Any) -> None:
        self.clock: Any = changes.get("clock") or FakeClock()
        self.script = Script(self.clock)
        self.script.issued = Named(name)
        self.script.identity = changes.pop("identity", "one client")
        self.told: list[str] = []
        self.why: list[str | None] = []
        values: dict[str, Any] = {
            "store": RedisStore(url, password=changes.pop("password", None)),
            "seal": Seal(changes.pop("keys", [KEY])),
            "refresh_margin": 60,
            "patience": 10.0,
            "clock": self.clock,
            "observe": self.observe,
        }
        self.grant = SharedGrant(self.script, **(values | changes))
        self.source = TokenSource(self.grant, refresh_margin=60, clock=self.clock, random=lambda: 0.5)

    def observe(self, event: str, why: StoreError | None) -> None:
        self.told.append(event)
        self.why.append(f"{why} {why.advice}" if why else None)

    async def reject(self, token: Token) -> Token | None:
        """A request sent with it got a 401."""
        return await self.source.replace(token, self.clock.now())


class Named(list[Token]):
    """Has the tokens of different replicas differ."""

    def __init__(self, name: str) -> None:
        self.name = name

    def append(self, token: Token) -> None:
        token.access_token = f"{self.name}-{token.access_token}"
        super().append(token)


def text(token: Token | None) -> str | None:
    return token.access_token if token else None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(8):
        while not condition():  # noqa: ASYNC110  # nothing tells: it is another process that is looked at
            await asyncio.sleep(0.005)
