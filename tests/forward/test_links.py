"""`links` on the wire: which links change, that nothing else does, and that what is looked into streams."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.forward.callers import deaf
from tests.forward.leftovers import issue, nothing_left, until
from tests.support import chunk, head, last_chunk
from tests.support.caller import Answer, Caller, Cut, build, fetch
from tests.support.product import Product
from tests.support.upstream import FHIR, Behaviour, Seen, Wire, raw, reply, unauthorized

MIB = 1 << 20
GZIP = ("Content-Encoding", "gzip")


def document(base: str, *, padding: int = 0) -> bytes:
    """A Bundle with a link of each kind, in a spelling that no serialiser would give back."""
    text = (
        '{ "resourceType":"Bundle", "link" : [ {"relation":"next","url": "BASE/Patient?a=1\\u0026b=\\u00e9"},'
        '\n{"url":"/Patient?page=3"} ], "entry":[{"fullUrl":"BASE/Patient/1","resource":{"n":1.00e+2,'
        '"photo":[{"url":"BASE/Patient/1/files/photo"}],"x":"PADDING"}}]}'
    )
    return text.replace("BASE", base).replace("PADDING", "y" * padding).encode()


def rewritten(body: bytes, base: str, links: str, here: str) -> bytes:
    what, _, absolute = links.partition(",")
    wanted = body
    if what in ("bundle", "all"):
        wanted = wanted.replace(f'"{base}/Patient?'.encode(), f'"{here}/Patient?'.encode())
    if what == "all":
        wanted = wanted.replace(f'"{base}/Patient/1/files'.encode(), f'"{here}/Patient/1/files'.encode())
    return wanted.replace(b'"/Patient?page', f'"{here}/Patient?page'.encode()) if absolute else wanted


@asynccontextmanager
async def product(links: str, **settings: str) -> AsyncIterator[tuple[Product, str, str]]:
    """With Fumage's address, and the one that callers use."""
    async with Product(links=links, **settings) as running:
        yield running, running.fumage.url, f"http://localhost:{running.port}"


async def get(
    running: Product, target: str = "/Patient", *headers: tuple[str, str], method: str = "GET"
) -> Answer:
    return await fetch(running.port, method, target, headers, host=f"localhost:{running.port}")


ALL = ["off", "location", "bundle", "bundle,absolute", "all", "all,absolute"]
BODIES = ALL[2:]


@pytest.mark.parametrize("links", ALL)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("coding", ["", "identity", "gzip", "x-gzip"])
async def test_links_of_each_kind_become_ours_and_nothing_else_changes(
    links: str, framing: str, coding: str
) -> None:
    async with product(links) as (running, base, here):
        body = document(base)
        sent = gzip.compress(body) if "gzip" in coding else body
        headers = [FHIR, ("ETag", 'W/"1"'), *([("Content-Encoding", coding)] if coding else [])]
        running.fumage.answer = reply(200, sent, headers, framing=framing)  # type: ignore[arg-type]
        answer = await get(running)
        if links not in BODIES:
            assert answer.body == sent
            assert answer["Content-Encoding"] == (coding or None)
            return
        assert answer.body == rewritten(body, base, links, here)
        assert answer["Content-Encoding"] == (coding if coding == "identity" else None)
        assert answer["ETag"] == 'W/"1"'
        assert answer.framing == "chunked"
        (record,) = running.records
        assert (record.response_bytes, record.broken) == (len(answer.body), None)
        await nothing_left(running)
        assert (await get(running)).status == 200


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_http_1_0_gets_a_body_that_ends_with_the_connection(coding: str) -> None:
    async with product("bundle") as (running, base, here), await Caller.connect(running.port) as caller:
        body = document(base)
        running.fumage.answer = reply(
            200, gzip.compress(body) if coding else body, [FHIR, *([GZIP] if coding else [])]
        )
        caller.write(
            b"GET /Patient HTTP/1.0\r\nHost: localhost:%d\r\nConnection: keep-alive\r\n\r\n" % running.port
        )
        answer = await caller.answer()
        assert (answer.framing, answer["Connection"]) == ("close", "close")
        assert answer["Content-Length"] is None
        assert answer.body == rewritten(body, base, "bundle", here)


async def test_the_answer_to_head_says_what_get_would_get() -> None:
    async with product("all") as (running, base, _), await Caller.connect(running.port) as caller:
        running.fumage.answer = reply(200, gzip.compress(document(base)), [FHIR, GZIP, ("Digest", "a")])
        answer = await caller.request("HEAD", "/Patient")
        assert (answer.status, answer.body) == (200, b"")
        assert {"Content-Length", "Content-Encoding", "Digest", "Transfer-Encoding"}.isdisjoint(
            name.decode() for name, _ in answer.headers
        )
        assert (await caller.request()).status == 200


OF_THE_BYTES = ["Content-MD5", "Digest", "Content-Digest", "Repr-Digest", "Accept-Ranges"]


async def test_what_is_true_of_fumages_bytes_alone_goes_from_head_and_trailers() -> None:
    async with product("bundle") as (running, base, _):
        fields = [(name, "a") for name in OF_THE_BYTES] + [("X-Kept", "b")]
        running.fumage.answer = reply(
            200, document(base), [FHIR, *fields], framing="chunked", trailers=fields
        )
        answer = await get(running)
        assert not [name for name in OF_THE_BYTES if answer[name]]
        assert answer["X-Kept"] == "b"
        assert answer.trailers == [(b"X-Kept", b"b")]


AS_IT_IS: dict[str, tuple[int, list[tuple[str, str]]]] = {
    "a part": (206, [FHIR]),
    "a part by its field": (200, [FHIR, ("Content-Range", "bytes 0-9/100")]),
    "no JSON": (200, [("Content-Type", "text/html")]),
    "many documents": (200, [("Content-Type", "application/fhir+ndjson")]),
    "no type": (200, []),
    "what we cannot open": (200, [FHIR, ("Content-Encoding", "br")]),
    "coded twice": (200, [FHIR, ("Content-Encoding", "gzip, gzip")]),
}


@pytest.mark.parametrize(("status", "headers"), AS_IT_IS.values(), ids=AS_IT_IS)
async def test_what_cannot_be_looked_into_goes_on_as_it_is(
    status: int, headers: list[tuple[str, str]]
) -> None:
    async with product("all,absolute") as (running, base, _):
        body = document(base)
        running.fumage.answer = reply(status, body, [*headers, ("Digest", "a"), ("Accept-Ranges", "bytes")])
        answer = await get(running)
        assert (answer.body, answer.framing) == (body, "length")
        assert (answer["Digest"], answer["Accept-Ranges"]) == ("a", "bytes")
        wanted = [(name, value) for name, value in headers if name == "Content-Encoding"]
        assert answer["Content-Encoding"] == (wanted[0][1] if wanted else None)


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_has_no_body_keeps_its_head(status: int) -> None:
    async with product("all") as (running, _, _), await Caller.connect(running.port) as caller:
        running.fumage.answer = reply(status, b"", [FHIR, GZIP, ("Digest", "a")])
        answer = await caller.request()
        assert (answer.status, answer["Content-Encoding"], answer["Digest"]) == (status, "gzip", "a")
        assert (await caller.request()).status == status


async def test_an_empty_body_stays_an_empty_body() -> None:
    async with product("all") as (running, _, _), await Caller.connect(running.port) as caller:
        running.fumage.script += [reply(201, b"", [FHIR]), reply(200, b"", [FHIR, GZIP], framing="chunked")]
        assert (await caller.request())["Content-Length"] == "0"
        answer = await caller.request()
        assert (answer.body, answer.framing) == (b"", "chunked")


async def test_errors_and_other_methods_are_looked_into_as_well() -> None:
    async with product("all") as (running, base, here):
        running.fumage.answer = reply(422, document(base), [FHIR])
        assert (await get(running, method="PUT")).body == rewritten(document(base), base, "all", here)


async def test_request_bodies_are_never_touched() -> None:
    async with product("all,absolute") as (running, base, here):
        body = document(base) + document(here)
        host = f"localhost:{running.port}"
        assert (await fetch(running.port, "PUT", "/Patient/1", [FHIR], body, host=host)).status == 200
        assert running.fumage.seen[0].body == body


async def test_after_a_401_the_answer_is_looked_into() -> None:
    async with product("bundle") as (running, base, here):
        running.fumage.script += [unauthorized(), reply(200, document(base), [FHIR])]
        assert (await get(running)).body == rewritten(document(base), base, "bundle", here)
        running.fumage.answer = unauthorized()
        assert (await get(running)).proxy_status["details"] == "token-rejected"


async def test_the_address_is_the_one_that_the_caller_used() -> None:
    async with product("bundle") as (running, base, _):
        running.fumage.answer = reply(200, document(base), [FHIR])
        for target, host, here in (
            ("/a", "127.0.0.1:1", "http://127.0.0.1:1"),
            ("http://localhost:2/a", "localhost", "http://localhost:2"),
        ):
            answer = await fetch(running.port, target=target, host=host)
            assert answer.body == rewritten(document(base), base, "bundle", here)


# --- what is asked for ---


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        (None, None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "gzip"),
        ("br;q=1, gzip;q=0.5", "gzip;q=0.5"),
        ("br", "identity"),
        ("identity", "identity"),
        ("*", "identity"),
    ],
)
async def test_an_accept_encoding_is_narrowed_to_what_we_can_open_and_never_added(
    sent: str | None, asked: str | None
) -> None:
    headers = [("accept-encoding", sent)] if sent is not None else []
    async with product("bundle") as (running, _, _):
        await get(running, "/a", *headers)
        assert running.fumage.seen[0]["Accept-Encoding"] == asked
    async with product("location") as (running, _, _):
        await get(running, "/a", *headers)
        assert running.fumage.seen[0]["Accept-Encoding"] == sent


# --- Location ---


@pytest.mark.parametrize("links", ["location", "all"])
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("{base}/fhir/Task/1", "{here}/Task/1"),
        ("/fhir/Task/1", "/Task/1"),
        ("/fhir?page=2", "/?page=2"),
        ("/fhir", "/"),
        ("/other", "/other"),
        ("https://files.example/x?X-Amz-Signature=1", "https://files.example/x?X-Amz-Signature=1"),
    ],
)
async def test_a_location_below_a_base_with_a_path(links: str, location: str, expected: str) -> None:
    async with product("off") as (double, base, _):
        double.fumage.answer = reply(302, b"", [("Location", location.format(base=base))])
        async with Product(double.fumage, double.emr, base_url=f"{base}/fhir", links=links) as running:
            here = f"http://localhost:{running.port}"
            assert (await get(running))["Location"] == expected.format(here=here)


# --- streams ---


def pieces(*parts: bytes, coding: str = "", end: bytes = last_chunk()) -> Behaviour:
    """Chunks one by one, as fast as they are taken; `end` ends the body, or does not."""

    async def play(seen: Seen, wire: Wire) -> None:
        fields = [FHIR, ("Transfer-Encoding", "chunked"), *([("Content-Encoding", coding)] if coding else [])]
        wire.write(head("HTTP/1.1 200 OK", fields))
        for part in parts:
            wire.write(chunk(part))
            await wire.drain()
        if end:
            wire.write(end)
        else:
            wire.close()

    return play


def compressed(data: bytes, size: int = 1000) -> list[bytes]:
    packed = gzip.compress(data)
    return [packed[at : at + size] for at in range(0, len(packed), size)]


@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_body_may_come_in_any_pieces(coding: str, size: int) -> None:
    async with product("all") as (running, base, here):
        body = document(base, padding=300)
        data = gzip.compress(body) if coding else body
        running.fumage.answer = pieces(
            *(data[at : at + size] for at in range(0, len(data), size)), coding=coding
        )
        assert (await get(running)).body == rewritten(body, base, "all", here)


async def test_the_beginning_arrives_before_the_end_is_there() -> None:
    go = asyncio.Event()

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(head("HTTP/1.1 200 OK", [FHIR, ("Transfer-Encoding", "chunked")]))
        wire.write(chunk(document(wire.upstream.url, padding=1000)[:-2]))
        await go.wait()
        wire.write(chunk(b"]}") + last_chunk())

    async with product("bundle") as (running, _, here), await Caller.connect(running.port) as caller:
        running.fumage.answer = play
        caller.write(build(target="/Patient", host=f"localhost:{running.port}"))
        got = b""
        while f"{here}/Patient?".encode() not in got:
            got += await caller.some()
        go.set()
        while not got.endswith(last_chunk()):
            got += await caller.some()


@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_five_megabytes_stream_to_a_slow_caller_without_piling_up(coding: str) -> None:
    async with product("all") as (running, base, here):
        entry = document(base, padding=1500)
        body = b"[" + b",".join([entry] * (5 * MIB // len(entry))) + b"]"
        parts = (
            compressed(body, 16384)
            if coding
            else [body[at : at + 65536] for at in range(0, len(body), 65536)]
        )
        running.fumage.answer = pieces(*parts, coding=coding)
        caller = await deaf(running.port)
        async with caller:
            caller.write(build(target="/Patient", host=f"localhost:{running.port}"))
            (inbound,) = await opened(running)
            await until(lambda: inbound.congested)
            await asyncio.sleep(0.05)  # time enough to read on, if it did
            assert inbound._transport.get_write_buffer_size() < MIB
            answer = await caller.answer()
        assert answer.body == rewritten(body, base, "all", here)
        await nothing_left(running)


async def opened(running: Product) -> list:  # type: ignore[type-arg]
    await until(lambda: running.app._callers.open)
    return list(running.app._callers.open)


async def test_a_small_answer_that_inflates_to_much_does_not_pile_up() -> None:
    """16 MiB of blanks are 16 KB of gzip: they arrive at once, and are opened as the caller takes them."""
    async with product("bundle") as (running, _, _):
        body = b"[" + b" " * 16 * MIB + b"]"
        running.fumage.answer = reply(200, gzip.compress(body), [FHIR, GZIP])
        caller = await deaf(running.port)
        async with caller:
            caller.write(build(target="/Patient"))
            (inbound,) = await opened(running)
            await until(lambda: inbound.congested)
            await asyncio.sleep(0.05)
            assert inbound._transport.get_write_buffer_size() < MIB
            assert (await caller.answer()).body == body


CUT: dict[str, Behaviour] = {
    "chunked": pieces(b'{"link":[{"url":"x"', end=b""),
    "gzip": pieces(*compressed(bytes(range(256)) * 99, 100)[:2], coding="gzip", end=b""),
    "length": raw(
        head("HTTP/1.1 200 OK", [FHIR, ("Content-Length", "100")]) + b'{"link":[{"url":"h', "close"
    ),
}


@pytest.mark.parametrize("how", CUT)
async def test_what_breaks_off_upstream_breaks_off_here(how: str) -> None:
    async with product("bundle") as (running, _, _), await Caller.connect(running.port) as caller:
        running.fumage.answer = CUT[how]
        with pytest.raises(Cut):
            await caller.request()
        (record,) = running.records
        assert record.broken is not None
        await nothing_left(running)


NOT_GZIP = {
    "none": b"no gzip at all",
    "cut": gzip.compress(b'{"a":1}' * 1000)[:-9],
    "wrong sum": gzip.compress(b"{}")[:-4] + b"oops",
    "deflate": zlib.compress(b"{}"),
}


@pytest.mark.parametrize("body", NOT_GZIP.values(), ids=NOT_GZIP)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_came_whole_and_is_not_in_its_coding_is_an_error_of_fumage(
    body: bytes, framing: str
) -> None:
    async with product("bundle") as (running, _, _):
        running.fumage.answer = raw(whole(body, framing))
        answer = await get(running)
        assert (answer.status, answer.proxy_status) == (502, {"error": "http_protocol_error"})
        assert issue(answer) == ("error", "transient")
        (record,) = running.records
        assert (record.origin, record.status) == ("proxy", 502)
        await nothing_left(running)


def whole(body: bytes, framing: str) -> bytes:
    """An answer for one write."""
    if framing == "length":
        return head("HTTP/1.1 200 OK", [FHIR, GZIP, ("Content-Length", str(len(body)))]) + body
    return (
        head("HTTP/1.1 200 OK", [FHIR, GZIP, ("Transfer-Encoding", "chunked")]) + chunk(body) + last_chunk()
    )


@pytest.mark.parametrize("body", NOT_GZIP.values(), ids=NOT_GZIP)
async def test_a_body_whose_beginning_is_out_is_broken_off_when_it_is_not_in_its_coding(body: bytes) -> None:
    go = asyncio.Event()

    async def play(seen: Seen, wire: Wire) -> None:
        wire.write(head("HTTP/1.1 200 OK", [FHIR, GZIP, ("Transfer-Encoding", "chunked")]))
        await go.wait()
        wire.write(chunk(body) + last_chunk())

    async with product("bundle") as (running, _, _), await Caller.connect(running.port) as caller:
        running.fumage.answer = play
        caller.write(build(target="/Patient"))
        await until(lambda: caller.buffer)
        go.set()
        with pytest.raises(Cut):
            await caller.answer()
        (record,) = running.records
        assert "Content-Encoding" in str(record.broken)
        await nothing_left(running)


async def test_a_caller_that_leaves_ends_the_answer() -> None:
    async with product("bundle") as (running, base, _):
        async with await Caller.connect(running.port) as caller:
            running.fumage.answer = pieces(*[document(base, padding=100_000)] * 100)
            caller.write(build(target="/Patient"))
            await caller.some()
        await nothing_left(running)
        (record,) = running.records
        assert record.abandoned


async def test_a_bundle_of_many_pages_is_still_json() -> None:
    async with product("all,absolute") as (running, base, here):
        body = b"[" + b",".join([document(base)] * 2000) + b"]"
        running.fumage.answer = pieces(*compressed(body), coding="gzip")
        for one in json.loads((await get(running)).body):
            assert [link["url"].startswith(here + "/") for link in one["link"]] == [True, True]
            assert one["entry"][0]["fullUrl"].startswith(base)
