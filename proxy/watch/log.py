"""The log: events as they happen, and one line a request. No PHI, no secret (contract: section 9 is the list)."""

import asyncio
import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import TextIO

from proxy.rules.errors import ProxyError
from proxy.rules.fhir import parameter_names, route
from proxy.watch.record import Record

_FLUSH = 0.1  # seconds that a request's line may wait for others, so that many lines are one write
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_OWN_ID = re.compile(rb"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CORRELATION_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")
_SAFE_REPLAYS = ("ok", "rejected")  # the outcomes in which the request went out twice


def _stamp(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = _where(record.exc_info[1])
        return json.dumps(fields)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record.created)} {record.levelname.lower():7} {record.getMessage()}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" [{_where(record.exc_info[1])}]"
        return line


def _where(error: BaseException | None) -> str:
    """The type of an exception and the lines that it came through, without its text, which may carry anything."""
    places: list[str] = []
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' '.join(places[-8:])}"


def as_json(log_format: str, stream: TextIO) -> bool:
    """Whether `log_format` (auto, text, json) means JSON lines on this stream."""
    return log_format == "json" or (log_format == "auto" and not stream.isatty())


def configure(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send the events of this package, and of the libraries from warning on, to `stream` (stderr)."""
    stream = stream if stream is not None else sys.stderr
    target = logging.StreamHandler(stream)
    target.setFormatter(_JSONLines() if as_json(log_format, stream) else _Text())
    root = logging.getLogger()
    root.handlers[:] = [target]
    root.setLevel(logging.WARNING)
    logging.getLogger("proxy").setLevel(level.upper())


class RequestLog:
    """Writes one line a request, formatted away from the request's path and many lines at a time."""

    def __init__(
        self, *, json_lines: bool, stream: TextIO, enabled: bool = True, wall: Callable[[], float] = time.time
    ):
        self._enabled = enabled
        self._format = self._json if json_lines else self._text
        self._stream = stream
        self._wall = wall
        self._key = os.urandom(32)
        self._waiting: list[tuple[float, Record]] = []

    def __call__(self, record: Record) -> None:
        if not (self._enabled or record.defect):
            return
        if not self._waiting:
            asyncio.get_running_loop().call_later(_FLUSH, self.flush)
        self._waiting.append((self._wall(), record))

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._stream.write("".join([self._format(when, record) for when, record in waiting]))
            self._stream.flush()

    def _request_id(self, value: bytes) -> str:
        if _OWN_ID.fullmatch(value):
            return value.decode("ascii")
        return "hash:" + hashlib.blake2b(value, key=self._key, digest_size=16).hexdigest()

    def fields(self, when: float, record: Record) -> dict[str, object]:
        """The fields of the line, in their order. Seconds and bytes."""
        path, _, query = record.target.partition(b"?")
        method = record.method.decode("latin-1")
        fields: dict[str, object] = {
            "time": _stamp(when),
            "level": "error" if record.defect is not None else "info",
            "message": "request",
            "request_id": self._request_id(record.request_id),
            "method": method if method in _METHODS else "other",
            "route": route(record.method, path).template,
            "parameters": parameter_names(query) if query else (),
            "status": record.status,
            "origin": record.origin,
            "duration": round(record.ended - record.started, 6),
            "upstream_duration": round(record.upstream_seconds, 6),
            "request_bytes": record.request_bytes,
            "response_bytes": record.response_bytes,
            "replayed": record.replay in _SAFE_REPLAYS,
            "fumage_correlation_id": None,
        }
        if record.correlation_id is not None and _CORRELATION_ID.fullmatch(record.correlation_id):
            fields["fumage_correlation_id"] = record.correlation_id.decode("ascii")
        if isinstance(error := record.error or record.broken, ProxyError):
            fields["error"] = error.error
            fields["reason"] = str(error)
        if record.broken is not None:
            fields["broken_off"] = True
        if record.defect is not None:
            fields["defect"] = _where(record.defect)
        return fields

    def _json(self, when: float, record: Record) -> str:
        return json.dumps(self.fields(when, record)) + "\n"

    def _text(self, when: float, record: Record) -> str:
        fields = self.fields(when, record)
        parameters = fields["parameters"]
        assert isinstance(parameters, tuple)
        line = f"{fields['time']} {fields['level']:7} {fields['method']} {fields['route']}"
        line += f"?{'&'.join(parameters)}" if parameters else ""
        line += f" -> {record.status or 'caller gone'}"
        line += f" from {record.origin}" if record.origin else ""
        line += f" in {(record.ended - record.started) * 1000:.1f} ms"
        line += f" (upstream {record.upstream_seconds * 1000:.1f} ms)" if record.upstream_seconds else ""
        line += f" {record.request_bytes}+{record.response_bytes} bytes"
        line += " replayed" if fields["replayed"] else ""
        line += f" [{fields['error']}: {fields['reason']}]" if "error" in fields else ""
        line += " broken off" if "broken_off" in fields else ""
        line += f" [defect: {fields['defect']}]" if "defect" in fields else ""
        line += f" correlation {fields['fumage_correlation_id']}" if fields["fumage_correlation_id"] else ""
        return f"{line} id {fields['request_id']}\n"
