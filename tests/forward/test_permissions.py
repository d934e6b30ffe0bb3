"""`allow` on the wire: who is turned away and why, that nothing of it reaches Fumage, and what passes."""

import asyncio
import gzip
import json

import pytest

from tests.forward.leftovers import issue, left, nothing_left, ready, until
from tests.support import chunk, last_chunk
from tests.support.caller import Answer, Caller, build, fetch
from tests.support.product import Product
from tests.support.upstream import tokens_only, unauthorized

JSON = ("Content-Type", "application/fhir+json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
MIB = 1 << 20


def bundle(*requests: tuple[str, str], padding: int = 0, **more: str) -> bytes:
    entries = [
        {"request": {"method": method, "url": url, **more}, "resource": {"resourceType": "Basic"}}
        for method, url in requests
    ]
    told = {"resourceType": "Bundle", "type": "batch", "entry": entries, "id": "x" * padding}
    return json.dumps(told).encode()


def refusal(answer: Answer, product: Product) -> str:
    """What is said in an answer to what Fumage must not have seen."""
    assert (answer.status, answer.proxy_status) == (403, {"error": "http_request_denied"})
    assert issue(answer) == ("error", "forbidden")
    assert product.fumage.seen == []
    (record,) = product.records
    assert (record.status, record.origin) == (403, "proxy")
    return str(answer.json()["issue"][0]["diagnostics"])


@pytest.mark.parametrize(
    ("method", "target", "missing"),
    [
        ("GET", "/Observation/1", "Observation.r"),
        ("GET", "/Observation", "Observation.s"),
        ("HEAD", "/Observation/1", ""),
        ("POST", "/Patient", "Patient.c"),
        ("PUT", "/Patient/1", "Patient.u"),
        ("PATCH", "/Patient/1", "Patient.u"),
        ("DELETE", "/Patient/1", "Patient.d"),
        ("GET", "/Patient/1/$everything", "Patient.$everything"),
        ("GET", "/Patient?_include=Patient:general-practitioner:Practitioner", "Practitioner.r"),
        ("GET", "/Patient?_revinclude=*", "wildcard"),
        ("GET", "/Patient?_has:Observation:patient:code=1", "Observation.s"),
        ("GET", "/Patient?organization.name=a", "Organization.s"),
        ("GET", "/Patient/../Observation/1", "form of a FHIR request"),
        ("GET", "/%50atient/1", "form of a FHIR request"),
        ("OPTIONS", "*", "form of a FHIR request"),
    ],
)
async def test_what_allow_lacks_is_refused_and_named(method: str, target: str, missing: str) -> None:
    async with Product(allow="Patient.rs") as product:
        answer = await fetch(product.port, method, target)
        if method == "HEAD":
            assert (answer.status, answer.body, product.fumage.seen) == (403, b"", [])
        else:
            told = refusal(answer, product)
            assert missing in told
            assert "FUMAGE_PROXY_ALLOW" in told


async def test_a_connection_goes_on_after_a_refusal() -> None:
    async with Product(allow="Patient.rs") as product, await Caller.connect(product.port) as caller:
        for target, status in (("/Task/1", 403), ("/Patient/1", 200), ("/metadata", 200), ("/Task", 403)):
            assert (await caller.request(target=target)).status == status
        assert [seen.target for seen in product.fumage.seen] == [b"/Patient/1", b"/metadata"]
        assert product.fumage.seen[0].bearer == "token-1"


@pytest.mark.parametrize(
    "target", ["/metadata", "/metadata?_format=json", "/.well-known/smart-configuration"]
)
async def test_who_serves_may_always_be_asked(target: str) -> None:
    async with Product(allow="Task.c") as product:
        assert (await fetch(product.port, target=target)).status == 200
        assert product.fumage.seen[0].target == target.encode()


async def test_the_base_urls_own_path_is_not_judged() -> None:
    async with Product() as double:
        base = f"{double.fumage.url}/fhir"
        async with Product(double.fumage, double.emr, base_url=base, allow="Patient.r") as product:
            assert (await fetch(product.port, target="/Patient/1")).status == 200
            assert double.fumage.seen[-1].target == b"/fhir/Patient/1"
            assert (await fetch(product.port, target="/fhir/Patient/1")).status == 403


@pytest.mark.parametrize(
    "name",
    [
        "X-HTTP-Method-Override",
        "x-http-method",
        "X_HTTP_Method_Override",
        "X-Http-Method-Anything",
        "X-Method-Override",
        "X-Original-URL",
        "x_rewrite_url",
    ],
)
async def test_fields_that_ask_for_another_method_or_path_are_refused(name: str) -> None:
    async with Product(allow="Patient.cruds Task.cruds") as product:
        answer = await fetch(product.port, "POST", "/Patient", [JSON, (name, "DELETE")], b"{}")
        assert "another method or path" in refusal(answer, product)
        hidden = [JSON, (name, "DELETE"), ("Connection", name)]
        assert (await fetch(product.port, "POST", "/Patient", hidden, b"{}")).status == 403
    async with Product() as product:
        assert (await fetch(product.port, "POST", "/Patient", [(name, "/Task")], b"{}")).status == 200
        assert product.fumage.seen[0][name] == "/Task"


@pytest.mark.parametrize("name", ["If-None-Exist", "if_none_exist"])
async def test_the_condition_of_a_create_is_a_search(name: str) -> None:
    headers = [JSON, (name, "identifier=a|b")]
    async with Product(allow="Patient.c") as product:
        assert "Patient.s" in refusal(await fetch(product.port, "POST", "/Patient", headers, b"{}"), product)
    async with Product(allow="Patient.cs") as product:
        assert (await fetch(product.port, "POST", "/Patient", headers, b"{}")).status == 200


async def test_trailers_cannot_bring_what_heads_may_not() -> None:
    async with Product(allow="Patient.c") as product:
        trailers = [
            ("If-None-Exist", "a=b"),
            ("X_HTTP_Method", "PUT"),
            ("Content-Encoding", "gzip"),
            ("A", "b"),
        ]
        answer = await fetch(product.port, "POST", "/Patient", [JSON], b"{}", chunked=True, trailers=trailers)
        assert answer.status == 200
        assert product.fumage.seen[0].trailers == [(b"A", b"b")]


async def test_a_preflight_and_a_foreign_origin_are_answered_before_allow_is_asked() -> None:
    app = "https://app.example"
    async with Product(allow="Patient.r", allowed_origins=app) as product:
        asked = [("Origin", app), ("Access-Control-Request-Method", "PUT")]
        assert (await fetch(product.port, "OPTIONS", "/Task/1", asked)).status == 204
        refused = await fetch(product.port, "PUT", "/Task/1", [("Origin", app)])
        assert (refused.status, refused["Access-Control-Allow-Origin"]) == (403, app)
        foreign = await fetch(product.port, "PUT", "/Task/1", [("Origin", "https://evil.example")])
        assert "web page" in foreign.json()["issue"][0]["diagnostics"]


# --- bodies ---

ALLOWED = bundle(("GET", "Patient/1"), ("GET", "Patient?name=a"), ("POST", "Task"))


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_a_batch_whose_every_entry_is_permitted_goes_on_byte_by_byte(chunked: bool) -> None:
    async with Product(allow="Patient.rs Task.c") as product:
        assert (await fetch(product.port, "POST", "/", [JSON], ALLOWED, chunked=chunked)).status == 200
        assert product.fumage.seen[0].body == ALLOWED
        await nothing_left(product)


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (bundle(("GET", "Patient/1"), ("DELETE", "Patient/1")), "Entry 2 of the Bundle: "),
        (bundle(("GET", "Patient/1"), ("DELETE", "Patient/1")), "Patient.d"),
        (bundle(("POST", "Task"), ifNoneExist="a=b"), "Task.s"),
        (bundle(("POST", "")), "inside a Bundle"),
        (b'{"resourceType":"Bundle","type":"batch","entry":[{}]}', "Entry 1"),
        (ALLOWED + ALLOWED, "no JSON"),
        (b"", "no JSON"),
        (gzip.compress(ALLOWED), "no JSON"),
        (ALLOWED.decode().encode("utf-16"), "no JSON"),
    ],
)
async def test_a_batch_with_anything_else_in_it_is_refused_whole(body: bytes, missing: str) -> None:
    async with Product(allow="Patient.rs Task.c") as product:
        assert missing in refusal(await fetch(product.port, "POST", "/", [JSON], body), product)
        await nothing_left(product)


async def test_a_batch_without_a_body_is_refused() -> None:
    async with Product(allow="Patient.rs") as product:
        assert "no JSON" in refusal(await fetch(product.port, "POST", "/", [JSON]), product)


async def test_a_compressed_batch_cannot_be_judged() -> None:
    async with Product(allow="Patient.rs Task.c") as product:
        headers = [JSON, ("Content-Encoding", "gzip")]
        answer = await fetch(product.port, "POST", "/", headers, gzip.compress(ALLOWED))
        assert "compressed" in refusal(answer, product)


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_a_batch_of_exactly_replay_limit_is_judged_and_one_byte_more_refused(chunked: bool) -> None:
    limit = 128 * 1024
    body = bundle(("GET", "Patient/1"), padding=limit - len(bundle(("GET", "Patient/1"))))
    assert len(body) == limit
    async with Product(allow="Patient.rs", replay_limit=str(limit)) as product:
        assert (await fetch(product.port, "POST", "/", [JSON], body, chunked=chunked)).status == 200
        assert product.fumage.seen.pop().body == body
        product.records.clear()
        answer = await fetch(product.port, "POST", "/", [JSON], body + b" ", chunked=chunked)
        assert "replay_limit" in refusal(answer, product)
        await nothing_left(product)


async def test_when_replay_memory_is_used_up_a_batch_is_refused() -> None:
    async with Product(allow="Patient.rs", replay_memory="1000") as product:
        body = bundle(("GET", "Patient/1"), padding=2000)
        assert "replay_memory" in refusal(await fetch(product.port, "POST", "/", [JSON], body), product)
        await nothing_left(product)
    async with Product(replay_memory="1000") as product:
        assert (await fetch(product.port, "POST", "/", [JSON], body)).status == 200


async def test_no_token_and_no_connection_is_taken_before_a_batch_is_here_and_permitted() -> None:
    body = bundle(("GET", "Patient/1"), padding=2 * MIB)
    async with Product(allow="Patient.rs") as product, await Caller.connect(product.port) as caller:
        await ready(product)
        caller.write(build("POST", "/", [JSON, ("Transfer-Encoding", "chunked")]))
        await caller.send(chunk(body[:MIB]))
        await until(lambda: left(product).get("memory") == MIB)
        assert "active" not in left(product)
        assert product.fumage.seen == []
        await caller.send(chunk(body[MIB:]) + last_chunk())
        assert (await caller.answer()).status == 200
        assert product.fumage.seen[0].body == body


async def test_a_caller_that_waits_for_100_is_asked_for_a_batch_and_not_for_what_is_refused() -> None:
    expect = ("Expect", "100-continue")
    async with Product(allow="Patient.rs") as product, await Caller.connect(product.port) as caller:
        body = bundle(("GET", "Patient/1"))
        length = ("Content-Length", str(len(body)))
        caller.write(build("POST", "/", [JSON, expect, length]))
        assert await caller.line() == b"HTTP/1.1 100 Continue"
        assert await caller.line() == b""
        caller.write(body)
        assert (await caller.answer()).status == 200
        caller.write(build("POST", "/Task", [JSON, expect, length]))
        refused = await caller.answer()
        assert (refused.status, refused.interim) == (403, [])


async def test_a_batch_is_sent_once_more_after_a_401() -> None:
    async with Product(allow="Patient.rs Task.c") as product:
        product.fumage.script += [unauthorized()]
        product.fumage.answer = tokens_only(product.emr.issued)
        assert (await fetch(product.port, "POST", "/", [JSON], ALLOWED)).status == 200
        assert [seen.body for seen in product.fumage.seen] == [ALLOWED] * 2


async def test_a_caller_that_leaves_in_the_middle_of_a_batch_leaves_nothing_behind() -> None:
    async with Product(allow="Patient.rs") as product:
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/", [JSON, ("Content-Length", "1000")]))
            await caller.send(b"{" * 500)
            await until(lambda: left(product).get("memory") == 500)
        await nothing_left(product)
        assert product.fumage.seen == []


@pytest.mark.parametrize(
    ("form", "missing"),
    [
        (b"name=a&_count=5", ""),
        (b"", ""),
        (b"_revinclude=Observation:patient", "Observation.r"),
        (b"name=a;_has%3AObservation:patient:code=1", "Observation.s"),
        (b"a=b&" * 1001, "more parameters"),
        (b"name=" + b"a" * 256 * 1024, "too long"),
    ],
    ids=["plain", "empty", "include", "disguised", "many", "long"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_a_search_form_is_judged_like_a_query(form: bytes, missing: str, chunked: bool) -> None:
    async with Product(allow="Patient.rs") as product:
        answer = await fetch(product.port, "POST", "/Patient/_search", [FORM], form, chunked=chunked)
        if missing:
            assert missing in refusal(answer, product)
        else:
            assert answer.status == 200
            assert product.fumage.seen[0].body == form


async def test_other_bodies_are_not_kept_back() -> None:
    """A create is judged by its head, and streams."""
    async with (
        Product(allow="Patient.c", replay_limit="9") as product,
        await Caller.connect(product.port) as caller,
    ):
        seen = product.fumage.seen
        caller.write(build("POST", "/Patient", [JSON, ("Content-Length", str(MIB))]))
        await caller.send(b"x" * (MIB - 1))
        await product.fumage.until(lambda: seen and len(seen[0].content) == MIB - 1)
        await caller.send(b"x")
        assert (await caller.answer()).status == 200


# --- no restriction ---


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("GET", "/Patient/../%2e/x?_include=*", [], None),
        ("GET", "/ui/login", [("X-HTTP-Method-Override", "DELETE")], None),
        ("POST", "/$graphql", [JSON], b"{}"),
        ("POST", "/", [JSON], b"no JSON"),
        ("POST", "/Patient/_search", [FORM], b"_revinclude=*"),
        ("GET", "/Patient", [], b"a body"),
    ],
)
async def test_all_cruds_restricts_nothing(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes | None
) -> None:
    async with Product(allow="Patient.rs *.cruds") as product:
        assert (await fetch(product.port, method, target, headers, body)).status == 200
        assert product.fumage.seen[0].target == target.encode()
        assert product.fumage.seen[0].body == (body or b"")


async def test_a_hundred_callers_are_judged_one_by_one() -> None:
    async with Product(allow="Patient.rs") as product:
        targets = ["/Patient/1" if number % 2 else "/Task/1" for number in range(100)]
        answers = await asyncio.gather(*(fetch(product.port, target=target) for target in targets))
        assert [answer.status for answer in answers] == [403, 200] * 50
        assert {seen.target for seen in product.fumage.seen} == {b"/Patient/1"}
