"""How long a token is used, and when it is refreshed."""

from dataclasses import dataclass

from proxy.token.answer import Token

MARGIN_SHARE = 0.2  # of the lifetime: a fixed margin would eat a short one whole
JITTER = 0.1  # of half the lifetime, either way
GAP = 1.0  # s between an answer and the next request that nobody forces, however short the lifetime


def usable(lifetime: float, margin: float) -> float:
    """The seconds, from its request on, in which a token is handed out."""
    return lifetime - min(margin, lifetime * MARGIN_SHARE)


@dataclass(slots=True, frozen=True)
class Held:
    """A token with its times, each by the boot clock and by the wall clock: whichever comes first counts."""

    token: Token
    use_by: float
    use_by_wall: float
    refresh_at: float
    refresh_at_wall: float

    @classmethod
    def of(cls, token: Token, *, margin: float, now: float, jitter: float) -> "Held":
        """`now` by the boot clock, `jitter` in [0, 1)."""
        use = usable(token.lifetime, margin)
        half = token.lifetime / 2 * (1 - JITTER + 2 * JITTER * jitter)
        # GAP from now, not from the request: if the EMR caches tokens and answers with what is left of one,
        # half of that, and half again, would end in a spin.
        refresh = max(half, now - token.requested_at + GAP)
        return cls(
            token,
            use_by=token.requested_at + use,
            use_by_wall=token.requested_wall + use,
            refresh_at=token.requested_at + refresh,
            refresh_at_wall=token.requested_wall + refresh,
        )
