"""What /status tells: a JSON object for people and scripts, without PHI and without secrets."""

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from proxy.admin.server import Health
from proxy.clock import Clock
from proxy.rules.errors import ProxyError
from proxy.token.source import TokenSource
from proxy.watch.metrics import Tally
from proxy.watch.recent import Figures, Recent, Trouble
from proxy.watch.sharing import Sharing

_FINGERPRINT = 6  # bytes; it tells two tokens apart, and is worth nothing to who sees it


@dataclass(kw_only=True)
class Status:
    """Puts /status together from the parts that know. `limits`: connections to Fumage, and of callers."""

    version: str
    base_url: str
    token_url: str
    health: Health
    tokens: TokenSource
    connections: Callable[[], Mapping[str, int]]
    callers: Callable[[], int]
    in_flight: Callable[[], int]
    limits: tuple[int, int]
    sharing: Sharing | None  # None: the token lies in memory
    tally: Tally
    recent: Recent
    clock: Clock
    listeners: list[str] = field(default_factory=list)  # known once they are bound
    admin_listeners: list[str] = field(default_factory=list)
    _key: bytes = field(default_factory=lambda: os.urandom(32))

    def tell(self) -> dict[str, Any]:
        """Times are UTC in ISO 8601, durations and latencies seconds."""
        now, (upstream, callers) = self.clock.now(), self.limits
        return {
            "version": self.version,
            "now": _iso(self.clock.wall()),
            "started_at": self._at(self.recent.started),
            "uptime": round(now - self.recent.started, 3),
            "started": self.health.startup() is None,  # the first token was obtained
            "draining": self.health.draining,
            "ready": self.health.readiness() is None,
            "reason": self.health.readiness(),  # why it is not ready
            "base_url": self.base_url,
            "token_url": self.token_url,
            "listeners": self.listeners,
            "admin_listeners": self.admin_listeners,
            "token": self._token(),
            "token_store": self._token_store(self.sharing) if self.sharing else None,
            "in_flight": self.in_flight(),
            "connections": {**self.connections(), "limit": upstream},
            "callers": {"open": self.callers(), "limit": callers},
            "replays": self.tally.replays,
            "windows": [self._window(each) for each in self.recent.windows()],
            "errors": [self._trouble(each) for each in self.recent.troubles],
        }

    def _token(self) -> dict[str, Any]:
        token, error = self.tokens.current(), self.tokens.last_error
        return {
            "fingerprint": self._fingerprint(token.authorization) if token else None,
            "obtained_at": _iso(token.requested_wall) if token else None,
            "expires_at": _iso(token.requested_wall + token.lifetime) if token else None,
            "lifetime": token.lifetime if token else None,
            "next_refresh_at": _iso(self.tokens.next_refresh_wall),
            "error": _error(error) if error else None,  # why the last token request failed
        }

    def _token_store(self, sharing: Sharing) -> dict[str, Any]:
        outcome, at = sharing.last or (None, None)
        since, why = sharing.failing_since, sharing.why
        return {
            "url": sharing.where,
            "last_outcome": outcome,  # hit, fetched (for all), fallback (asked for without it)
            "last_at": at and _iso(at),
            "failing_since": since and _iso(since),
            "error": {"error": why[0], "advice": why[1]} if why else None,
            "hits": self.tally.store_outcomes["hit"],
            "fetched": self.tally.store_outcomes["fetched"],
            "fallbacks": self.tally.store_outcomes["fallback"],
            "waits": self.tally.store_waits,  # for another replica's lease
            "unreadable": self.tally.store_unreadable,  # values not sealed with our keys for us
        }

    def _fingerprint(self, secret: bytes) -> str:
        return hmac.digest(self._key, secret, "sha256")[:_FINGERPRINT].hex()

    def _window(self, figures: Figures) -> dict[str, Any]:
        return {
            "start": self._at(figures.start),
            "seconds": round(figures.seconds, 3),  # the last one is not over yet
            "requests": figures.requests,
            "errors": figures.errors,
            "requests_per_second": _rate(figures.requests, figures.seconds),
            "errors_per_second": _rate(figures.errors, figures.seconds),
            "latency": {name: value and round(value, 5) for name, value in figures.latency.items()},
        }

    def _trouble(self, trouble: Trouble) -> dict[str, Any]:
        return {
            "at": self._at(trouble.at),
            "count": trouble.count,
            "method": trouble.method,
            "route": trouble.route,
            "status": trouble.status,
            "code": trouble.code,  # of Proxy-Status; none if Fumage itself answered so
            "details": trouble.details,
            "error": trouble.error,
            "advice": trouble.advice,
        }

    def _at(self, when: float) -> str:
        return _iso(self.clock.wall() - (self.clock.now() - when))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 3) if seconds >= 1 else None


def _error(error: ProxyError) -> dict[str, str]:
    return {"code": error.error, "error": str(error), "culprit": error.culprit, "advice": error.advice}
