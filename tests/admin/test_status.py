"""/status: what it tells, and what it never does."""

import asyncio
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, given, settings

from proxy.clock import SystemClock
from tests.forward.leftovers import ready, until
from tests.support.caller import Broken, Caller, build, fetch
from tests.support.emr import EMR, refuse
from tests.support.product import Product
from tests.support.upstream import hang, raw, reply, unauthorized
from tests.watch.test_log import phi, shapes


class Shifted(SystemClock):
    """The machine's clocks, and what the test adds."""

    def __init__(self) -> None:
        super().__init__()
        self.by = 0.0
        real = self.now
        self.now = lambda: real() + self.by

    def wall(self) -> float:
        return super().wall() + self.by


async def told(product: Product) -> Any:
    answer = await fetch(product.admin_port, "GET", "/status")
    assert (answer.status, answer["Content-Type"]) == (200, "application/json; charset=utf-8")
    return answer.json()


def seconds(text: str) -> float:
    assert text.endswith("Z")
    return datetime.fromisoformat(text).timestamp()


async def test_it_tells_what_runs_and_where_it_forwards_to() -> None:
    async with Product(max_connections="7", max_clients="9") as product:
        await ready(product)
        status = await told(product)
        assert list(status) == [
            *("version", "now", "started_at", "uptime", "started", "draining", "ready", "reason"),
            *("base_url", "token_url", "listeners", "admin_listeners", "token", "token_store"),
            *("in_flight", "connections", "callers", "replays", "windows", "errors"),
        ]
        assert status["base_url"] == product.fumage.url
        assert status["token_url"] == product.emr.token_url
        assert status["listeners"] == [f"http://127.0.0.1:{product.port}"]
        assert status["admin_listeners"] == [f"http://127.0.0.1:{product.admin_port}"]
        assert (status["started"], status["draining"], status["ready"]) == (True, False, True)
        assert status["reason"] is None
        assert status["token_store"] is None
        assert status["connections"] == {**product.app._pool.counts, "limit": 7}
        assert status["connections"]["idle"] > 0
        assert status["callers"]["limit"] == 9
        assert 0 < status["uptime"] < 60
        assert seconds(status["now"]) - seconds(status["started_at"]) < 60


async def test_the_token_is_told_by_its_times_and_a_fingerprint() -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await ready(product)
        first = (await told(product))["token"]
        assert first["lifetime"] == 36000
        assert first["error"] is None
        obtained, expires = seconds(first["obtained_at"]), seconds(first["expires_at"])
        assert abs(expires - obtained - 36000) < 0.01
        assert obtained + 16200 <= seconds(first["next_refresh_at"]) <= obtained + 19800
        assert len(first["fingerprint"]) == 12
        product.fumage.script.append(unauthorized())
        await fetch(product.port)
        second = (await told(product))["token"]
        assert second["fingerprint"] != first["fingerprint"]


async def test_each_process_has_fingerprints_of_its_own() -> None:
    """So that nobody can try tokens against one that was shown."""
    async with EMR() as emr:
        emr.answer = emr.grant("the-same")
        async with Product(emr=emr) as one, Product(emr=emr) as other:
            await ready(one)
            await ready(other)
            first, second = [(await told(each))["token"]["fingerprint"] for each in (one, other)]
            assert first != second


async def test_a_failing_token_endpoint_is_told_with_what_to_do() -> None:
    async with EMR() as emr:
        emr.answer = refuse()
        async with Product(emr=emr) as product:
            await fetch(product.port)
            status = await told(product)
            assert (status["started"], status["ready"]) == (False, False)
            assert status["reason"].startswith("no token yet")
            token = status["token"]
            assert (token["fingerprint"], token["expires_at"], token["lifetime"]) == (None, None, None)
            assert token["error"]["code"] == "proxy_configuration_error"
            assert "CANVAS_API_CLIENT_SECRET" in token["error"]["advice"]
            assert 25 < seconds(token["next_refresh_at"]) - seconds(status["now"]) < 31


async def test_windows_show_rates_and_latencies() -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await ready(product)
        product.fumage.script.append(reply(500))
        await fetch(product.port)
        clock.by += 10
        await fetch(product.port)
        first, second = (await told(product))["windows"]
        assert (first["requests"], first["errors"], first["seconds"]) == (2, 1, 10)
        assert (first["requests_per_second"], first["errors_per_second"]) == (0.2, 0.1)
        assert 0 < first["latency"]["p50"] <= first["latency"]["p90"] <= first["latency"]["p99"]
        assert second["requests"] == 1
        assert abs(seconds(second["start"]) - seconds(first["start"]) - 10) < 0.1


async def test_the_latest_errors_say_what_to_do() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.script.append(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "close"))
        try:
            await fetch(product.port, "GET", "/Observation?code=x")
        except Broken:
            pass
        await until(lambda: product.records)
        for _ in range(2):
            await fetch(product.port, "GET", "/Patient/1", [("Origin", "https://evil.example")])
        refused, broken = (await told(product))["errors"]
        assert (refused["method"], refused["route"]) == ("GET", "Patient/{id}")
        assert (refused["status"], refused["count"]) == (403, 2)
        assert refused["code"] == "http_request_denied"
        assert "allowed_origins" in refused["advice"]
        assert (broken["route"], broken["status"]) == ("Observation", 200)
        assert (broken["code"], broken["details"]) == ("connection_terminated", "outcome-unknown")


async def test_while_it_drains_it_says_so() -> None:
    async with Product(drain_timeout="10s") as product:
        await ready(product)
        product.fumage.answer = hang()
        async with await Caller.connect(product.port) as caller:
            await caller.send(build())
            await product.fumage.until(lambda: product.fumage.seen)
            draining = asyncio.create_task(product.app.drain())
            await until(lambda: product.app._phase.draining or product.app._callers.draining)
            status = await told(product)
            assert (status["draining"], status["ready"], status["in_flight"]) == (True, False, 1)
            assert status["reason"].startswith("draining")
        await draining


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(shapes, phi, phi)
def test_no_phi_gets_into_status_or_metrics(shape: bytes, value: bytes, other: bytes) -> None:
    target = shape.replace(b"%b", value).replace(b" ", b"")
    asyncio.run(_throw(target, value, other))


async def _throw(target: bytes, value: bytes, other: bytes) -> None:
    hidden = value.replace(b" ", b"").decode("latin-1")
    async with Product() as product:
        await ready(product)
        headers = [("X-Request-Id", hidden), ("X-Patient", hidden), ("Authorization", f"Bearer {hidden}")]
        located = reply(500, other, [("Location", f"/Patient/{hidden}"), ("fumage-correlation-id", hidden)])
        product.fumage.script += [unauthorized(), located, raw(b"HTTP/1.1 200 OK\r\n" + other, "close")]
        for method in ("GET", "POST"):
            await _send(product, method, target, headers, other)
        for path in ("/status", "/metrics"):
            body = (await fetch(product.admin_port, "GET", path)).body.decode()
            for word in ("Zq", "token-1", "token-2", "test-secret", "test-client"):
                assert word not in body


async def _send(
    product: Product, method: str, target: bytes, headers: list[tuple[str, str]], body: bytes
) -> None:
    try:
        await fetch(product.port, method, target, headers, body if method == "POST" else None)
    except Broken:
        pass
