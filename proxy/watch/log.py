"""The log: events as they happen, and one line a request. No PHI, no secret (section 9 of the contract)."""

import hashlib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final, TextIO

from proxy.clock import Clock
from proxy.rules.errors import ProxyError
from proxy.rules.fhir import OTHER, parameter_names
from proxy.watch.record import METHODS, Record

_OWN_ID = re.compile(rb"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CORRELATION_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")


def _stamp(seconds: float) -> str:
    return _instant(int(seconds * 1000))


@lru_cache(maxsize=16)  # under load many lines share a millisecond
def _instant(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:03d}Z"


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = _where(record.exc_info[1])
        return json.dumps(fields)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record.created)} {record.levelname.lower():7} {_message(record)}"
        if record.exc_info and record.exc_info[0] is not None:
            line += f" [{_where(record.exc_info[1])}]"
        return line


def _message(record: logging.LogRecord) -> str:
    """The event as we worded it. A library's words may hold the repr of anything, even of a request."""
    if record.name.split(".", 1)[0] == "proxy":
        return record.getMessage()
    return f"{record.name} reports a problem ({record.filename}:{record.lineno})"


def _where(error: BaseException | None) -> str:
    """The type of an exception and the lines it came through, without its text, which may carry anything."""
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
    """Writes one line a request, away from the request's path and all lines at hand at once.

    `clock` is the one that the records' times are of.
    """

    def __init__(self, *, json_lines: bool, stream: TextIO, clock: Clock, enabled: bool = True):
        self._enabled = enabled
        self._format = self._json if json_lines else self._text
        self._stream = stream
        self._clock = clock
        self._key = os.urandom(32)

    def __call__(self, records: Sequence[Record]) -> None:
        ago = self._clock.wall() - self._clock.now()
        told = records if self._enabled else [record for record in records if record.defect]
        text = "".join([self._format(ago + record.ended, record) for record in told])
        if text:
            with suppress(OSError):  # nobody reads the log any more; requests go on
                self._stream.write(text)
                self._stream.flush()

    def _request_id(self, record: Record) -> str:
        value = record.request_id
        if record.own_id or _OWN_ID.fullmatch(value):
            return value.decode("ascii")
        return "hash:" + hashlib.blake2b(value, key=self._key, digest_size=16).hexdigest()

    def _json(self, when: float, record: Record) -> str:
        # What is put in needs no escaping: numbers, and words of closed lists. A dict that json.dumps turns
        # into the same costs four times as much.
        level = "info" if record.defect is None else "error"
        told = _told(record.method, record.route.template, _parameters(record), record.status, record.origin)
        correlation_id = f'"{known}"' if (known := _correlation_id(record)) else "null"
        troubles = "" if record.well else f", {json.dumps(_troubles(record))[1:-1]}"
        return (
            f'{{"time": "{_stamp(when)}", "level": "{level}", "message": "request", '
            f'"request_id": "{self._request_id(record)}", {told}, '
            f'"duration": {_seconds(record.ended - record.started)}, '
            f'"upstream_duration": {_seconds(record.upstream_seconds)}, '
            f'"request_bytes": {record.request_bytes}, "response_bytes": {record.response_bytes}, '
            f'"replayed": {"true" if record.replayed else "false"}, '
            f'"fumage_correlation_id": {correlation_id}{troubles}}}\n'
        )

    def _text(self, when: float, record: Record) -> str:
        route, parameters = record.route.template, _parameters(record)
        line = f"{_stamp(when)} {'info' if record.defect is None else 'error':7}"
        line += f" {METHODS.get(record.method, OTHER)} {route}"
        line += f"?{'&'.join(parameters)}" if parameters else ""
        line += f" -> {record.status or 'caller gone'}"
        line += f" from {record.origin}" if record.origin else ""
        line += f" in {(record.ended - record.started) * 1000:.1f} ms"
        line += f" (upstream {record.upstream_seconds * 1000:.1f} ms)" if record.upstream_seconds else ""
        line += f" {record.request_bytes}+{record.response_bytes} bytes"
        line += " replayed" if record.replayed else ""
        troubles = _troubles(record)
        line += f" [{troubles['error']}: {troubles['reason']}]" if "error" in troubles else ""
        line += " broken off" if "broken_off" in troubles else ""
        line += " abandoned by the caller" if record.abandoned and record.status else ""
        line += f" [defect: {troubles['defect']}]" if "defect" in troubles else ""
        correlation_id = _correlation_id(record)
        line += f" correlation {correlation_id}" if correlation_id else ""
        return f"{line} id {self._request_id(record)}\n"


_DIGITS: Final = [f"{number:03}" for number in range(1000)]


def _seconds(seconds: float) -> str:
    """As `f"{seconds:.6f}"`, but of integers: to write a float down takes several times as long."""
    micros = int(seconds * 1e6 + 0.5)
    millis = micros // 1000
    return f"{millis // 1000}.{_DIGITS[millis % 1000]}{_DIGITS[micros % 1000]}"


def _parameters(record: Record) -> tuple[str, ...]:
    """The parameters' names: words of closed lists, as the route's template is, whatever the request said."""
    return parameter_names(record.query) if record.query else ()


@lru_cache(maxsize=1024)  # words of closed lists, in a bounded number of combinations
def _told(method: bytes, route: str, parameters: tuple[str, ...], status: int, origin: str) -> str:
    """The part of a JSON line that says what was asked for, and what was answered."""
    asked = {"method": METHODS.get(method, OTHER), "route": route, "parameters": parameters}
    return json.dumps(asked | {"status": status, "origin": origin or "proxy"})[1:-1]


def _correlation_id(record: Record) -> str | None:
    value = record.correlation_id
    return value.decode("ascii") if value is not None and _CORRELATION_ID.fullmatch(value) else None


def _troubles(record: Record) -> dict[str, object]:
    """What a line says besides, where not all went well."""
    troubles: dict[str, object] = {}
    if isinstance(error := record.error or record.broken, ProxyError):
        troubles["error"] = error.error
        troubles["reason"] = str(error)
    if record.broken is not None:
        troubles["broken_off"] = True
    if record.abandoned:
        troubles["abandoned"] = True
    if record.defect is not None:
        troubles["defect"] = _where(record.defect)
    return troubles
