"""Rotation of the client secret: its file is watched, and a new secret is tried before it is used."""

import random as _random
from collections.abc import Callable
from typing import Literal

from proxy.clock import Clock
from proxy.rules.errors import TokenError
from proxy.token.pause import Pause
from proxy.token.source import TokenGrant, TokenSource

POLL = 5.0  # s; with the token request it stays within the 15 s that are promised

Event = Literal["rotated", "rotation failed"]


class Rotation:
    """Hands a new secret's grant to the source.

    `secret` is the one in use. `read` gives the file's or raises ValueError, in words free of secrets.
    `on_event` is told of each change, and once of each new secret that cannot be used, with the reason.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        secret: str,
        read: Callable[[], str],
        make_grant: Callable[[str], TokenGrant],
        clock: Clock,
        random: Callable[[], float] = _random.random,
        on_event: Callable[[Event, str | None], None] = lambda event, why: None,
    ):
        self._source = source
        self.secret = secret
        self._read = read
        self._make_grant = make_grant
        self._clock = clock
        self._random = random
        self._on_event = on_event
        self._candidate: str | None = None  # the last secret that was tried
        self._pause = Pause()  # between two tries of it
        self._reported: object = None

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self._clock.sleep(POLL)
            # Read, not only stat'ed: it is as cheap, and sees what Kubernetes changes, a symlink two
            # directories up, and a write that leaves the time stamp as it was.
            try:
                secret = self._read()
            except ValueError as error:
                self._failed(str(error), str(error))
                continue
            if secret == self.secret:
                self._reported = None
            else:
                await self._try(secret)

    async def _try(self, secret: str) -> None:
        if secret != self._candidate:
            self._candidate, self._pause = secret, Pause()
        if self._pause.left(self._clock.now()) > 0:
            return
        failure = await self._source.adopt(self._make_grant(secret))
        if failure is None:
            self.secret, self._candidate, self._reported = secret, None, None
            self._on_event("rotated", None)
        else:
            # Tried again later, refused or not: secrets are often written before the EMR knows them.
            self._pause.failed(failure, self._clock.now(), self._random())
            self._failed((secret, type(failure)), _told(failure))

    def _failed(self, what: object, why: str) -> None:
        if what != self._reported:
            self._reported = what
            self._on_event("rotation failed", why)


def _told(failure: TokenError) -> str:
    return f"{failure} {failure.advice}"
