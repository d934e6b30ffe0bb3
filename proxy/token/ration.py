"""The ration of forced fetches: a path that always answers 401 must not become a flood of token requests."""

from proxy.token.answer import NEVER, Token

WINDOW = 30.0  # s
STRIKES = 2  # forced fetches within WINDOW whose tokens were rejected too
BLOCK, LONGEST_BLOCK = 30.0, 600.0  # s


class Ration:
    """Whether the rejection of the current token may cause a fetch. Times in seconds by the boot clock.

    Strikes are dated by their fetch: a forced token that served for hours before it was revoked has none
    beside it. They outlive a reset, so that good traffic on other paths, which resets at every fresh token,
    cannot buy an always-401 path more than STRIKES fetches per WINDOW.
    """

    def __init__(self) -> None:
        self._strikes: list[float] = []
        self._block = 0.0  # length of the current or last block; 0 when there is none
        self._began = NEVER
        self._until = NEVER

    def allows(self, now: float) -> bool:
        """Whether a forced fetch may be made. After a block this is the probe: one, as its token's first
        rejection blocks again."""
        return now >= self._until

    def rejected(self, token: Token, now: float) -> bool:
        """A request sent with `token` got a 401; tells whether that began a block. Counts once a token."""
        if token.rejected:
            return False
        token.rejected = True
        if not token.forced:
            return False
        if self._block:
            is_probe = token.requested_at >= self._until
            return is_probe and self._begin(min(2 * self._block, LONGEST_BLOCK), now)
        self._strikes = [at for at in self._strikes if token.requested_at - at < WINDOW]
        self._strikes.append(token.requested_at)
        return len(self._strikes) >= STRIKES and self._begin(BLOCK, now)

    def accepted(self, token: Token) -> None:
        """The first answer other than 401 came to a request sent with `token`."""
        if self._block and not token.rejected and token.requested_at >= self._began:
            self._block = 0.0
            self._until = NEVER

    def _begin(self, block: float, now: float) -> bool:
        self._block = block
        self._began = now
        self._until = now + block
        return True
