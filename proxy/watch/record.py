"""What is known of one request when it is over."""


class Record:
    """One request, for its log line and its figures. Times in seconds by the clock that `started` is of.

    Holds what must not be logged (`target`, `request_id`): only `watch` decides what leaves the process.
    """

    __slots__ = (
        "_asked_at",
        "broken",
        "correlation_id",
        "defect",
        "ended",
        "error",
        "method",
        "origin",
        "replay",
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
        self.status = 0  # 0: the caller was gone before an answer
        self.origin = ""  # "fumage" or "proxy": whose answer it was
        self.upstream_seconds = 0.0  # waiting for heads of answers, replays included
        self.request_bytes = 0
        self.response_bytes = 0
        self.replay = ""  # ok, rejected, suppressed, too_large, no_token
        self.correlation_id: bytes | None = None
        self.error: Exception | None = None  # what the proxy answered with
        self.broken: Exception | None = None  # why an answer was broken off
        self.defect: Exception | None = None
        self._asked_at = 0.0

    def asked(self, now: float) -> float:
        """Note that the request went out; returns `now`."""
        self._asked_at = now
        return now

    def answered(self, now: float) -> None:
        """Note that the head of its answer is here."""
        self.upstream_seconds += now - self._asked_at
