"""Section 4 of the contract: an answer comes back as it is, less what belongs to one hop, and cookies."""

import pytest

from tests.forward.fumage import HOPS
from tests.forward.leftovers import nothing_left
from tests.support import Message
from tests.support.caller import Caller, fetch
from tests.support.product import Product
from tests.support.upstream import Behaviour, raw, reply

OWN = {b"host", b"via", b"x-request-id", b"authorization", b"content-length", b"transfer-encoding"}


def others(message: Message) -> list[tuple[bytes, bytes]]:
    """The fields less those that the proxy sets itself."""
    return [field for field in message.headers if field[0].lower() not in OWN]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, b"OK"),
        (200, b""),
        (201, b"Created, J\xf6rg \xff"),
        (202, b"Accepted"),
        (299, b"Odd"),
        (400, b"OK"),
        (409, b"Conflict"),
        (412, b"Precondition Failed"),
        (418, b"I'm a <teapot>"),
        (429, b"Slow  down"),
        (500, b"E"),
        (599, b"Q"),
    ],
)
async def test_a_status_and_its_reason_come_back_as_they_are(status: int, reason: bytes) -> None:
    async with Product() as product:
        product.fumage.answer = raw(b"HTTP/1.1 %d %b\r\nContent-Length: 2\r\n\r\nhi" % (status, reason))
        answer = await fetch(product.port)
        assert answer.raw_head.startswith(b"HTTP/1.1 %d %b\r\n" % (status, reason))
        assert (answer.body, answer.proxy_status) == (b"hi", {})


async def test_the_fields_of_an_answer_keep_their_order_case_number_and_bytes() -> None:
    fields = [
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("SERVER", "x"),
        ("ETag", 'W/"3141"'),
        ("Retry-After", "120"),
        ("fumage-correlation-id", "a-b"),
        ("Link", "<a>; rel=b"),
        ("link", "<c>; rel=d"),
        ("WWW-Authenticate", "Bearer, Basic"),
        ("X-Obs", "\xff\x80"),
        ("X-Empty", ""),
        ("Content-Type", "application/fhir+json"),
        ("Location", "Patient/1"),
        ("Proxy-Status", "edge; error=x"),
        ("Access-Control-Allow-Origin", "*"),
    ]
    async with Product() as product:
        product.fumage.answer = reply(200, b"x", fields)
        answer = await fetch(product.port)
        expected = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        assert others(answer) == expected


async def test_the_length_of_an_answer_stays_where_it_stood() -> None:
    async with Product() as product:
        head = b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\nServer: y\r\nETag: z\r\n\r\n"
        product.fumage.script += [raw(head + b"{}")] * 2
        for _ in range(2):
            answer = await fetch(product.port)
            names = [name for name, _ in answer.headers]
            assert names == [b"Date", b"Content-Length", b"Server", b"ETag", b"X-Request-Id"]


async def test_hop_by_hop_fields_and_cookies_of_an_answer_do_not_come_back() -> None:
    hops = [
        ("Set-Cookie", "a=b"),
        ("set-cookie", "c=d"),
        ("Set-Cookie2", "e"),
        ("Proxy-Authenticate", "Basic"),
    ]
    hops += [field for field in HOPS if field[0] != "Connection"]
    async with Product() as product:
        product.fumage.answer = reply(
            200,
            headers=[*hops, ("Connection", "x-mine, content-length"), ("X-B", "c")],
            framing="chunked",
            chunks=[b"x"],
            trailers=[*hops, ("Access-Control-Allow-Origin", "*"), ("X-T", "u")],
        )
        answer = await fetch(product.port)
        assert others(answer) == [(b"X-B", b"c")]
        assert (answer.body, answer.trailers) == (b"x", [(b"X-T", b"u")])


@pytest.mark.parametrize("status", [204, 304])
async def test_204_and_304_have_no_body_and_the_connection_goes_on(status: int) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = reply(status, headers=[("ETag", "x")])
        for _ in range(3):
            answer = await caller.request()
            assert (answer.status, answer.framing, answer["ETag"]) == (status, "none", "x")
            assert answer["Transfer-Encoding"] is None


async def test_a_304_keeps_its_content_length_and_a_204_has_none() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        for status, length in ((304, "5"), (204, None)):
            product.fumage.script += [raw(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)]
            assert (await caller.request())["Content-Length"] == length


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"hello"),
        reply(200, framing="chunked", chunks=[b"x"]),
        raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", then="close"),
        raw(b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
    ids=["length", "chunked", "close", "none"],
)
async def test_head_gets_the_head_alone_and_the_connection_goes_on(answer: Behaviour) -> None:
    async with Product() as product:
        async with await Caller.connect(product.port) as caller:
            for _ in range(2):
                product.fumage.answer = answer
                got = await caller.request("HEAD")
                assert (got.status, got.body) == (200, b"")
                product.fumage.answer = reply(200, b"whole")
                assert (await caller.request()).body == b"whole"
        await nothing_left(product)


INTERIM = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nSet-Cookie: a=b\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nLink: </b>; rel=preload\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
)


async def test_interim_answers_pass_less_100() -> None:
    async with Product() as product:
        product.fumage.answer = raw(INTERIM)
        answer = await fetch(product.port)
        assert [(one.status, one.headers) for one in answer.interim] == [
            (103, [(b"Link", b"</a>; rel=preload")]),
            (103, [(b"Link", b"</b>; rel=preload")]),
        ]
        assert answer.body == b"hi"


async def test_http_1_0_callers_get_no_interim_answers() -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = raw(INTERIM)
        caller.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = await caller.answer()
        assert (answer.status, answer.interim, answer.body) == (200, [], b"hi")


FRAMINGS: dict[str, Behaviour] = {
    "length": reply(200, b"hello"),
    "chunked": reply(200, framing="chunked", chunks=[b"he", b"llo"], trailers=[("X-T", "u")]),
    "close": reply(200, b"hello", framing="close"),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\n\r\nhello", then="close"),
}


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_http_1_1_caller_gets_a_body_whose_end_it_can_tell(framing: str) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = FRAMINGS[framing]
        for _ in range(2):
            answer = await caller.request()
            assert (answer.body, answer.framing) == (b"hello", "length" if framing == "length" else "chunked")
            assert answer.trailers == ([(b"X-T", b"u")] if framing == "chunked" else [])
            assert answer["Connection"] is None


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_an_http_1_0_caller_gets_a_length_or_the_end_of_the_connection(framing: str) -> None:
    async with Product() as product, await Caller.connect(product.port) as caller:
        product.fumage.answer = FRAMINGS[framing]
        caller.write(b"GET / HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
        answer = await caller.answer()
        assert (answer.body, answer["Transfer-Encoding"]) == (b"hello", None)
        assert answer.framing == ("length" if framing == "length" else "close")
        assert answer["Connection"] == ("keep-alive" if framing == "length" else "close")
        assert answer.trailers == []


async def test_ranges_pass() -> None:
    async with Product() as product:
        product.fumage.answer = reply(
            206, b"ell", [("Content-Range", "bytes 1-3/5"), ("Accept-Ranges", "bytes")]
        )
        fields = [("Range", "bytes=1-3"), ("If-Range", '"x"')]
        answer = await fetch(product.port, "GET", "/Binary/1", fields)
        assert (answer.status, answer["Content-Range"], answer.body) == (206, "bytes 1-3/5", b"ell")
        assert others(product.fumage.seen[0]) == [(b"Range", b"bytes=1-3"), (b"If-Range", b'"x"')]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_the_callers_and_the_bearer_stays(status: int) -> None:
    there = Product().emr
    async with there, Product() as product:
        product.fumage.answer = reply(status, b"moved", [("Location", there.url + "/file?sig=1")])
        answer = await fetch(product.port, "GET", "/DocumentReference/1/files/content")
        assert (answer.status, answer["Location"]) == (status, there.url + "/file?sig=1")
        assert len(product.fumage.seen) == 1
        assert there.connections == 0


# --- browsers ---


@pytest.mark.parametrize(
    "field",
    ["Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User", "Sec-Fetch-Storage-Access"],
)
async def test_what_a_browser_gets_must_not_run_as_script_on_our_origin(field: str) -> None:
    value = "none" if field == "Sec-Fetch-Site" else "x"
    async with Product() as product:
        own = [("X-Content-Type-Options", "sniff"), ("Content-Security-Policy", "default-src *")]
        product.fumage.answer = reply(200, b"<script>", [("Content-Type", "text/html"), *own])
        answer = await fetch(product.port, "GET", "/", [(field, value)])
        assert answer.all("Content-Security-Policy") == ["default-src *", "sandbox"]  # a browser obeys both
        assert answer.all("X-Content-Type-Options") == ["nosniff"]
        assert product.fumage.seen[0][field] == value
        own_answer = await fetch(product.port, "TRACE", "/", [(field, value)])
        assert (own_answer.status, own_answer["Content-Security-Policy"]) == (405, "sandbox")


async def test_others_get_no_such_fields() -> None:
    async with Product() as product:
        answer = await fetch(product.port)
        assert answer["Content-Security-Policy"] is answer["X-Content-Type-Options"] is None


async def test_an_allowed_origin_gets_our_cors_fields_in_the_place_of_fumages() -> None:
    async with Product(allowed_origins="https://app.example") as product:
        product.fumage.answer = reply(200, headers=[("Access-Control-Allow-Origin", "*"), ("X-B", "c")])
        answer = await fetch(product.port, "GET", "/", [("Origin", "https://app.example")])
        assert answer.all("Access-Control-Allow-Origin") == ["https://app.example"]
        assert (answer["X-B"], answer["Vary"]) == ("c", "Origin")


# --- links ---


@pytest.mark.parametrize("form", ["http", "https", "path"])
@pytest.mark.parametrize("field", ["Location", "Content-Location", "location"])
@pytest.mark.parametrize("path", ["", "/base"])
async def test_a_location_at_the_base_comes_back_as_the_address_that_the_caller_used(
    form: str, field: str, path: str
) -> None:
    fumage = Product().fumage
    async with fumage, Product(fumage, base_url=fumage.url + path) as product:
        authority = fumage.url.removeprefix("http://")
        given = f"{path}/Task/1" if form == "path" else f"{form}://{authority}{path}/Task/1"
        fumage.answer = reply(201, headers=[(field, given)])
        for host in ("localhost", f"127.0.0.1:{product.port}"):
            answer = await fetch(product.port, "POST", "/Task", body=b"x", host=host)
            assert answer.all(field) == ["/Task/1" if form == "path" else f"http://{host}/Task/1"]
        absolute = await fetch(product.port, "POST", "http://localhost:1/Task", body=b"x")
        assert absolute.all(field) == ["/Task/1" if form == "path" else "http://localhost:1/Task/1"]


async def test_with_links_off_locations_stay() -> None:
    async with Product(links="off") as product:
        product.fumage.answer = reply(201, headers=[("Location", product.fumage.url + "/Task/1")])
        assert (await fetch(product.port, "POST", body=b"x"))["Location"] == product.fumage.url + "/Task/1"
