import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest

from proxy.sandbox import Faults, Sandbox
from proxy.sandbox.faults import seconds

from .conftest import TokenFor

GOOD = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}


@pytest.fixture
async def raw(sandbox: Sandbox) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection to the FHIR API."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(sandbox.fumage_url).port)
    yield reader, writer
    writer.close()


Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# --- the token endpoint ---


async def test_a_token_endpoint_that_is_down_closes_without_an_answer(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    sandbox.faults.set(token_endpoint="down")
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):  # the latter if the body came too late
        await http.post(sandbox.token_url, data=GOOD)
    assert sandbox.tokens.issued == 0


async def test_a_refusing_token_endpoint_calls_a_good_client_invalid(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    sandbox.faults.set(token_endpoint="refusing")
    answer = await http.post(sandbox.token_url, data=GOOD)
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})


@pytest.mark.parametrize(("kind", "status"), [("error-500", 500), ("garbage", 200)])
async def test_a_broken_token_endpoint_answers_with_a_web_page(
    sandbox: Sandbox, http: httpx.AsyncClient, kind: str, status: int
) -> None:
    sandbox.faults.set(token_endpoint=kind)
    answer = await http.post(sandbox.token_url, data=GOOD)
    assert (answer.status_code, answer.headers["content-type"][:9]) == (status, "text/html")


async def test_a_slow_token_endpoint_answers_in_the_end(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    sandbox.faults.set(token_endpoint="slow", slow_by=0.05)
    before = time.monotonic()
    assert (await http.post(sandbox.token_url, data=GOOD)).status_code == 200
    assert time.monotonic() - before > 0.04


# --- Fumage ---


async def test_a_slow_fumage_keeps_its_callers_waiting(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    sandbox.faults.set(fumage="slow", slow_by="10m")
    with pytest.raises(httpx.ReadTimeout):
        await fhir.get("/Patient", timeout=0.05)


async def test_closing_does_not_wait_for_slow_answers(http: httpx.AsyncClient) -> None:
    async with Sandbox(faults=Faults(fumage="slow", slow_by="10m")) as sandbox:
        port = urlsplit(sandbox.fumage_url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
        await http.get(sandbox.control_url)  # by now the slow request is under way
    assert await reader.read() == b""
    writer.close()


async def test_a_reset_is_a_tcp_reset(sandbox: Sandbox, raw: Raw) -> None:
    sandbox.faults.set(fumage="reset")
    reader, writer = raw
    writer.write(b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_a_cut_body_is_half_of_what_was_announced_and_then_the_end(sandbox: Sandbox, raw: Raw) -> None:
    sandbox.faults.set(fumage="cut")
    reader, writer = raw
    writer.write(b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    announced = int(httpx.Headers(_fields(head))["content-length"])
    assert len(body) == announced // 2


async def test_a_large_cut_body_arrives_up_to_the_cut(
    sandbox: Sandbox, raw: Raw, token_for: TokenFor
) -> None:
    token = await token_for()
    sandbox.faults.set(fumage="cut")
    reader, writer = raw
    request = f"GET /Observation?_count=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    writer.write(request.encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert len(body) == int(httpx.Headers(_fields(head))["content-length"]) // 2 > 20_000


def _fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode().split("\r\n")[1:]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


async def test_an_answer_without_a_body_does_not_come_although_the_work_is_done(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    person = {
        "resourceType": "Patient",
        "name": [{"text": "A"}],
        "gender": "other",
        "birthDate": "2000-01-01",
    }
    sandbox.faults.set(fumage="cut")
    before = sandbox.store.counts()["Patient"]
    with pytest.raises(httpx.RemoteProtocolError):
        await fhir.post("/Patient", json=person)
    assert sandbox.store.counts()["Patient"] == before + 1


async def test_a_fumage_that_always_says_401_still_answers_what_needs_no_token(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    sandbox.faults.set(fumage="always-401")
    answers = [await fhir.get(path) for path in ("/Patient", "/Patient/x", "/metadata", "/none")]
    assert [answer.status_code for answer in answers] == [401, 401, 200, 404]


@pytest.mark.parametrize(
    ("kind", "status", "code"), [("error-500", 500, "exception"), ("error-429", 429, "throttled")]
)
async def test_a_fumage_in_trouble_says_so_in_fhir(
    sandbox: Sandbox, fhir: httpx.AsyncClient, kind: str, status: int, code: str
) -> None:
    sandbox.faults.set(fumage=kind)
    answer = await fhir.get("/Patient")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (status, code)
    assert "fumage-correlation-id" in answer.headers
    assert ("retry-after" in answer.headers) == (status == 429)


async def test_an_edge_block_is_a_403_that_is_not_fumages(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    sandbox.faults.set(fumage="edge-block")
    answer = await fhir.get("/Patient")
    assert (answer.status_code, answer.headers["content-type"][:9]) == (403, "text/html")
    assert "fumage-correlation-id" not in answer.headers


# --- for how long ---


async def test_a_fault_with_times_strikes_that_many_requests(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    sandbox.faults.set(fumage="error-500", times=2)
    assert [(await fhir.get("/Patient")).status_code for _ in range(3)] == [500, 500, 200]


async def test_a_limited_401_is_not_used_up_by_what_needs_no_token(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    sandbox.faults.set(fumage="always-401", times=1)
    answers = [await fhir.get(path) for path in ("/metadata", "/none", "/Patient", "/Patient")]
    assert [answer.status_code for answer in answers] == [200, 404, 401, 200]


def test_each_side_counts_its_own_times() -> None:
    faults = Faults(token_endpoint="down", fumage="cut", times=1)
    assert faults.take("fumage", "cut") == "cut"
    assert faults.take("fumage", "cut") is None
    assert faults.take("token_endpoint", "down") == "down"


def test_off_ends_one_side_and_what_is_not_named_stays() -> None:
    faults = Faults(token_endpoint="down", fumage="cut", slow_by="250ms")
    faults.set(fumage="off")
    assert faults.state() == {
        "token_endpoint": {"kind": "down", "times": None},
        "fumage": None,
        "slow_by": 0.25,
    }


def test_wrong_values_change_nothing() -> None:
    faults = Faults(fumage="cut")
    before = faults.state()
    with pytest.raises(ValueError, match="slow_by"):
        faults.set(fumage="off", slow_by=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token_endpoint knows down"):
        faults.set(token_endpoint="x", slow_by=1)
    assert faults.state() == before


@pytest.mark.parametrize("times", [0, -1, 1.5, "x", True, "\u0661"])
def test_times_is_a_whole_number_from_one_on(times: object) -> None:
    with pytest.raises(ValueError, match="times is a whole number"):
        Faults(fumage="cut", times=times)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [None, "off"])
def test_times_alone_makes_no_sense(kind: str | None) -> None:
    with pytest.raises(ValueError, match="times needs a fault"):
        Faults(fumage=kind, times=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [("250ms", 0.25), ("10s", 10), ("5m", 300), ("36000", 36000), ("1.5", 1.5), (" 1s ", 1)],
)
def test_durations_have_a_unit_or_are_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "-1s", "1h", "1 s", "1e3", "nan", "inf", "\u0661s", ".5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_delay_is_a_number_that_can_pass(value: float) -> None:
    with pytest.raises(ValueError, match="no duration"):
        Faults(slow_by=value)


async def test_a_connection_that_was_reset_leaves_the_others_alone(
    sandbox: Sandbox, raw: Raw, fhir: httpx.AsyncClient
) -> None:
    assert (await fhir.get("/Patient")).status_code == 200
    sandbox.faults.set(fumage="reset", times=1)
    reader, writer = raw
    writer.write(b"GET /metadata HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert (await fhir.get("/Patient")).status_code == 200
