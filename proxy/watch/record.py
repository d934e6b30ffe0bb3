"""What is known of one request when it is over."""

from proxy.rules.fhir import NO_ROUTE, Route, route

# What a log line or a label says of a method; all others are `other`.
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


class Record:
    """One request, for its log line and its figures. Times in seconds by the clock that `started` is of.

    Holds what must not be logged (`target`, `request_id`): only `watch` decides what leaves the process.
    """

    # What most requests leave as it is stands here, and is set on a record only where it is otherwise.
    status = 0  # 0: the caller was gone before an answer began
    origin = ""  # "fumage" or "proxy": whose answer it was
    upstream_seconds = 0.0  # waiting for heads of answers, replays included
    request_bytes = 0
    response_bytes = 0
    replay = ""  # ok, rejected, suppressed, too_large, no_token; empty also if the replay broke off
    replayed = False  # after a 401 it went out once more
    correlation_id: bytes | None = None
    error: Exception | None = None  # what the proxy answered with
    broken: Exception | None = None  # why an answer was broken off
    abandoned = False  # the caller was gone before the end of its answer
    defect: Exception | None = None
    _asked_at = 0.0
    _route: Route | None = None

    def __init__(self, started: float, method: bytes, target: bytes, request_id: bytes):
        self.started = started
        self.ended = started
        self.method = method
        self.target = target
        self.request_id = request_id

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
