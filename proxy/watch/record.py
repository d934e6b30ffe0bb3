"""What is known of one request when it is over."""

from proxy.rules.fhir import NO_ROUTE, Route, route

# What a log line or a label says of a method; all others are `other`.
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class Record:
    """One request, for its log line and its figures. Times in seconds by the clock that `started` is of.

    Holds what must not be logged (`target`, `request_id`): only `watch` decides what leaves the process.
    """

    __slots__ = (
        "_asked_at",
        "_route",
        "abandoned",
        "broken",
        "correlation_id",
        "defect",
        "ended",
        "error",
        "method",
        "origin",
        "replay",
        "replayed",
        "request_bytes",
        "request_id",
        "response_bytes",
        "started",
        "status",
        "target",
        "upstream_seconds",
    )

    def __init__(self, started: float, method: bytes, target: bytes, request_id: bytes):
        self.started = started
        self.ended = started
        self.method = method
        self.target = target
        self.request_id = request_id
        self.status = 0  # 0: the caller was gone before an answer began
        self.origin = ""  # "fumage" or "proxy": whose answer it was
        self.upstream_seconds = 0.0  # waiting for heads of answers, replays included
        self.request_bytes = 0
        self.response_bytes = 0
        self.replay = ""  # ok, rejected, suppressed, too_large, no_token; empty also if the replay broke off
        self.replayed = False  # after a 401 it went out once more
        self.correlation_id: bytes | None = None
        self.error: Exception | None = None  # what the proxy answered with
        self.broken: Exception | None = None  # why an answer was broken off
        self.abandoned = False  # the caller was gone before the end of its answer
        self.defect: Exception | None = None
        self._asked_at = 0.0
        self._route: Route | None = None

    @property
    def route(self) -> Route:
        """What the request asks for, in words of closed lists, whatever it said; found once."""
        if self._route is None:
            path = self.target.partition(b"?")[0]
            self._route = route(self.method, path) if path else NO_ROUTE
        return self._route

    def asked(self, now: float) -> float:
        """Note that the request went out; returns `now`."""
        self._asked_at = now
        return now

    def answered(self, now: float) -> None:
        """Note that the head of its answer is here."""
        self.upstream_seconds += now - self._asked_at
