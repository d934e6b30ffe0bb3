"""Section 4 of the contract: what of a request goes on unchanged, what not, and what little is added."""

import re

import pytest

from tests.forward.fumage import HOPS
from tests.support import Message, head
from tests.support.caller import Caller, build, fetch
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, reply, unauthorized

OWN = {b"host", b"via", b"x-request-id", b"authorization", b"content-length", b"transfer-encoding"}


def others(message: Message) -> list[tuple[bytes, bytes]]:
    """The fields less those that the proxy sets itself."""
    return [field for field in message.headers if field[0].lower() not in OWN]


TARGETS = [
    b"/",
    b"/Patient?",
    b"/Patient??a",
    b"/Patient?name=%C3%84&x=a+b%20c|d%7Ce",
    b"/Observation?code=http://loinc.org|1234-5&date=ge2020&date=lt2021",
    b"/Patient/a%2Fb%2f..%00",
    b"/Patient/../Patient/./1/..",
    b"//evil.example/Patient",
    b"/Patient//1/",
    b"/Patient;v=1/1;a=b?c;d",
    b"/Patient/%FF?%zz=%",
    b"/$export?_type=Patient,Group",
    b"/Patient?a=\"<>\\^`{}'()*!~",
    b"/Patient?" + b"identifier=x|y%7Cz&" * 1600,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target[:24].decode())
@pytest.mark.parametrize("path", ["", "/base/v1"])
async def test_a_target_goes_on_byte_for_byte_behind_the_path_of_the_base(target: bytes, path: str) -> None:
    product = Product()
    async with product.fumage, Product(product.fumage, base_url=product.fumage.url + path) as product:
        assert (await fetch(product.port, "GET", target)).status == 200
        (seen,) = product.fumage.seen
        assert seen.target == path.encode() + target


async def test_an_absolute_target_goes_on_as_its_path_and_never_chooses_the_upstream() -> None:
    async with Product() as product:
        for target, path in [
            ("http://localhost/Patient?", b"/Patient?"),
            ("http://127.0.0.1:99/a%2Fb", b"/a%2Fb"),
            ("http://localhost?a", b"/?a"),
        ]:
            assert (await fetch(product.port, "GET", target)).status == 200
            assert product.fumage.seen[-1].target == path
            assert product.fumage.seen[-1]["Host"] == product.fumage.url.removeprefix("http://")
        assert (await fetch(product.port, "OPTIONS", "*")).status == 200
        assert product.fumage.seen[-1].target == b"*"


async def test_end_to_end_fields_keep_their_order_case_number_and_bytes() -> None:
    fields = [
        (b"accept", b"application/fhir+json;fhirVersion=4.0"),
        (b"IF-NONE-EXIST", b"identifier=http://a|b"),
        (b"x-a", b"1"),
        (b"X-A", b"2"),
        (b"x-obs", b"J\xf6rg \xff\x80"),
        (b"x-empty", b""),
        (b"X-a", b"a, b"),
        (b"x-html", b"<a>\"'\\;\tb"),
        (b"Content-Type", b'application/fhir+json; charset="utf-8"'),
    ]
    async with Product() as product:
        await fetch(product.port, "POST", "/Patient", fields, b"x")
        assert others(product.fumage.seen[0]) == fields


async def test_nothing_is_added_but_host_via_request_id_and_credential_which_comes_last() -> None:
    async with Product() as product:
        answer = await fetch(product.port)
        (seen,) = product.fumage.seen
        assert [name for name, _ in seen.headers] == [b"Host", b"Via", b"X-Request-Id", b"Authorization"]
        assert seen["Host"] == product.fumage.url.removeprefix("http://")
        assert seen["Via"] == "1.1 fumage-proxy"
        assert seen["Authorization"] == "Bearer token-1"
        assert re.fullmatch("[0-9a-f]{32}", seen["X-Request-Id"] or "")
        assert answer["X-Request-Id"] == seen["X-Request-Id"]


@pytest.mark.parametrize(
    "given", ["7", "a b, c", "\xe4\xf6", "x" * 1000], ids=["short", "list", "obs-text", "long"]
)
async def test_a_request_id_is_passed_on_and_comes_back(given: str) -> None:
    async with Product() as product:
        product.fumage.answer = reply(200, headers=[("X-Request-Id", "of Fumage")])
        answer = await fetch(product.port, "GET", "/", [("x-request-id", given)])
        assert answer.all("X-Request-Id") == product.fumage.seen[0].all("X-Request-Id") == [given]


@pytest.mark.parametrize(
    "fields",
    [[("X-Request-Id", "")], [("X-Request-Id", "mine"), ("Connection", "x-request-id")]],
    ids=["empty", "named by Connection"],
)
async def test_a_request_id_that_does_not_go_on_is_made_anew(fields: list[tuple[str, str]]) -> None:
    async with Product() as product:
        answer = await fetch(product.port, "GET", "/", fields)
        (sent,) = product.fumage.seen[0].all("X-Request-Id")
        assert re.fullmatch("[0-9a-f]{32}", sent)
        assert answer.all("X-Request-Id") == [sent]


async def test_a_via_of_others_is_kept_and_ours_added() -> None:
    async with Product() as product:
        await fetch(
            product.port, "GET", "/", [("Via", "1.0 fumage-proxy.example (fumage-proxy)"), ("Via", "2 b")]
        )
        assert product.fumage.seen[0].all("Via") == [
            "1.0 fumage-proxy.example (fumage-proxy)",
            "2 b",
            "1.1 fumage-proxy",
        ]


IDENTITY = [
    ("Authorization", "Bearer of-the-caller"),
    ("aUTHORIZATION", "Basic eDp5"),
    ("Cookie", "a=b"),
    ("Forwarded", "for=1.2.3.4"),
    ("X-Forwarded-For", "1.2.3.4"),
    ("x-forwarded-host", "evil"),
    ("X-Forwarded-Proto", "https"),
    ("X-FORWARDED-ANYTHING", "1"),
]


async def test_hop_by_hop_fields_and_the_callers_identity_do_not_go_on() -> None:
    async with Product() as product:
        await fetch(product.port, "POST", "/A", [*HOPS, *IDENTITY, ("X-B", "c")], b"x")
        (seen,) = product.fumage.seen
        assert others(seen) == [(b"X-B", b"c")]
        assert seen.all("Authorization") == ["Bearer token-1"]


async def test_nor_do_they_in_trailers() -> None:
    async with Product() as product:
        trailers = [*HOPS, *IDENTITY, ("Host", "x"), ("X-B", "c")]
        await fetch(
            product.port, "POST", "/A", [("Connection", "x-mine")], [b"x"], chunked=True, trailers=trailers
        )
        (seen,) = product.fumage.seen
        assert seen.trailers == [(b"X-B", b"c")]
        assert b"of-the-caller" not in seen.raw_head + seen.raw_body


@pytest.mark.parametrize(
    "named",
    [
        "authorization",
        "Host, Via",
        "content-length",
        "transfer-encoding",
        "content-length, close",
        "keep-alive,,",
    ],
)
async def test_connection_cannot_take_away_what_is_ours(named: str) -> None:
    async with Product() as product:
        for shape in ({"body": b"abc"}, {"body": [b"a", b"bc"], "chunked": True}):
            await fetch(product.port, "POST", "/A", [("Connection", named)], **shape)  # type: ignore[arg-type]
            seen = product.fumage.seen[-1]
            assert seen.body == b"abc"
            assert seen["Authorization"] == "Bearer token-1"
            assert seen["Host"] == product.fumage.url.removeprefix("http://")
            assert seen["Via"] == "1.1 fumage-proxy"


async def test_expect_is_answered_here_and_does_not_go_on() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        caller.write(build("POST", "/A", [("Expect", "100-continue"), ("Content-Length", "3")]))
        assert await caller.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.write(b"abc")
        assert (await caller.answer()).status == 200
        assert product.fumage.seen[0].all("Expect") == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
async def test_a_request_without_a_body_gets_no_framing_and_an_empty_one_keeps_its(method: str) -> None:
    async with Product() as product:
        await fetch(product.port, method)
        assert product.fumage.seen[-1].declared() is None
        await fetch(product.port, method, body=b"")
        assert product.fumage.seen[-1].declared() == 0
        await fetch(product.port, method, body=[], chunked=True)
        assert product.fumage.seen[-1].declared() == "chunked"


async def test_a_compressed_body_is_not_opened() -> None:
    async with Product() as product:
        product.fumage.answer = reply(200, b"\x1f\x8b no gzip", [("Content-Encoding", "gzip")])
        answer = await fetch(product.port, "POST", "/A", [("Content-Encoding", "gzip")], b"\x1f\x8bnone")
        assert product.fumage.seen[0].body == b"\x1f\x8bnone"
        assert (answer["Content-Encoding"], answer.body) == ("gzip", b"\x1f\x8b no gzip")


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "x, Close", False),
        ("1.1", "keep-alive", True),
        ("1.0", None, False),
        ("1.0", "keep-alive", True),
        ("1.0", "close", False),
    ],
)
@pytest.mark.parametrize("body", ["", "x"], ids=["no body", "a body"])
async def test_the_callers_connection_stays_open_as_the_caller_says(
    version: str, connection: str | None, stays: bool, body: str
) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        fields = [("Host", "localhost"), ("Content-Length", str(len(body)))]
        fields += [("Connection", connection)] if connection else []
        caller.write(head(f"POST / HTTP/{version}", fields) + body.encode())
        answer = await caller.answer()
        assert answer.status == 200
        if stays:
            assert answer["Connection"] == (None if version == "1.1" else "keep-alive")
            assert (await caller.request()).status == 200
        else:
            assert answer["Connection"] == "close"
            assert await caller.eof() == "eof"


async def test_a_request_that_has_been_here_is_not_sent_round_again() -> None:
    async with Product() as product:
        answer = await fetch(product.port, "GET", "/", [("Via", "1.1 other, 1.1 fumage-proxy")])
        assert (answer.status, answer.proxy_status["error"]) == (508, "proxy_loop_detected")
        assert product.fumage.seen == []


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def named(seen: Seen, wire: Wire) -> None:
        await reply(200, seen.target)(seen, wire)

    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = named
        product.fumage.script += [unauthorized()]
        caller.write(b"".join(build("POST", f"/{n}", body=b"x" * n) for n in range(20)))
        assert [(await caller.answer()).body for _ in range(20)] == [b"/%d" % n for n in range(20)]
