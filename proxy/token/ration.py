"""The ration of forced fetches: a path that always answers 401 must not become a flood of token requests."""

from proxy.token.answer import NEVER, Token

WINDOW = 30.0  # s
STRIKES = 2  # forced fetches within WINDOW whose tokens were rejected too
BLOCK, LONGEST_BLOCK = 30.0, 600.0  # s


class Ration:
    """Whether the rejection of the current token may cause a fetch. Times in seconds by the boot clock.

    A strike is a forced token that was of no use: the replay with it was rejected too, or its first answer
    was a 401. One that served and was then revoked is none, however soon that was. Strikes are dated by their
    fetch, and outlive a reset, so that good traffic on other paths, which resets at every fresh token, cannot
    buy an always-401 path more than STRIKES fetches per WINDOW.
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

    def rejected(self, token: Token, now: float, *, replay: bool = False) -> bool:
        """A request sent with `token` (`replay`: its second try) got a 401; whether that began a block."""
        token.rejected = True
        if token.struck or not token.forced or not (replay or token.accepted_at == NEVER):
            return False
        token.struck = True
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
