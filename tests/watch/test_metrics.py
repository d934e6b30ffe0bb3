"""Section 8 of the contract: the metrics, their names and their closed sets of labels."""

import asyncio
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from proxy.rules.fhir_lists import RESOURCE_TYPES
from proxy.watch.metrics import BUCKETS, Metrics, Tally
from proxy.watch.record import Record
from tests.forward.leftovers import ready, until
from tests.support.caller import Broken, Caller, build, fetch
from tests.support.emr import EMR, refuse
from tests.support.product import Product
from tests.support.upstream import after, hang, reply, tokens_only, unauthorized
from tests.watch.test_log import phi, shapes

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"

# Names are API: type and labels of each.
NAMES = {
    "fumage_proxy_requests_total": ("counter", {"method", "resource", "interaction", "status", "origin"}),
    "fumage_proxy_request_duration_seconds": ("histogram", set()),
    "fumage_proxy_upstream_duration_seconds": ("histogram", set()),
    "fumage_proxy_in_flight_requests": ("gauge", set()),
    "fumage_proxy_replays_total": ("counter", {"outcome"}),
    "fumage_proxy_token_requests_total": ("counter", {"grant", "outcome"}),
    "fumage_proxy_token_expiry_timestamp_seconds": ("gauge", set()),
    "fumage_proxy_token_store_tokens_total": ("counter", {"outcome"}),
    "fumage_proxy_token_store_waits_total": ("counter", set()),
    "fumage_proxy_token_store_unreadable_total": ("counter", set()),
    "fumage_proxy_upstream_connections": ("gauge", {"state"}),
    "fumage_proxy_request_bytes_total": ("counter", set()),
    "fumage_proxy_response_bytes_total": ("counter", set()),
    "fumage_proxy_build_info": ("gauge", {"version"}),
}
WORDS = {
    "method": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"},
    "resource": RESOURCE_TYPES | {"other"},
    "interaction": {
        *("read", "vread", "update", "patch", "delete", "history", "create", "search"),
        *("capabilities", "batch", "operation", "other"),
    },
    "origin": {"fumage", "proxy"},
    "outcome": {
        *("ok", "rejected", "suppressed", "too_large", "no_token"),
        *("refused", "unusable", "unreachable", "timeout"),
        *("hit", "fetched", "fallback"),
    },
    "grant": {"client_credentials", "refresh_token"},
    "state": {"idle", "active", "opening"},
}


def metrics_of(tally: Tally) -> Metrics:
    return Metrics(
        tally=tally,
        version="1.2.3",
        in_flight=lambda: 2,
        connections=lambda: {"idle": 1, "active": 2, "opening": 0},
        token_expiry=lambda: None,
    )


def text_of(tally: Tally, accept: str = "") -> str:
    return metrics_of(tally).render(accept)[0].decode()


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Samples by name and labels; fails if a series is there twice."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in parse(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


async def scraped(product: Product) -> "Scrape":
    answer = await fetch(product.admin_port, "GET", "/metrics", host="prometheus.example")
    assert answer.status == 200
    return Scrape(answer.body.decode())


class Scrape:
    def __init__(self, text: str):
        self.text = text
        self._found = read(text)

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series of that name with these labels."""
        wanted = set(labels.items())
        return sum(
            value for (found, has), value in self._found.items() if found == name and wanted <= set(has)
        )


def a_record(method: bytes = b"GET", target: bytes = b"/Patient/1", **attributes: object) -> Record:
    record = Record(100.0, method, target, b"a" * 32)
    record.status, record.origin, record.ended = 200, "fumage", 100.5
    for name, value in attributes.items():
        setattr(record, name, value)
    return record


def full() -> Tally:
    tally = Tally()
    tally([a_record(upstream_seconds=0.4, request_bytes=5, response_bytes=7, replay="ok")])
    tally([a_record(b"TRACE", b"", status=405, origin="proxy")])
    tally.token_request("client_credentials", "ok")
    return tally


# --- the text ---


def lint(families: Iterable[Metric]) -> list[str]:
    """The rules of `promtool check metrics` (prometheus/client_golang, testutil/promlint), and of naming."""
    complaints = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        rules = {
            "no help text": bool(family.documentation),
            "no type": family.type != "unknown",
            "not snake_case": re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name),
            "only counters end in _total": family.type == "counter" or not name.endswith("_total"),
            "the suffix of a histogram": not re.search("_(count|sum|bucket)$", name),
            "a type in the name": not re.search("_(counter|gauge|histogram|summary)(_|$)", name),
            "not a base unit": not re.search(
                "_(ms|us|ns|milliseconds|minutes|hours|days|kb|mb|kilobytes|bits)(_|$)", name
            ),
            "a reserved label": all({"job", "instance"}.isdisjoint(s.labels) for s in family.samples),
            "labels that differ": len({frozenset(s.labels) - {"le"} for s in family.samples}) <= 1,
            "no samples": family.samples,
        }
        complaints += [f"{name}: {rule}" for rule, kept in rules.items() if not kept]
    return complaints


def test_the_text_passes_the_lint() -> None:
    text = text_of(full())
    assert lint(parse(text)) == []
    assert read(text)
    for name in NAMES:
        assert text.count(f"# HELP {name} ") == text.count(f"# TYPE {name} ") == 1


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    found = {}
    for family in parse(text_of(full())):
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("fumage_proxy_"):
            labels = {label for sample in family.samples for label in sample.labels}
            found[name] = (family.type, labels - {"le"})
    assert found == NAMES


@pytest.mark.skipif(sys.platform != "linux", reason="they come from /proc")
def test_the_usual_figures_of_a_process_are_there() -> None:
    text = text_of(Tally())
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert f"\n{name} " in text


def test_the_readme_names_them_all_and_no_others() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.split("\n## Metrics\n")[1].split("\n## ")[0]
    assert set(re.findall("fumage_proxy_[a-z_]+", section)) == set(NAMES)


def test_openmetrics_is_spoken_to_who_accepts_it() -> None:
    body, content_type = metrics_of(full()).render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    parsed = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family.type for family in parsed}
    assert families["fumage_proxy_requests"] == "counter"
    assert families["fumage_proxy_build"] == "info"
    body, content_type = metrics_of(full()).render("*/*")
    assert content_type.startswith("text/plain; version=0.0.4")


def test_series_that_are_known_beforehand_are_there_from_the_start() -> None:
    now = Scrape(text_of(Tally()))
    series = [key for key in now._found if key[0].startswith("fumage_proxy_")]
    assert sum(name == "fumage_proxy_replays_total" for name, _ in series) == 5
    assert sum(name == "fumage_proxy_token_requests_total" for name, _ in series) == 10
    assert sum(name == "fumage_proxy_token_store_tokens_total" for name, _ in series) == 3
    assert all(not now(name, **dict(labels)) for name, labels in series if name.endswith("_total"))


# --- what is counted ---


def test_a_request_is_counted_by_its_labels() -> None:
    tally = Tally()
    tally([a_record()])
    tally([a_record(target=b"/Patient/2?name=x")])
    tally([a_record(b"POST", b"/Patient/_search", status=503, origin="proxy")])
    assert tally.requests == {
        ("GET", "Patient", "read", "200", "fumage"): 2,
        ("POST", "Patient", "search", "503", "proxy"): 1,
    }


def test_who_left_before_an_answer_has_status_0() -> None:
    tally = Tally()
    tally([a_record(status=0, origin="")])
    assert list(tally.requests) == [("GET", "Patient", "read", "0", "proxy")]


@pytest.mark.parametrize("status", [299, 600, 999])
def test_a_status_that_is_not_registered_is_other(status: int) -> None:
    tally = Tally()
    tally([a_record(status=status)])
    assert list(tally.requests) == [("GET", "Patient", "read", "other", "fumage")]


@pytest.mark.parametrize("at", range(len(BUCKETS)))
def test_a_bucket_holds_what_takes_as_long_as_its_bound_or_less(at: int) -> None:
    tally = Tally()
    for seconds in (BUCKETS[at], math.nextafter(BUCKETS[at], 100)):
        tally([a_record(started=0.0, ended=seconds, upstream_seconds=seconds)])
    now = Scrape(text_of(tally))
    for name in ("fumage_proxy_request_duration_seconds", "fumage_proxy_upstream_duration_seconds"):
        assert now(f"{name}_bucket", le=str(BUCKETS[at])) == 1
        assert now(f"{name}_bucket", le="+Inf") == now(f"{name}_count") == 2
        assert now(f"{name}_sum") == pytest.approx(2 * BUCKETS[at])


def test_what_never_reached_fumage_has_no_upstream_duration() -> None:
    tally = Tally()
    tally([a_record(status=403, origin="proxy")])
    now = Scrape(text_of(tally))
    assert now("fumage_proxy_request_duration_seconds_count") == 1
    assert now("fumage_proxy_upstream_duration_seconds_count") == 0


@settings(max_examples=300)
@given(shapes, phi, phi, st.integers(0, 999))
def test_no_path_query_method_or_id_gets_into_a_label(
    shape: bytes, value: bytes, other: bytes, status: int
) -> None:
    tally = Tally()
    for method in (b"GET", b"POST", value):
        tally([a_record(method, shape.replace(b"%b", value), request_id=other, status=status)])
    text = text_of(tally)
    assert "Zq" not in text
    for family in parse(text):
        for sample in family.samples:
            for label, word in sample.labels.items():
                assert word in WORDS.get(label, {word}), (label, word)


# --- over sockets ---


async def test_a_request_is_on_the_next_scrape() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.answer = reply(201, b"12345")
        await fetch(product.port, "POST", "/Patient", body=b"1234567")
        now = await scraped(product)
        labels = {"method": "POST", "resource": "Patient", "interaction": "create", "origin": "fumage"}
        assert now("fumage_proxy_requests_total", status="201", **labels) == 1
        assert now("fumage_proxy_requests_total") == 2
        assert now("fumage_proxy_request_bytes_total") == 7
        assert now("fumage_proxy_response_bytes_total") == 5 + len(b'{"resourceType":"Patient"}')
        assert now("fumage_proxy_upstream_duration_seconds_count") == 2
        assert now("fumage_proxy_upstream_connections", state="idle") == product.app._pool.counts["idle"] > 0
        assert now("fumage_proxy_token_requests_total", outcome="ok", grant="client_credentials") == 1
        assert now("fumage_proxy_token_expiry_timestamp_seconds") > 1_700_000_000
        assert now("fumage_proxy_build_info") == 1


async def test_in_flight_goes_up_and_down() -> None:
    async with Product() as product:
        await ready(product)
        go_on = asyncio.Event()
        product.fumage.answer = after(go_on, reply(200))
        async with await Caller.connect(product.port) as caller, await Caller.connect(product.port) as other:
            await caller.send(build())
            await other.send(build())
            await product.fumage.until(lambda: len(product.fumage.seen) == 2)
            now = await scraped(product)
            assert now("fumage_proxy_in_flight_requests") == 2
            assert now("fumage_proxy_upstream_connections", state="active") == 2
            go_on.set()
            await caller.answer()
            await other.answer()
            await until(lambda: not product.app._callers.in_flight)
            assert (await scraped(product))("fumage_proxy_in_flight_requests") == 0


async def test_an_abandoned_request_is_counted_once_and_no_longer_in_flight() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.answer = hang()
        async with await Caller.connect(product.port) as caller:
            await caller.send(build())
            await product.fumage.until(lambda: product.fumage.seen)
        await until(lambda: product.records)
        now = await scraped(product)
        assert now("fumage_proxy_requests_total", status="0", origin="proxy") == 1
        assert now("fumage_proxy_in_flight_requests") == 0


async def test_replays_by_what_became_of_them() -> None:
    async with Product(replay_limit="1") as product:
        await ready(product)
        product.fumage.script += [unauthorized()]
        await fetch(product.port)  # ok
        product.fumage.script += [unauthorized()]
        await fetch(product.port, "POST", body=b"too large")
        product.fumage.answer = unauthorized()
        for _ in range(4):
            await fetch(product.port)  # rejected, until new tokens are rationed
        now = await scraped(product)
        assert now("fumage_proxy_replays_total", outcome="ok") == 1
        assert now("fumage_proxy_replays_total", outcome="too_large") == 1
        rejected = now("fumage_proxy_replays_total", outcome="rejected")
        assert rejected > 0
        assert now("fumage_proxy_replays_total", outcome="suppressed") == 4 - rejected > 0


async def test_a_refused_client_is_seen_in_the_token_requests() -> None:
    async with EMR() as emr:
        emr.answer = refuse()
        async with Product(emr=emr) as product:
            assert (await fetch(product.port)).status == 502
            now = await scraped(product)
            assert now("fumage_proxy_token_requests_total", outcome="refused") == 1
            assert now("fumage_proxy_token_expiry_timestamp_seconds") == 0
            assert now("fumage_proxy_requests_total", status="502", origin="proxy") == 1


async def test_without_a_new_token_a_replay_has_no_token() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.answer = tokens_only(())
        product.emr.answer = refuse()
        assert (await fetch(product.port)).status == 502
        assert (await scraped(product))("fumage_proxy_replays_total", outcome="no_token") == 1


async def test_over_real_sockets_no_metric_holds_phi_or_a_token() -> None:
    secret = "Zqsmith"
    async with Product() as product:
        await ready(product)
        headers = [("X-Request-Id", secret), ("Authorization", f"Bearer {secret}")]
        location = [("Location", f"/Patient/{secret}"), ("fumage-correlation-id", secret)]
        for method in ("GET", "HEAD", "POST", "TRACE", "OPTIONS", "PROPFIND"):
            product.fumage.script += [unauthorized(), reply(201, secret.encode(), location)]
            target = f"/Patient/{secret}/${secret}?name={secret}&{secret}=1"
            await fetch(product.port, method, target, headers, secret.encode())
            product.fumage.script.clear()
        async with await Caller.connect(product.port) as caller:
            caller.write(f"{secret} / HTTP/1.1\r\n{secret}\r\n\r\n".encode())
            try:
                await caller.answer()
            except Broken:
                pass
        text = (await scraped(product)).text
    for word in (secret, "smith", "token-", "test-secret", "test-client"):
        assert word not in text


def test_prometheus_client_is_not_imported_before_a_scrape() -> None:
    script = "import sys, proxy.app; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
