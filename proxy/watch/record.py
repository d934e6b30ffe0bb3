"""What is known of one request when it is over."""

from typing import Final

from proxy.rules.fhir import NO_ROUTE, route

# What a log line or a label says of a method; all others are `other`.
METHODS: Final = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}


class Record:
    """One request, for its log line and its figures. Times in seconds by the clock that `started` is of.

    Holds what must not be logged (query, request_id): only `watch` decides what leaves the process.
    """

    __slots__ = (
        "abandoned",
        "broken",
        "correlation_id",
        "defect",
        "ended",
        "error",
        "method",
        "origin",
        "own_id",
        "query",
        "replay",
        "replayed",
        "request_bytes",
        "request_id",
        "response_bytes",
        "route",
        "started",
        "status",
        "upstream_seconds",
    )

    def __init__(
        self, started: float, method: bytes, target: bytes, request_id: bytes, *, own_id: bool = False
    ):
        self.started = started
        self.ended = started
        self.method = method
        self.request_id = request_id
        self.own_id = own_id  # `request_id` is not the caller's
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
        path, _, self.query = target.partition(b"?")
        # What it asks for, in words of closed lists, whatever it said.
        self.route = route(method, path) if path else NO_ROUTE

    @property
    def well(self) -> bool:
        """Nothing went wrong on our side of it."""
        return self.error is None and self.broken is None and not self.abandoned and self.defect is None
