"""What of new settings can be taken up while the proxy runs, and what has to wait for a restart."""

from dataclasses import dataclass, replace

from proxy.settings.keys import KEYS, Settings

# They belong to one EMR: where another one is wanted, the old one must not be shown them.
CREDENTIALS = frozenset(
    ("client_id", "client_secret", "client_secret_file", "scope", "patient", "client_auth", "token_timeout")
)
_WHERE = ("base_url", "token_url")

# All others are in sockets, connections, certificates or the token's store, which are made once.
LIVE = CREDENTIALS | {
    "allow",
    "allowed_hosts",
    "allowed_origins",
    "links",
    "response_timeout",
    "idle_timeout",
    "client_timeout",
    "client_keepalive",
    "max_clients",
    "max_head",
    "max_body",
    "replay_limit",
    "replay_memory",
    "drain_delay",
    "drain_timeout",
    "log_level",
    "log_format",
}


@dataclass(frozen=True)
class Change:
    """`settings` are what can hold from now on: the new ones, except for the keys that `restart` names."""

    settings: Settings
    live: tuple[str, ...]
    restart: tuple[str, ...]


def compare(running: Settings, wanted: Settings) -> Change:
    """What becomes of a running proxy's settings when others are wanted."""
    changed = [name for name in KEYS if getattr(wanted, name) != getattr(running, name)]
    possible = LIVE if not set(_WHERE) & set(changed) else LIVE - CREDENTIALS
    live = tuple(name for name in changed if name in possible)
    return Change(
        replace(running, **{name: getattr(wanted, name) for name in live}),
        live,
        tuple(name for name in changed if name not in possible),
    )
