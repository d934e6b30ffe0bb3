"""One token for all replicas: looked for in a shared store first, and fetched by one of them only.

To be imported only when there is a store: it needs the extra `redis`.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable, Hashable
from typing import Literal

from proxy.clock import Clock
from proxy.token.answer import VISIBLE, Token
from proxy.token.held import usable
from proxy.token.seal import Seal
from proxy.token.source import TokenGrant
from proxy.token.store import RedisStore, StoreError

LEASE = 3.0  # s: what a replica that dies while it fetches costs the others
RENEWAL = 1.0  # s
NAP, LONGEST_NAP = 0.05, 0.5  # s between two looks while another fetches, doubling

# Of each token that is had, one of: hit, the store's was taken; fetched, this replica's was published;
# fallback, the EMR is asked without the store, or the token could not be published, for this reason. And:
# waited, another held the lease; unreadable, not sealed with our keys for us.
StoreEvent = Literal["hit", "fetched", "fallback", "waited", "unreadable"]

_SLOW = (
    "The replica that is to fetch the token takes too long.",
    "Look at that replica's log, or at the EMR: it is slow or down.",
)
_LAPSED = ("The lease ran out before the token was there.", f"This process stood still for over {LEASE:g} s.")
_UNREADABLE = (
    "A token in the store was not sealed with our keys for us.",
    "It is not used. If it comes back: who else writes to fumage-proxy:* there?",
)


class SharedGrant:
    """A grant whose tokens lie in a store, for all replicas of the same identity.

    Whoever asks wants another token than the last one that was handed out. So one that lies in the store is
    taken if it is newer; after a rejection, if it was fetched because of one. The store is never depended
    on: without it, or when nothing has come of another's lease for `patience` (s), `grant` is asked directly.
    """

    def __init__(
        self,
        grant: TokenGrant,
        *,
        store: RedisStore,
        seal: Seal,
        refresh_margin: float,
        patience: float,
        clock: Clock,
        observe: Callable[[StoreEvent, StoreError | None], None] = lambda event, why: None,
    ):
        self.identity = grant.identity
        self._grant = grant
        self._store = store
        self._seal = seal
        self._margin = refresh_margin
        self._patience = patience
        self._clock = clock
        self._observe = observe
        self._about = bound_to(grant.identity)
        self._names = seal.names(self._about)
        self._name = self._names[0]  # where we write; under the other keys we only look
        self._handed: list[Token] = []  # what was handed out and has not run out
        self._seen = b""  # what lay there when we looked last
        self._unreadable: bytes | None = None  # the last that was told

    async def request(self, refresh_token: str | None = None) -> Token:
        """Raises TokenError."""
        now = self._clock.now()
        self._handed = [token for token in self._handed if now < token.requested_at + token.lifetime]
        token: Token | None = None
        try:
            token = await self._shared(refresh_token)
        except StoreError as error:
            self._observe("fallback", error)
        finally:
            await self._store.rest()
        if token is None:
            token = await self._grant.request(refresh_token)
        self._handed.append(token)
        return token

    async def close(self) -> None:
        await self._store.rest()  # a request that was cancelled may have been cancelled while it did that
        await self._grant.close()

    async def _shared(self, refresh_token: str | None) -> Token:
        until = self._clock.now() + self._patience
        nap = NAP
        while (token := await self._look()) is None:
            holder = secrets.token_hex(16)
            if await self._store.lease(self._name, holder, LEASE):
                return await self._fetch(holder, refresh_token)
            if nap == NAP:
                self._observe("waited", None)
            if self._clock.now() >= until:
                return await self._fetch_beside(refresh_token)
            await self._clock.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP)
        self._observe("hit", None)
        return token

    async def _fetch(self, holder: str, refresh_token: str | None) -> Token:
        renewing = asyncio.create_task(self._renew(holder))
        published = False
        try:
            token = await self._look()  # it may have been published between our look and our lease
            if token is None:
                token = await self._grant.request(refresh_token)
                token.forced = self._rejected()
                published = await self._publish(token, holder)
            else:
                self._observe("hit", None)
            return token
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])
            if not published:
                with contextlib.suppress(StoreError):  # then it lapses
                    await self._store.release(self._name, holder)

    async def _fetch_beside(self, refresh_token: str | None) -> Token:
        # The lease is another's, and nothing comes of it: perhaps the EMR is overloaded. Then the first token
        # that anybody gets has to reach all, or they would go on asking for one each.
        self._observe("fallback", StoreError(*_SLOW))
        token = await self._grant.request(refresh_token)
        token.forced = self._rejected()
        left = self._left(token)
        if left > 0:
            with contextlib.suppress(StoreError):
                await self._store.offer(self._name, self._seen, self._sealed(token), left)
        return token

    async def _renew(self, holder: str) -> None:
        while True:
            await self._clock.sleep(RENEWAL)
            with contextlib.suppress(StoreError):  # if it lapses, nothing will be published
                await self._store.renew(self._name, holder, LEASE)

    async def _publish(self, token: Token, holder: str) -> bool:
        left = self._left(token)
        why = StoreError(*_LAPSED)
        try:
            if left > 0 and await self._store.publish(self._name, holder, self._sealed(token), left):
                self._observe("fetched", None)
                return True
        except StoreError as error:
            why = error
        self._observe("fallback", why)
        return False

    def _left(self, token: Token) -> float:
        return token.requested_at + token.lifetime - self._clock.now()

    def _sealed(self, token: Token) -> bytes:
        # Less the refresh token: it is used once, by whom it was given to.
        told = {
            "access_token": token.access_token,
            "lifetime": token.lifetime,
            "expires_at": token.requested_wall + token.lifetime,
            "forced": token.forced,
        }
        return self._seal.seal(self._about, json.dumps(told).encode())

    async def _look(self) -> Token | None:
        now, wall = self._clock.now(), self._clock.wall()  # before the look, so that its time counts as well
        found = await self._store.look(self._names)
        self._seen = found[0][0] if found[0] else b""
        for sealed, left in filter(None, found):
            plain = self._seal.open(self._about, sealed)
            # Without an end in the store it was not put there by us as it is.
            token = told_token(plain, left, now, wall) if plain and left >= 0 else None
            if token is None:
                self._tell_unreadable(sealed)
            elif self._wanted(token, now):
                return token
        return None

    def _wanted(self, token: Token, now: float) -> bool:
        if now >= token.requested_at + usable(token.lifetime, self._margin):
            return False
        # Whoever can write to the store can put back what lay there once.
        if any(old.rejected and old.access_token == token.access_token for old in self._handed):
            return False
        if not self._handed:
            return True
        if self._rejected():
            # One that another replica got by its scheduled refresh may have died with the rejected one. Times
            # do not tell: clocks differ.
            return token.forced
        last = self._handed[-1]
        return token.access_token != last.access_token and token.requested_at > last.requested_at

    def _rejected(self) -> bool:
        return bool(self._handed) and self._handed[-1].rejected

    def _tell_unreadable(self, sealed: bytes) -> None:
        if sealed != self._unreadable:
            self._unreadable = sealed
            self._observe("unreadable", StoreError(*_UNREADABLE))


def bound_to(identity: Hashable) -> bytes:
    """What tokens of this identity are named by and sealed for."""
    return json.dumps(identity).encode()


def told_token(plain: bytes, left: float, now: float, wall: float) -> Token | None:
    """The token that was published; its times by our clocks, by what is left of it: the less of what our
    wall clock says, which may differ from the publisher's, and of what the store says."""
    try:
        told = json.loads(plain)
        lifetime = float(told["lifetime"])
        if not VISIBLE.fullmatch(told["access_token"]):
            return None
        age = max(0.0, lifetime - min(float(told["expires_at"]) - wall, left))
        token = Token(told["access_token"], lifetime, now - age, wall - age)
        token.forced = bool(told["forced"])
        return token
    except (ValueError, TypeError, KeyError, AttributeError):  # of another version
        return None
