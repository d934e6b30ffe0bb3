"""Who is turned away, with what answer, and that nothing of it reaches Fumage."""

from pathlib import Path

import pytest

from tests.forward.leftovers import issue
from tests.support.caller import Answer, Caller, build, fetch
from tests.support.product import Product
from tests.support.upstream import close_without_answer, reply

APP = "https://app.example"
FROM_APP = ("Origin", APP)
EXPOSED = {
    "Location",
    "Content-Location",
    "ETag",
    "Last-Modified",
    "Retry-After",
    "Proxy-Status",
    "X-Request-Id",
    "fumage-correlation-id",
}


def refusal(answer: Answer, product: Product) -> tuple[int, str, str]:
    """Status, issue code and Proxy-Status error of an answer to what Fumage must not have seen."""
    assert product.fumage.seen == []
    assert list(answer.proxy_status) == ["error"]
    return answer.status, issue(answer)[1], answer.proxy_status["error"]


FORBIDDEN = (403, "forbidden", "http_request_denied")
INVALID = (400, "invalid", "http_request_error")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.:1", "127.0.0.1:3447", "[::1]", "[0::1]:80", "Fhir.internal"]
)
async def test_an_allowed_host_is_served_whatever_its_case_port_or_final_dot(host: str) -> None:
    async with Product(allowed_hosts="fhir.internal") as product:
        assert (await fetch(product.port, host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.2", "", "[::2]"])
async def test_a_foreign_host_is_refused(host: str) -> None:
    async with Product() as product:
        answer = await fetch(product.port, host=host)
        assert refusal(answer, product) == FORBIDDEN
        assert "allowed_hosts" in answer.json()["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    "target", ["http://evil.example/Patient/1", "https://evil.example:443/", "http:///a"]
)
async def test_a_foreign_authority_is_refused_though_the_host_is_allowed(target: str) -> None:
    async with Product() as product:
        assert refusal(await fetch(product.port, target=target), product) == FORBIDDEN


async def test_an_absolute_url_of_ours_is_served_as_its_path() -> None:
    async with Product() as product:
        for target in ("http://localhost:3447/Patient/1?a=%7C", "HTTP://[::1]/x", "http://127.0.0.1"):
            assert (await fetch(product.port, target=target)).status == 200
        assert [seen.target for seen in product.fumage.seen] == [b"/Patient/1?a=%7C", b"/x", b"/"]
        assert {seen["Host"] for seen in product.fumage.seen} == {f"127.0.0.1:{product.fumage.port}"}


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_without_a_host_or_with_two_a_request_is_malformed_on_tcp_and_unix_sockets(
    version: bytes, tmp_path: Path
) -> None:
    path = str(tmp_path / "socket")
    async with Product(listen=f"127.0.0.1:0,unix:{path}") as product:
        for fields in ((), (("Host", "localhost"), ("host", "localhost"))):
            data = build(host=None, headers=fields).replace(b"HTTP/1.1", version)
            for where in (None, path):
                async with await Caller.connect(product.port, path=where) as caller:
                    caller.write(data)
                    assert refusal(await caller.answer(), product) == INVALID
                    assert await caller.eof() == "eof"


async def test_on_a_unix_socket_any_host_is_served_but_no_foreign_page(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with Product(listen=f"127.0.0.1:0,unix:{path}") as product:
        answer = await fetch(None, path=path, headers=[("Origin", "https://evil.example")])
        assert refusal(answer, product) == FORBIDDEN
        for host in ("evil.example", "", "%2Frun%2Fproxy.sock", "a b"):
            assert (await fetch(None, path=path, host=host)).status == 200


FOREIGN_PAGES = {
    "a foreign origin": [("Origin", "https://evil.example")],
    "an opaque origin": [("Origin", "null")],
    "our own origin": [("Origin", "http://localhost:3447")],
    "two origins": [FROM_APP, ("Origin", "https://evil.example")],
    "an image on a foreign page": [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
    "a page of a sister site": [("Sec-Fetch-Site", "same-site")],
    "two kinds of site": [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")],
}


@pytest.mark.parametrize("fields", FOREIGN_PAGES.values(), ids=FOREIGN_PAGES.keys())
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_page_that_is_not_allowed_is_refused_and_gets_no_cors(
    fields: list[tuple[str, str]], method: str
) -> None:
    async with Product(allowed_origins=APP) as product:
        fields = [*fields, ("Access-Control-Request-Method", "GET")]
        answer = await fetch(product.port, method, headers=fields)
        assert refusal(answer, product) == FORBIDDEN
        assert not [name for name, _ in answer.headers if name.lower().startswith(b"access-control-")]


@pytest.mark.parametrize("site", ["none", "same-origin"])
async def test_what_a_person_typed_is_served_but_may_not_run_as_a_page(site: str) -> None:
    async with Product() as product:
        answer = await fetch(product.port, headers=[("Sec-Fetch-Site", site)])
        assert answer.status == 200
        assert answer["Content-Security-Policy"] == "sandbox"


async def test_a_refused_caller_may_ask_again_on_its_connection() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        assert (await caller.request(headers=[("Origin", "null")])).status == 403
        assert (await caller.request(host="evil.example")).status == 403
        assert (await caller.request()).status == 200


def cors(answer: Answer) -> None:
    assert answer.all("Access-Control-Allow-Origin") == [APP]
    (exposed,) = answer.all("Access-Control-Expose-Headers")
    assert set(exposed.split(", ")) == EXPOSED
    assert "Origin" in answer.all("Vary")


async def test_a_preflight_of_an_allowed_origin_is_answered_here() -> None:
    async with Product(allowed_origins=APP) as product, await Caller.connect(product.port) as caller:
        asked = [
            FROM_APP,
            ("Access-Control-Request-Method", "PUT"),
            ("Access-Control-Request-Headers", "if-match,x-a"),
        ]
        answer = await caller.request("OPTIONS", headers=asked)
        assert (answer.status, answer.body, answer["Content-Length"]) == (204, b"", None)
        cors(answer)
        assert answer["Access-Control-Allow-Headers"] == "if-match,x-a"
        allowed = (answer["Access-Control-Allow-Methods"] or "").split(", ")
        assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} <= set(allowed)
        assert product.fumage.seen == []
        assert (await caller.request()).status == 200


async def test_an_options_request_that_is_no_preflight_is_fumages() -> None:
    async with Product(allowed_origins=APP) as product:
        assert (await fetch(product.port, "OPTIONS", headers=[FROM_APP])).status == 200
        asked = [("Access-Control-Request-Method", "PUT")]
        assert (await fetch(product.port, "OPTIONS", "*", headers=asked)).status == 200
        assert [seen.target for seen in product.fumage.seen] == [b"/Patient/1", b"*"]


async def test_an_allowed_origin_can_read_fumages_answers_and_the_proxys_own() -> None:
    async with Product(allowed_origins=APP, max_body="10") as product:
        product.fumage.script += [
            reply(200, b"{}", [("Access-Control-Allow-Origin", "*"), ("access-control-max-age", "1")])
        ]
        answer = await fetch(product.port, headers=[FROM_APP])
        cors(answer)
        assert answer["Access-Control-Max-Age"] is None
        product.fumage.script += [close_without_answer()]
        lost = await fetch(product.port, "POST", headers=[FROM_APP])
        own = {
            502: lost,
            403: await fetch(product.port, headers=[FROM_APP], host="evil.example"),
            405: await fetch(product.port, "TRACE", headers=[FROM_APP]),
            413: await fetch(product.port, "POST", headers=[FROM_APP], body=b"x" * 11),
            508: await fetch(product.port, headers=[FROM_APP, ("Via", "1.1 fumage-proxy")]),
        }
        for status, answer in own.items():
            assert answer.status == status
            cors(answer)


@pytest.mark.parametrize(
    ("method", "target"), [("TRACE", "/"), ("CONNECT", "localhost:443"), ("CONNECT", "evil.example:443")]
)
async def test_trace_and_connect_are_not_served(method: str, target: str) -> None:
    async with Product() as product:
        answer = await fetch(product.port, method, target)
        assert refusal(answer, product) == (405, "not-supported", "http_request_denied")
        assert answer["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize("via", ["1.1 fumage-proxy", "1.0 a, 1.1 fumage-proxy (x)", "1.1 a,1.1 fumage-proxy"])
async def test_a_request_that_was_here_before_is_refused_as_a_loop(via: str) -> None:
    async with Product() as product:
        answer = await fetch(product.port, headers=[("Via", via)])
        assert refusal(answer, product) == (508, "processing", "proxy_loop_detected")


async def test_another_proxys_via_is_no_loop() -> None:
    async with Product() as product:
        assert (await fetch(product.port, headers=[("Via", "1.1 fumage-proxy-2, 1.1 x")])).status == 200


async def test_an_answer_to_a_refused_head_has_no_body() -> None:
    async with Product(max_body="1") as product, await Caller.connect(product.port) as caller:
        answer = await caller.request("HEAD", host="evil.example")
        assert (answer.status, answer.body) == (403, b"")
        caller.write(build("HEAD", body=b"12"))
        answer = await caller.answer(head=True)
        assert (answer.status, answer.body) == (413, b"")
        assert await caller.eof() == "eof"


async def test_fields_that_passed_before_pass_no_method_that_they_must_not() -> None:
    """What was decided for a caller's fields is kept for the next request with the same ones."""
    fields = [FROM_APP, ("Access-Control-Request-Method", "PUT")]
    async with Product(allowed_origins=APP) as product, await Caller.connect(product.port) as caller:
        statuses = [
            (await caller.request(method, "/Patient/1", fields)).status
            for method in ("GET", "GET", "OPTIONS", "GET", "TRACE")
        ]
    assert statuses == [200, 200, 204, 200, 405]
    assert [seen.method for seen in product.fumage.seen] == ["GET"] * 3
