"""Section 9: what callers, Fumage and the EMR say is not found in logs, metrics, status and errors."""

import asyncio
import io
import json

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.app import App
from proxy.clock import SystemClock
from proxy.loop import loop_factory
from proxy.watch.log import RequestLog
from tests.support.caller import Answer, Broken, Caller, fetch
from tests.support.emr import JSON, refuse
from tests.support.logs import configured
from tests.support.product import Product
from tests.support.upstream import Behaviour, raw, reply, unauthorized
from tests.watch.test_log import phi, shapes

MARK = "Zq"  # in all that is thrown, but for
OWN_MARK = "Zr"  # in the caller's X-Request-Id, which its own answer repeats
NAMES = (
    *("Authorization", "Cookie", "If-None-Exist", "If-Match", "Content-Type", "Origin", "Host", "Expect"),
    *("X-HTTP-Method-Override", "Sec-Fetch-Site", "Transfer-Encoding", "Via", "Zq-Smith"),
)
BUNDLE = b'{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"%b"}}]}'


def fumage(kind: str, value: bytes) -> list[Behaviour]:
    """One way to answer, with the value wherever there is room for it."""
    fields = [(name, value) for name in ("Location", "ETag", "Set-Cookie", "X-Patient")]
    whole = reply(200, BUNDLE % value, [("Content-Type", "application/fhir+json"), *fields])
    return {
        "whole": [whole],
        "error": [reply(422, value, fields, reason="Zq")],
        "401": [unauthorized(), whole],
        "401 twice": [reply(401, value, fields), reply(401, value, fields)],
        "status line": [raw(b"HTTP/1.1 " + value + b"\r\n\r\n", then="close")],
        "field": [raw(b"HTTP/1.1 200 OK\r\n" + value + b"\r\n\r\n", then="close")],
        "length": [raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + value + b"\r\n\r\n", then="close")],
        "cut": [raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + value, then="close")],
    }[kind]


def emr(kind: str, product: Product) -> None:
    if kind == "refuses":
        told = {"error": "invalid_client", "error_description": "Zq"}
        product.emr.answer = reply(401, json.dumps(told).encode(), [JSON, ("X-Client", "Zq")], reason="Zq")
    elif kind == "refuses strangely":
        product.emr.answer = refuse("Zq", 400)
    else:
        product.emr.answer = product.emr.grant("Zqtoken", scope="Zq")


class Heard:
    """All that is told on the side."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def note(self, app: App) -> None:
        clock = SystemClock()
        logs = [RequestLog(json_lines=as_json, stream=self.stream, clock=clock) for as_json in (True, False)]
        app.watch = lambda records: [each(records) for each in logs] and None


async def ask(product: Product, request: bytes) -> Answer | None:
    async with await Caller.connect(product.port) as caller:
        caller.write(request)
        try:
            return await caller.answer(head=request.startswith(b"HEAD "))
        except Broken:
            return None


async def everything_told(
    allow: str, links: str, kinds: tuple[str, str], request: bytes, value: bytes
) -> tuple[str, str]:
    """What is told on the side, and what the proxy itself answers the caller."""
    heard = Heard()
    with configured("debug", "json", heard.stream):
        settings = {"allow": allow, "links": links, "scope": "Zq", "patient": "Zq"}
        async with Product(**settings) as product:
            heard.note(product.app)
            emr(kinds[0], product)
            product.fumage.script += fumage(kinds[1], value)
            answer = await ask(product, request)
            product.fumage.failures.clear()  # requests that are strange on purpose
            pages = [
                await fetch(product.admin_port, "GET", path) for path in ("/metrics", "/status", "/readyz")
            ]
        product.app.flush()
    told = "".join([heard.stream.getvalue(), *(page.body.decode() for page in pages)])
    if answer is None or not (answer["Proxy-Status"] or "").startswith("fumage-proxy; error"):
        return told, ""
    return told, (answer.raw_head + answer.body).decode("latin-1")


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """The bytes of a request, mostly one that is understood."""
    method = draw(st.one_of(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD"]), phi))
    target = draw(shapes).replace(b"%b", draw(phi))
    fields = draw(st.lists(st.tuples(st.sampled_from(NAMES), phi), max_size=3))
    body = draw(st.one_of(phi, phi.map(lambda value: BUNDLE % value)))
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: localhost", b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in fields]
    if draw(st.booleans()):
        lines.append(b"X-Request-Id: " + draw(phi).replace(MARK.encode(), OWN_MARK.encode()))
    return b"\r\n".join([*lines, b"", body])


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],  # to shrink what failed would take minutes
)
@given(
    st.sampled_from(["*.cruds", "Patient.rs"]),
    st.sampled_from(["location", "all"]),
    st.tuples(
        st.sampled_from(["grants", "grants", "grants", "refuses", "refuses strangely"]),
        st.sampled_from(["whole", "error", "401", "401 twice", "status line", "field", "length", "cut"]),
    ),
    requests(),
    phi,
)
def test_nothing_of_what_was_said_is_found_beside_the_answer(
    allow: str, links: str, kinds: tuple[str, str], request: bytes, value: bytes
) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        told, answered = runner.run(everything_told(allow, links, kinds, request, value))
    assert MARK not in told + answered
    assert OWN_MARK not in told
    assert "test-secret" not in told + answered
