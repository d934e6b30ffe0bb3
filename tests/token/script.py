"""A grant that answers as the test tells it to, and what the tests of the source do with it."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from proxy.rules.errors import TokenEndpointUnavailable, TokenError
from proxy.token.answer import Token
from proxy.token.source import TokenSource
from tests.support.clock import FakeClock

Start = Callable[..., "asyncio.Task[Any]"]


class Script:
    """Answers come from `answers`, then with `lifetime`; each is a TokenError, or a Token's lifetime, or that
    and a refresh token. Tokens are tok-1, tok-2 … While `gate` is closed, requests wait."""

    def __init__(self, clock: FakeClock, *answers: TokenError | float | tuple[float, str]) -> None:
        self.identity = "one client"
        self.clock = clock
        self.answers = deque(answers)
        self.lifetime: TokenError | float = 1000.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[float, str | None]] = []  # when, and with which refresh token
        self.issued: list[Token] = []
        self.busy = 0
        self.closed = False

    @property
    def requests(self) -> int:
        return len(self.asked)

    async def request(self, refresh_token: str | None = None) -> Token:
        requested_at, requested_wall = self.clock.now(), self.clock.wall()
        self.asked.append((requested_at, refresh_token))
        self.busy += 1
        assert self.busy == 1, "two token requests at once"
        try:
            await self.gate.wait()
        finally:
            self.busy -= 1
        answer = self.answers.popleft() if self.answers else self.lifetime
        if isinstance(answer, TokenError):
            raise answer
        lifetime, refresh = answer if isinstance(answer, tuple) else (answer, None)
        token = Token(f"tok-{len(self.issued) + 1}", lifetime, requested_at, requested_wall, refresh)
        self.issued.append(token)
        return token

    async def close(self) -> None:
        self.closed = True


def down(retry_after: float = 1.0) -> TokenError:
    return TokenEndpointUnavailable("down", retry_after=retry_after)


def hand_made(script: Script, clock: FakeClock, **changes: Any) -> TokenSource:
    values: dict[str, Any] = {"refresh_margin": 60, "clock": clock, "random": lambda: 0.5}
    return TokenSource(script, **(values | changes))


async def always_401(source: TokenSource, clock: FakeClock) -> str:
    """One request to a path that answers 401 whatever the token; what became of it."""
    token, sent_at = await source.get(), clock.now()
    fresh = await source.replace(token, sent_at)
    if fresh is None:
        return "passed on"
    source.rejected_again(fresh)
    return "replayed"
