"""Section 9 of the contract: one line a request, and never PHI."""

import asyncio
import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.clock import SystemClock
from proxy.rules.errors import FumageConnectionLost, TokenRenewed
from proxy.watch.log import RequestLog
from proxy.watch.record import Record
from tests.forward.leftovers import ready
from tests.support.caller import Caller, fetch
from tests.support.clock import FakeClock
from tests.support.logs import configured
from tests.support.product import Product
from tests.support.upstream import raw, reply, unauthorized

UUID = b"123e4567-e89b-42d3-a456-426614174000"


def write(record: Record, *, json_lines: bool = True) -> str:
    """The line of this record, written 3 s after its end."""
    stream = io.StringIO()
    clock = FakeClock(record.ended + 3, 1_700_000_003.25)
    RequestLog(json_lines=json_lines, stream=stream, clock=clock)([record])
    return stream.getvalue()


def a_record(target: bytes = b"/Patient/1", request_id: bytes = b"a" * 32, method: bytes = b"GET") -> Record:
    record = Record(100.0, method, target, request_id)
    record.ended = 100.5
    record.status, record.origin = 200, "fumage"
    return record


def test_a_line_has_its_fields_in_their_order() -> None:
    record = a_record(b"/Patient/123?name=Smith&_count=10&x-secret=1", UUID)
    record.upstream_seconds = 0.20
    record.request_bytes, record.response_bytes = 3, 4
    record.correlation_id = b"c-1"
    line = write(record)
    assert line.endswith("\n")
    told = json.loads(line)
    assert list(told.items()) == [
        ("time", "2023-11-14T22:13:20.250Z"),
        ("level", "info"),
        ("message", "request"),
        ("request_id", UUID.decode()),
        ("method", "GET"),
        ("route", "Patient/{id}"),
        ("parameters", ["name", "_count", "other"]),
        ("status", 200),
        ("origin", "fumage"),
        ("duration", 0.5),
        ("upstream_duration", 0.2),
        ("request_bytes", 3),
        ("response_bytes", 4),
        ("replayed", False),
        ("fumage_correlation_id", "c-1"),
    ]


def test_the_same_as_text() -> None:
    record = a_record(b"/Patient/123?name=Smith&x=1", UUID)
    record.replay, record.replayed, record.correlation_id = "ok", True, b"c-1"
    assert write(record, json_lines=False) == (
        "2023-11-14T22:13:20.250Z info    GET Patient/{id}?name&other -> 200 from fumage in 500.0 ms "
        f"0+0 bytes replayed correlation c-1 id {UUID.decode()}\n"
    )


def test_what_could_not_be_read_as_a_request_has_no_route() -> None:
    told = json.loads(write(a_record(b"", method=b"")))
    assert (told["method"], told["route"], told["parameters"]) == ("other", "other", [])


def test_who_left_before_an_answer_is_told_as_in_the_metrics() -> None:
    record = a_record()
    record.status, record.origin, record.abandoned = 0, "", True
    told = json.loads(write(record))
    assert (told["status"], told["origin"], told["abandoned"]) == (0, "proxy", True)


def test_errors_broken_answers_abandoned_ones_and_defects_are_told() -> None:
    record = a_record()
    record.error = TokenRenewed("Send again.")
    record.abandoned = True
    told = json.loads(write(record))
    assert (told["error"], told["reason"], told["abandoned"]) == (
        "destination_unavailable",
        "Send again.",
        True,
    )
    record = a_record()
    record.broken = FumageConnectionLost("Lost.", sent=True)
    told = json.loads(write(record))
    assert (told["error"], told["broken_off"]) == ("connection_terminated", True)
    try:
        raise ValueError("Smith")
    except ValueError as error:
        record.defect = error
    told = json.loads(write(record))
    assert told["level"] == "error"
    assert re.fullmatch(r"ValueError at test_log\.py:\d+", told["defect"])
    assert "Smith" not in write(record, json_lines=False)


@pytest.mark.parametrize(
    "value", [UUID, UUID.upper(), b"0123456789abcdef" * 2, b"0123456789ABCDEF" * 2], ids=bytes.decode
)
def test_a_request_id_that_is_a_uuid_or_32_hex_digits_is_logged(value: bytes) -> None:
    assert json.loads(write(a_record(request_id=value)))["request_id"] == value.decode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"7",
        b"Smith",
        UUID + b"0",
        UUID[:-1],
        b"a" * 31,
        b"a" * 33,
        b"g" * 32,
        UUID + b"\n",
        b"\xff" * 32,
    ],
    ids=repr,
)
def test_any_other_is_logged_as_a_keyed_hash(value: bytes) -> None:
    told = json.loads(write(a_record(request_id=value)))["request_id"]
    assert re.fullmatch("hash:[0-9a-f]{32}", told)
    assert json.loads(write(a_record(request_id=value)))["request_id"] != told  # another process, another key


def test_one_process_gives_one_id_one_hash() -> None:
    stream = io.StringIO()
    requests = RequestLog(json_lines=True, stream=stream, clock=SystemClock())
    requests([a_record(request_id=one) for one in (b"a", b"a", b"b")])
    first, second, other = (json.loads(line)["request_id"] for line in stream.getvalue().splitlines())
    assert first == second != other


@pytest.mark.parametrize("value", [b"a b", b"", b"x" * 65, b"\xff", b"a\tb", b"Smith,John"])
def test_a_correlation_id_of_another_shape_is_not_logged(value: bytes) -> None:
    record = a_record()
    record.correlation_id = value
    assert json.loads(write(record))["fumage_correlation_id"] is None


# Marked, so that any piece of it that gets through can be found.
phi = st.text("Qq%0123456789|:/.-$_? \u00e4", min_size=1, max_size=30).map(
    lambda text: b"Zq" + text.encode() + b"Zq"
)
shapes = st.sampled_from(
    [
        b"/Patient/%b",
        b"/%b/1",
        b"/%b",
        b"/Patient/%b/_history/%b",
        b"/Patient/%b/$everything",
        b"/Patient/1/$%b",
        b"/Patient?name=%b",
        b"/Patient?%b=1",
        b"/Patient?name:%b=1",
        b"/Patient?_has:Observation:%b:code=1",
        b"/Observation?subject:Patient.%b=1",
        b"/Patient/1?%b&%b",
        b"/.well-known/%b",
        b"/DocumentReference/%b/files/%b",
        b"%b",
        b"?%b",
    ]
)


@settings(max_examples=300)
@given(shapes, phi, phi, st.booleans())
def test_no_path_query_method_or_id_gets_into_a_line(
    shape: bytes, value: bytes, other: bytes, text: bool
) -> None:
    record = a_record(shape.replace(b"%b", value), other, method=value)
    record.correlation_id = other + b" "
    line = write(record, json_lines=not text)
    assert "Zq" not in line
    assert line.count("\n") == 1


async def test_over_real_sockets_no_line_holds_phi_or_a_token(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    requests = RequestLog(json_lines=True, stream=stream, clock=SystemClock())
    secret = "Zqsmith"
    async with Product() as product:
        await ready(product)
        product.app.flush()
        product.app.watch = requests
        headers = [("X-Request-Id", secret), ("Authorization", f"Bearer {secret}"), ("X-Patient", secret)]
        for method in ("GET", "HEAD", "POST", "TRACE", "OPTIONS"):
            product.fumage.script += [
                unauthorized(),
                reply(
                    201,
                    secret.encode(),
                    [("Location", f"/Patient/{secret}"), ("fumage-correlation-id", "c-1")],
                ),
            ]
            await fetch(
                product.port, method, f"/Patient/{secret}?name={secret}&{secret}=1", headers, secret.encode()
            )
            product.fumage.script.clear()
        product.fumage.script += [
            raw(b"HTTP/1.1 200 " + secret.encode() + b"\r\n" + secret.encode() + b"\r\n\r\n")
        ]
        await fetch(product.port, "GET", f"/{secret}", headers)
        async with await Caller.connect(product.port) as caller:
            caller.write(f"{secret} / HTTP/1.1\r\n{secret}\r\n\r\n".encode())
            await caller.answer()
        await asyncio.sleep(0)
        product.app.flush()
    lines = stream.getvalue() + caplog.text
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(told) == 7
    assert [one["method"] for one in told] == ["GET", "HEAD", "POST", "other", "OPTIONS", "GET", "other"]
    assert told[0]["replayed"] is True
    assert told[0]["fumage_correlation_id"] == "c-1"
    assert told[0]["request_bytes"] == told[0]["response_bytes"] == len(secret)
    assert told[1]["response_bytes"] == 0
    for word in (secret, "token-1", "token-2", "test-secret"):
        assert word not in lines


def test_when_it_is_off_only_defects_are_written() -> None:
    stream = io.StringIO()
    requests = RequestLog(json_lines=True, stream=stream, clock=SystemClock(), enabled=False)
    requests([a_record()])
    assert stream.getvalue() == ""
    record = a_record()
    record.defect = ValueError("x")
    requests([a_record(), record])
    assert json.loads(stream.getvalue())["defect"] == "ValueError at "


def event(log_format: str, name: str, message: str, *args: object, error: Exception | None = None) -> str:
    """The line of an event."""
    stream = io.StringIO()
    with configured("info", log_format, stream):
        logging.getLogger(name).error(message, *args, exc_info=error)
    return stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_event_is_one_line_without_the_text_of_exceptions(log_format: str) -> None:
    try:
        raise ValueError("Smith")
    except ValueError as caught:
        line = event(log_format, "proxy.app", "It %s.", "broke", error=caught)
    assert "It broke." in line
    assert "ValueError at test_log.py" in line
    assert "Smith" not in line
    assert line.count("\n") == 1
    if log_format == "json":
        assert set(json.loads(line)) == {"time", "level", "message", "exception"}


@pytest.mark.parametrize("name", ["asyncio", "aiohttp.server", "proxyish", ""])
def test_what_a_library_says_is_told_by_its_place_alone(name: str) -> None:
    line = event("json", name, "Exception in callback f(%r)\nprotocol: ...", b"GET /Patient/Smith")
    assert "Smith" not in line
    assert Path(__file__).name in line


def test_a_log_that_nobody_reads_any_more_does_not_hold_up_requests() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    requests = RequestLog(json_lines=True, stream=Broken(), clock=SystemClock())
    requests([a_record()])
