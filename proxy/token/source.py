"""The current token: single flight, refresh ahead, replacement of a rejected one."""

import asyncio
import copy
import random as _random
from collections.abc import Callable, Hashable
from typing import Literal, Protocol

from cachetools import Cache

from proxy.clock import Clock
from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import NEVER, Token
from proxy.token.held import GAP, Held
from proxy.token.pause import Pause
from proxy.token.ration import Ration

NAP = 60.0  # s between two looks at the wall clock, which may have been set

Event = Literal["obtained", "failed", "set aside", "restored", "rationed"]


class TokenGrant(Protocol):
    """One way of getting a token; `identity` holds all that tells its tokens from another's."""

    @property
    def identity(self) -> Hashable: ...

    async def request(self, refresh_token: str | None = None) -> Token: ...

    async def close(self) -> None: ...


class TokenSource:
    """Hands out one token to all callers.

    `refresh_margin` (s): a token with less than that left is not handed out. `random` in [0, 1). `on_event`
    is told what the log should know, with the error if there is one.
    """

    def __init__(
        self,
        grant: TokenGrant,
        *,
        refresh_margin: float,
        clock: Clock,
        random: Callable[[], float] = _random.random,
        on_event: Callable[[Event, TokenError | None], None] = lambda event, error: None,
    ):
        self.started = False  # the first token was obtained
        self._grant = grant
        self._key = grant.identity
        self._margin = refresh_margin
        self._clock = clock
        self._now, self._wall = clock.now, clock.wall
        self._random = random
        self._on_event = on_event
        # By the grant's identity; when its time is over, `_holding` says: the timed caches know one clock.
        self._cache: Cache[Hashable, Held] = Cache(1)
        self._refresh_token: str | None = None
        self._pause = Pause()
        self._ration = Ration()
        self._fetch: asyncio.Task[TokenError | None] | None = None
        self._nap: asyncio.Task[None] | None = None
        # The rejected token, until another takes its place, and when the last of those it failed was sent.
        self._aside: Held | None = None
        self._aside_sent = NEVER

    def current(self) -> Token | None:
        """The token to send now, if there is one that both clocks allow. Called for every request."""
        held = self._holding()
        return held.token if held else None

    async def get(self) -> Token:
        """The current token, or the one that the shared fetch brings; raises TokenError."""
        token = self.current()
        if token is None:
            failure = await self._fetched()
            token = self.current()  # after a failure too: one that was set aside may be back
            if token is None:
                raise self._again(failure)
        return token

    async def replace(self, rejected: Token, sent_at: float) -> Token | None:
        """A token to replay with, after a request sent at `sent_at` (boot clock) with `rejected` got a 401.

        None: forced fetches are rationed, the 401 is to be passed on. Raises TokenError.
        """
        self._count(rejected)
        current = self.current()
        if current is rejected:
            if not self._ration.allows(self._now()):
                return None
            self._set_aside(sent_at)
        elif current is not None:
            return current
        elif self._aside and self._aside.token is rejected:
            self._aside_sent = max(self._aside_sent, sent_at)
        failure = await self._fetched()
        current = self.current()
        if current is None or current is rejected:  # it may serve others on, but not this request
            raise self._again(failure)
        return current

    def accepted(self, token: Token, now: float) -> None:
        """A request sent with `token` got an answer other than 401, `now` (boot clock)."""
        if token.accepted_at == NEVER:
            self._ration.accepted(token)
        token.accepted_at = now
        if self._aside and not self._fetching():
            self._restore()

    def rejected_again(self, token: Token) -> None:
        """The replay with this token got a 401 as well, which is passed on."""
        self._count(token, replay=True)

    async def adopt(self, grant: TokenGrant) -> TokenError | None:
        """Let `grant` prove itself with a token, then put it in the old one's place; returns why not.

        Until then, and if it fails, the old one serves undisturbed. Closes the one that is not needed.
        """
        unused = grant
        failure: TokenError | None = None
        end: BaseException | None = None
        try:
            token = await grant.request()
            old = self._grant
            failure = self._take(token, grant)
            if failure is None:
                unused = old
                await self._give_up()  # those who waited for the old grant find the new token
        except TokenError as exc:
            failure = exc.with_traceback(None)
        except BaseException as exc:  # cancelled, say; not a `finally`, which must not wait here (setup.py)
            end = exc
        await unused.close()
        if end is not None:
            raise end
        self._wake()
        return failure

    async def run(self) -> None:
        """Keep a valid token at hand, from now on and until cancelled."""
        while True:
            wait = self._until_refresh()
            if wait > 0:
                await self._sleep(min(wait, NAP))
            else:
                await self._fetched()

    @property
    def expires_at_wall(self) -> float | None:
        """When the current token expires, in seconds since the epoch; None without one."""
        held = self._holding()
        return held.token.requested_wall + held.token.lifetime if held else None

    @property
    def next_refresh_wall(self) -> float:
        """When the next token request is due, in seconds since the epoch; now while one is under way."""
        return self._wall() + max(0.0, self._until_refresh())

    @property
    def last_error(self) -> TokenError | None:
        """Why the last token request failed; None since one succeeded."""
        return self._pause.error

    async def close(self) -> None:
        """Give up what is under way; call it when nobody waits any more."""
        await self._give_up()
        await self._grant.close()

    def _holding(self) -> Held | None:
        try:
            held = self._cache[self._key]
        except KeyError:
            return None
        return held if self._now() < held.use_by and self._wall() < held.use_by_wall else None

    # --- the shared fetch ---

    def _fetching(self) -> bool:
        return self._fetch is not None and not self._fetch.done()

    async def _fetched(self) -> TokenError | None:
        """Join the fetch under way or start one; its failure, or that which an ongoing pause is for."""
        if self._fetch is None or self._fetch.done():
            now = self._now()
            if not self._pause.worth_waiting(now):
                self._restore()
                return self._pause.error
            self._fetch = asyncio.create_task(self._fetch_after(self._pause.left(now)))
        # Not awaited itself: whoever goes away, the others still want the token. The failure comes as a
        # value, for one exception raised in many places would collect all their tracebacks.
        fetch = self._fetch
        await asyncio.wait([fetch])
        return None if fetch.cancelled() else fetch.result()  # given up, when a new grant brought its token

    async def _fetch_after(self, delay: float) -> TokenError | None:
        if delay > 0:
            await self._clock.sleep(delay)
        failure: TokenError | None
        try:
            failure = self._take(await self._request(), self._grant)
        except TokenError as exc:
            failure = exc.with_traceback(None)
        if failure:
            self._pause.failed(failure, self._now(), self._random())
            self._restore()
            self._on_event("failed", failure)
        self._wake()
        return failure

    async def _give_up(self) -> None:
        if self._fetch and not self._fetch.done():
            self._fetch.cancel()
            await asyncio.wait([self._fetch])

    async def _request(self) -> Token:
        # Spent whatever comes of it: a lost answer does not tell whether the EMR has counted the use.
        refresh_token, self._refresh_token = self._refresh_token, None
        if refresh_token:
            try:
                return await self._grant.request(refresh_token)
            except CredentialsRefused:
                pass  # perhaps the refresh token alone is meant
        return await self._grant.request()

    def _take(self, token: Token, grant: TokenGrant) -> TokenError | None:
        now, wall = self._now(), self._wall()
        held = Held.of(token, margin=self._margin, now=now, jitter=self._random())
        if now >= held.use_by or wall >= held.use_by_wall:
            return TokenEndpointUnavailable("The EMR's token had run out when it arrived.")
        token.forced = self._aside is not None
        self._grant, self._key = grant, grant.identity
        self._cache[self._key] = held
        self._aside = None
        self._refresh_token = token.refresh_token
        self._pause.succeeded(not_before=now + GAP if held.use_by < now + GAP else now)
        self.started = True
        self._on_event("obtained", None)
        return None

    def _again(self, failure: TokenError | None) -> TokenError:
        """The failure as it is now: what is left of the pause is less for those that come later."""
        error = copy.copy(failure) or TokenEndpointUnavailable("The new token was rejected at once.")
        if error.retry_after is not None:
            error.retry_after = self._pause.left(self._now()) or 1.0
        return error

    # --- rejected tokens ---

    def _count(self, rejected: Token, *, replay: bool = False) -> None:
        if self._ration.rejected(rejected, self._now(), replay=replay):
            self._on_event("rationed", None)

    def _set_aside(self, sent_at: float) -> None:
        self._aside = self._cache.pop(self._key, None)
        self._aside_sent = sent_at
        self._on_event("set aside", None)
        self._wake()

    def _restore(self) -> None:
        """Let the token set aside serve on if it was accepted since: then a path is at fault, not it."""
        if self._aside and self._aside.token.accepted_at > self._aside_sent:
            self._cache[self._key] = self._aside
            self._aside = None
            self._on_event("restored", None)

    # --- refresh ahead ---

    def _until_refresh(self) -> float:
        now = self._now()
        left = self._pause.left(now)
        held = self._holding()
        if held is None:
            return left
        return max(left, min(held.refresh_at - now, held.refresh_at_wall - self._wall()))

    async def _sleep(self, seconds: float) -> None:
        self._nap = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait([self._nap])
            if not self._nap.cancelled():  # that is how it is woken
                self._nap.result()
        finally:
            self._nap.cancel()

    def _wake(self) -> None:
        """Have `run` look again: the time of the next fetch may have changed."""
        if self._nap:
            self._nap.cancel()
