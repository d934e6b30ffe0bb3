"""Many sidecars in time that leaps: the product's own token sources and shared grants, unchanged, before a
store and an EMR that are made up. Nothing here waits or does I/O."""

import asyncio
import random
import selectors
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import proxy.token.source
from proxy.rules.errors import TokenEndpointUnavailable, TokenError
from proxy.token.answer import Token
from proxy.token.seal import Seal
from proxy.token.shared import SharedGrant
from proxy.token.source import TokenGrant, TokenSource
from proxy.token.store import TIMEOUT, Left, RedisStore, StoreError

T = TypeVar("T")

LIFETIME = 36000.0  # s: Canvas's
EMR_ANSWERS = 0.35  # s: FACTS, as Django OAuth Toolkit was observed
EMR_WORKERS = 8  # token requests that it works on at a time; more wait, and those who leave cost nothing
TOKEN_TIMEOUT, MARGIN = 10.0, 60.0  # s: the product's defaults
ROUND_TRIP = 0.001  # s, to the store


class _Leaping(selectors.SelectSelector):
    """Where a loop would wait, its time leaps."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for ever"
        self.now += max(timeout, 0.0)
        return []


class Leaps(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now


def run(scenario: Coroutine[Any, Any, T]) -> T:
    # No clock is set here, so nobody needs to look at it every minute.
    looks, proxy.token.source.NAP = proxy.token.source.NAP, float("inf")
    try:
        with asyncio.Runner(loop_factory=Leaps) as runner:
            return runner.run(scenario)
    finally:
        proxy.token.source.NAP = looks


class LoopClock:
    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time
        self.wall = self.now
        self.sleep = asyncio.sleep


class Emr:
    """`asked`: when each token request came. While `down`, all are refused at once."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.issued = 0
        self.down = False
        self.revoked = 0  # tokens up to this number are
        self._workers = asyncio.Semaphore(EMR_WORKERS)
        self._clock = LoopClock()

    identity = "one client"

    async def request(self, refresh_token: str | None = None) -> Token:
        now = self._clock.now()
        self.asked.append(now)
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT), self._workers:
                await asyncio.sleep(0.02 if self.down else EMR_ANSWERS)
        except TimeoutError:
            raise TokenEndpointUnavailable("slow", retry_after=1.0) from None
        if self.down:
            raise TokenEndpointUnavailable("down", retry_after=1.0)
        self.issued += 1
        return Token(str(self.issued), LIFETIME, now, now)

    async def close(self) -> None:
        pass

    def accepts(self, token: Token) -> bool:
        return int(token.access_token) > self.revoked


@dataclass
class Costs:
    """What a question costs the store's one thread, in seconds, with what comes with it; and in commands."""

    connect: float
    look: float
    script: float
    commands: dict[str, int] = field(
        default_factory=lambda: {"connect": 3, "look": 4, "lease": 1, "script": 3}
    )


class Store:
    """One thread that works off what it is asked; `asked`: when, how many commands. Who waits too long gives
    up, but is served all the same."""

    def __init__(self, costs: Costs) -> None:
        self.down = False
        self.asked: list[tuple[float, int]] = []
        self.gave_up = 0
        self.busy = 0.0  # s, all in all
        self.values: dict[str, tuple[bytes, float]] = {}
        self._costs = costs
        self._free_at = 0.0
        self._clock = LoopClock()

    async def work(self, seconds: float, commands: int) -> None:
        now = self._clock.now()
        if self.down:
            await asyncio.sleep(TIMEOUT)
            raise StoreError("down", "")
        self.asked.append((now, commands))
        self.busy += seconds
        self._free_at = max(now, self._free_at) + seconds
        wait = ROUND_TRIP + self._free_at - now
        await asyncio.sleep(min(wait, TIMEOUT))
        if wait > TIMEOUT:
            self.gave_up += 1
            raise StoreError("slow", "")

    def get(self, name: str) -> tuple[bytes, float] | None:
        value = self.values.get(name)
        return value if value and value[1] > self._clock.now() else None

    def put(self, name: str, value: bytes, seconds: float) -> None:
        self.values[name] = value, self._clock.now() + seconds


class Client:
    """What RedisStore is to a replica."""

    def __init__(self, store: Store, costs: Costs) -> None:
        self._store, self._costs = store, costs
        self._connected = False

    async def _ask(self, seconds: float, kind: str) -> None:
        commands = self._costs.commands[kind]
        if not self._connected:
            seconds, commands = seconds + self._costs.connect, commands + self._costs.commands["connect"]
        try:
            await self._store.work(seconds, commands)
            self._connected = True
        except StoreError:
            self._connected = False
            raise

    async def look(self, names: Sequence[str]) -> list[Left | None]:
        await self._ask(self._costs.look, "look")
        now = asyncio.get_running_loop().time()
        found = (self._store.get(name) for name in names)
        return [(each[0], each[1] - now) if each else None for each in found]

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        await self._ask(self._costs.script, "lease")
        if self._store.get("lease " + name):
            return False
        self._store.put("lease " + name, holder.encode(), seconds)
        return True

    async def renew(self, name: str, holder: str, seconds: float) -> bool:
        return await self._if_mine(name, holder, seconds)

    async def release(self, name: str, holder: str) -> bool:
        return await self._if_mine(name, holder, 0.0)

    async def publish(self, name: str, holder: str, value: bytes, seconds: float) -> bool:
        mine = await self._if_mine(name, holder, 0.0)
        if mine:
            self._store.put(name, value, seconds)
        return mine

    async def offer(self, name: str, seen: bytes, value: bytes, seconds: float) -> bool:
        await self._ask(self._costs.script, "script")
        there = self._store.get(name)
        unchanged = (there[0] if there else b"") == seen
        if unchanged:
            self._store.put(name, value, seconds)
        return unchanged

    async def _if_mine(self, name: str, holder: str, seconds: float) -> bool:
        await self._ask(self._costs.script, "script")
        lease = self._store.get("lease " + name)
        mine = lease is not None and lease[0] == holder.encode()
        if mine:
            self._store.put("lease " + name, holder.encode(), seconds)
        return mine

    async def rest(self) -> None:
        self._connected = False


class Sidecars:
    """`number` of them, with a store or each by itself. Jitter can be taken away, to see what it does."""

    def __init__(self, number: int, costs: Costs | None, *, jitter: bool = True) -> None:
        self.emr, self.clock = Emr(), LoopClock()
        self.store = Store(costs) if costs else None
        self.refused = 0  # requests of callers that got no token
        self._random = random.Random(7)
        self._seal = Seal(["k" * 32])
        drawn = self._random.random if jitter else lambda: 0.5
        self.sources = [
            TokenSource(self._grant(costs), refresh_margin=MARGIN, clock=self.clock, random=drawn)
            for _ in range(number)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def _grant(self, costs: Costs | None) -> TokenGrant:
        if costs is None or self.store is None:
            return self.emr
        return SharedGrant(
            self.emr,
            store=cast(RedisStore, Client(self.store, costs)),
            seal=self._seal,
            refresh_margin=MARGIN,
            patience=TOKEN_TIMEOUT,
            clock=self.clock,
        )

    def start(self, within: float) -> None:
        """All of them, spread evenly over so many seconds."""
        self._tasks = [
            asyncio.create_task(self._start(source, within * number / len(self.sources)))
            for number, source in enumerate(self.sources)
        ]

    async def _start(self, source: TokenSource, after: float) -> None:
        await asyncio.sleep(after)
        await source.run()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self.sources:
            await source.close()

    async def revoke(self, every: float) -> list[float]:
        """All tokens are void now, and each sidecar is called `every` so many seconds; for each, how long it
        was until a request went well."""
        self.emr.revoked = self.emr.issued
        began = self.clock.now()
        return [
            at - began
            for at in await asyncio.gather(
                *(self._called(source, self._random.random() * every, every) for source in self.sources)
            )
        ]

    async def _called(self, source: TokenSource, first: float, every: float) -> float:
        await asyncio.sleep(first)
        while True:
            sent = self.clock.now()
            try:
                token: Token | None = await source.get()
                assert token
                if not self.emr.accepts(token):
                    token = await source.replace(token, sent)
                if token and self.emr.accepts(token):
                    source.accepted(token, self.clock.now())
                    return self.clock.now()
            except TokenError:
                pass
            self.refused += 1
            await asyncio.sleep(every)
