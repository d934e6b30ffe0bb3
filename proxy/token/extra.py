"""The door to what needs the extra `redis`, which is not small: only a shared store has it imported."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.token.store import RedisStore


def open_store(url: str, password: str | None) -> "RedisStore":
    """The store, not asked yet. Raises ValueError with a complaint that fits behind "token_store: "."""
    try:
        from proxy.token.store import RedisStore
    except ImportError:
        raise ValueError(
            "a shared store needs the extra redis: pip install '.[redis]' in a clone of fumage-proxy"
        ) from None
    return RedisStore(url, password=password)
