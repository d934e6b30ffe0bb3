"""The shared token store: written and read as a replica does it, and what lies there for these credentials.

To be imported only when there is one: it needs the extra `redis`.
"""

import os
import secrets
from collections.abc import Hashable

from proxy.check.clock import spoken
from proxy.check.report import Finding, good, warning
from proxy.clock import Clock
from proxy.settings import Settings, mask_url
from proxy.token.seal import Seal
from proxy.token.shared import bound_to, told_token
from proxy.token.store import RedisStore, StoreError

_PROBE = 5.0  # s that a probe lies there at most
_LAGS = (
    "The token store does not give back what was just written there.",
    "Let token_store name one server, not several of which some lag behind.",
)
_FOREIGN = (
    "what lies there for these credentials was not sealed with token_store_key, and is not used",
    "Who else writes to fumage-proxy:* there? The next token replaces it.",
)


async def prove(store: RedisStore, settings: Settings, identity: Hashable, clock: Clock) -> Finding:
    """What is wrong is a warning: without the store each replica gets a token of its own."""
    where, seal = mask_url(settings.token_store), Seal(settings.token_store_key or ())
    try:
        await _write_and_read(store, seal)
        told = await _lying(store, seal, bound_to(identity), clock)
    except StoreError as error:
        what = str(error).removeprefix("The token store ").removesuffix(".")
        advice = f"{error.advice} Meanwhile each replica gets a token of its own."
        return warning(f"{where} {what}", advice)
    finally:
        await store.rest()
    if told is None:
        return warning(f"{where}: {_FOREIGN[0]}", _FOREIGN[1])
    return good(f"{where}: written and read; {told}")


async def _write_and_read(store: RedisStore, seal: Seal) -> None:
    # All that a replica does, under a name that nobody has.
    (name, *_), holder = seal.names(os.urandom(16)), secrets.token_hex(16)
    value = os.urandom(16)
    await store.lease(name, holder, _PROBE)
    await store.renew(name, holder, _PROBE)
    await store.publish(name, holder, value, _PROBE)
    (found,) = await store.look([name])
    if found is None or found[0] != value:
        raise StoreError(*_LAGS)
    await store.release(name, holder)


async def _lying(store: RedisStore, seal: Seal, about: bytes, clock: Clock) -> str | None:
    """What lies there, in words; None for what is not ours."""
    now, wall = clock.now(), clock.wall()
    names = seal.names(about)
    for number, name in enumerate(names, 1):
        for sealed, left in filter(None, await store.look([name])):
            plain = seal.open(about, sealed)
            token = told_token(plain, left, now, wall) if plain and left >= 0 else None
            if token is None:
                return None
            which = f" (key {number} of {len(names)})" if len(names) > 1 else ""
            return f"a token lies there{which}, valid for {spoken(token.requested_at + token.lifetime - now)}"
    return "no token lies there (if replicas run, their credentials, settings or token_store_key differ)"
