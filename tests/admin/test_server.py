"""Section 8 of the contract: who may ask the admin listener for what, and how it refuses."""

import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.admin.server import AdminServer, Health
from proxy.listen import bind
from proxy.rules.guard import Guard
from proxy.settings import TCP
from tests.product.command import before, running
from tests.support.caller import Answer, Caller, fetch
from tests.support.emr import EMR
from tests.support.product import Product
from tests.support.upstream import Upstream

GUARDED = ["/", "/status"]
HEALTH = ["/livez", "/startupz", "/readyz"]


@pytest.fixture
async def product() -> AsyncIterator[Product]:
    async with Product(
        quit_endpoint="true", allowed_hosts="admin.example", allowed_origins="https://app.example"
    ) as running:
        await fetch(running.port)  # which waits for the first token
        yield running


def short_text(answer: Answer) -> str:
    """The text of an answer that is no page."""
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(text) < 300
    return text


@pytest.mark.parametrize("path", [*HEALTH, "/metrics"])
@pytest.mark.parametrize("host", ["localhost", "10.1.2.3:3448", "any.example", "a b"])
async def test_health_and_metrics_answer_any_host(path: str, host: str, product: Product) -> None:
    assert (await fetch(product.admin_port, "GET", path, host=host)).status == 200


@pytest.mark.parametrize("path", [*GUARDED, "/quitquitquit"])
@pytest.mark.parametrize("host", ["10.1.2.3", "evil.example", "localhost.evil.example", "localhost@evil", ""])
async def test_the_rest_obeys_the_host_guard(path: str, host: str, product: Product) -> None:
    answer = await fetch(product.admin_port, "POST" if "quit" in path else "GET", path, host=host)
    assert answer.status in (400, 403)
    assert short_text(answer)
    assert not product.app.stop.is_set()


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:3448", "[::1]:3448", "LOCALHOST.", "admin.example:1"]
)
async def test_loopback_names_and_allowed_hosts_are_served(path: str, host: str, product: Product) -> None:
    assert (await fetch(product.admin_port, "GET", path, host=host)).status == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/readyz", 200), ("/metrics", 200), ("/status", 400), ("/", 400)]
)
async def test_without_a_host_only_health_and_metrics_are_told(
    path: str, status: int, product: Product
) -> None:
    async with await Caller.connect(product.admin_port) as caller:
        await caller.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert (await caller.answer()).status == status


@pytest.mark.parametrize("path", [*GUARDED, "/quitquitquit"])
@pytest.mark.parametrize("authority", ["evil.example", "localhost.evil.example:80", "user@localhost"])
async def test_the_authority_of_an_absolute_target_obeys_the_host_guard_too(
    authority: str, path: str, product: Product
) -> None:
    method = "POST" if "quit" in path else "GET"
    answer = await fetch(product.admin_port, method, f"http://{authority}{path}")
    assert answer.status in (400, 403)
    assert short_text(answer)
    assert not product.app.stop.is_set()


@pytest.mark.parametrize(
    ("path", "authority"),
    [("/", "localhost"), ("/status", "admin.example:1"), ("/metrics", "any.example"), ("/livez", "a")],
)
async def test_an_absolute_target_of_a_name_that_is_served_is_answered(
    path: str, authority: str, product: Product
) -> None:
    assert (await fetch(product.admin_port, "GET", f"http://{authority}{path}")).status == 200


async def test_two_hosts_are_none(product: Product) -> None:
    assert (await fetch(product.admin_port, "GET", "/status", [("Host", "localhost")])).status in (400, 403)


FOREIGN = [
    ("Origin", "https://evil.example"),
    ("Origin", "null"),
    ("Origin", "http://localhost:3448"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-site"),
    ("Sec-Fetch-Site", "nonsense"),
]


@pytest.mark.parametrize("path", [*GUARDED, "/metrics", "/quitquitquit"])
@pytest.mark.parametrize("field", FOREIGN, ids=": ".join)
async def test_web_pages_of_others_are_refused(path: str, field: tuple[str, str], product: Product) -> None:
    answer = await fetch(product.admin_port, "POST" if "quit" in path else "GET", path, [field])
    assert answer.status == 403
    assert short_text(answer)
    assert not product.app.stop.is_set()


@pytest.mark.parametrize("path", HEALTH)
@pytest.mark.parametrize("field", FOREIGN, ids=": ".join)
async def test_health_answers_them_too(path: str, field: tuple[str, str], product: Product) -> None:
    assert (await fetch(product.admin_port, "GET", path, [field])).status == 200


@pytest.mark.parametrize("path", [*GUARDED, "/metrics"])
@pytest.mark.parametrize(
    "field",
    [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "same-origin"), ("Origin", "https://app.example")],
    ids=": ".join,
)
async def test_its_own_page_and_allowed_origins_are_served(
    path: str, field: tuple[str, str], product: Product
) -> None:
    assert (await fetch(product.admin_port, "GET", path, [field])).status == 200


OWN = ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "admin.example"]


@pytest.mark.parametrize("path", [*GUARDED, "/metrics", "/quitquitquit"])
@pytest.mark.parametrize("host", OWN)
async def test_its_own_origin_is_not_foreign(path: str, host: str, product: Product) -> None:
    host = host.format(port=product.admin_port)
    for site in ([], [("Sec-Fetch-Site", "same-origin")]):
        answer = await fetch(
            product.admin_port,
            "POST" if "quit" in path else "GET",
            path,
            [("Origin", f"http://{host}"), *site],
            host=host,
        )
        assert answer.status == 200


@pytest.mark.parametrize("path", [*GUARDED, "/metrics", "/quitquitquit"])
@pytest.mark.parametrize(
    ("host", "fields"),
    [
        ("evil.example", [("Origin", "http://evil.example")]),
        ("localhost", [("Origin", "http://localhost"), ("Sec-Fetch-Site", "cross-site")]),
        ("localhost", [("Origin", "https://localhost")]),
        ("localhost:1", [("Origin", "http://localhost:2")]),
    ],
    ids=["a rebound name", "from another site", "another scheme", "another port"],
)
async def test_what_only_resembles_its_own_origin_is_refused(
    path: str, host: str, fields: list[tuple[str, str]], product: Product
) -> None:
    method = "POST" if "quit" in path else "GET"
    answer = await fetch(product.admin_port, method, path, fields, host=host)
    assert answer.status == 403
    assert not product.app.stop.is_set()


MALFORMED = [
    b"GET /status HTTP/1.1\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /status HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nnonsense\r\n\r\n",
]


@pytest.mark.parametrize("request_", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_requests_do_not_fill_the_log(
    request_: bytes, product: Product, caplog: pytest.LogCaptureFixture
) -> None:
    async with await Caller.connect(product.admin_port) as caller:
        await caller.send(request_)
        while (answer := await caller.answer()).status != 400:
            assert answer.status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_defect_of_ours_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def broken(accept: str) -> tuple[bytes, str]:
        raise RuntimeError

    health = Health(lambda: True, str)
    admin = AdminServer(health, Guard(), metrics=broken, status=dict, catch_up=list, quit=None)
    bound = bind((TCP("127.0.0.1", 0),), lenient=False)
    await admin.start(bound)
    try:
        assert (await fetch(bound[0].sock.getsockname()[1], "GET", "/metrics")).status == 500
    finally:
        await admin.close()
    assert [record.levelname for record in caplog.records if record.name.startswith("aiohttp")] == ["ERROR"]


@pytest.mark.parametrize("path", [*HEALTH, *GUARDED, "/metrics"])
async def test_head_is_answered_like_get_without_a_body(path: str, product: Product) -> None:
    get = await fetch(product.admin_port, "GET", path)
    head = await fetch(product.admin_port, "HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head["Content-Type"] == get["Content-Type"]


@pytest.mark.parametrize("path", [*HEALTH, *GUARDED, "/metrics"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(method: str, path: str, product: Product) -> None:
    answer = await fetch(product.admin_port, method, path)
    assert answer.status == 405
    assert answer["Allow"] == "GET, HEAD"
    assert short_text(answer) == "Use GET or HEAD.\n"


@pytest.mark.parametrize("path", ["/livez/", "/status.html", "/favicon.ico", "/Patient/1", "/%2e%2e/status"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_paths_are_404(method: str, path: str, product: Product) -> None:
    answer = await fetch(product.admin_port, method, path)
    assert answer.status == 404
    assert "Patient" not in short_text(answer)


@pytest.mark.parametrize("path", [*HEALTH, *GUARDED, "/metrics", "/none"])
async def test_no_answer_is_for_a_cache_or_a_frame_or_tells_versions(path: str, product: Product) -> None:
    answer = await fetch(product.admin_port, "GET", path)
    assert answer["Cache-Control"] == "no-store"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Server"] == "fumage-proxy"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_quit_endpoint_there_is_none(method: str) -> None:
    async with Product() as product:
        assert (await fetch(product.admin_port, method, "/quitquitquit")).status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_only_post_ends_the_process(method: str, product: Product) -> None:
    answer = await fetch(product.admin_port, method, "/quitquitquit")
    assert answer.status == 405
    assert answer["Allow"] == "POST"
    assert not product.app.stop.is_set()


async def test_a_unix_peer_may_end_it(tmp_path: Path) -> None:
    async with Product(admin_listen=f"unix:{tmp_path}/admin", quit_endpoint="true") as product:
        answer = await fetch(None, "POST", "/quitquitquit", path=f"{tmp_path}/admin", host="any.example")
        assert (answer.status, answer.body) == (200, b"stopping\n")
        assert product.app.stop.is_set()


def _own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # sends nothing: only a route is looked up
        except OSError:
            return None
        address: str = sock.getsockname()[0]
        return None if address.startswith("127.") else address


@pytest.mark.skipif(_own_address() is None, reason="this machine has no address but loopback")
async def test_no_other_peer_may() -> None:
    own = _own_address()
    assert own
    async with Product(admin_listen="0.0.0.0:0", quit_endpoint="true") as product:
        answer = await _fetch_at(own, product.admin_port, "POST", "/quitquitquit")
        assert answer.status == 403
        assert "loopback" in short_text(answer)
        assert not product.app.stop.is_set()
        assert (await _fetch_at(own, product.admin_port, "GET", "/metrics")).status == 200
        assert (await fetch(product.admin_port, "POST", "/quitquitquit")).status == 200
        assert product.app.stop.is_set()


async def _fetch_at(host: str, port: int, method: str, path: str) -> Answer:
    async with await Caller.connect(port, host) as caller:
        return await caller.request(method, path)


async def test_it_drains_like_sigterm_and_the_first_signal_after_it_insists_on_nothing(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    """A Job's pod is told by the endpoint, and then its containers get SIGTERM."""
    env = before(fumage, emr) | {"FUMAGE_PROXY_QUIT_ENDPOINT": "true"}
    async with running("--drain-delay", "1s", cwd=tmp_path, env=env) as proxy:
        admin = await proxy.admin_port()
        for _ in range(2):  # asking again changes nothing
            answer = await fetch(admin, "POST", "/quitquitquit")
            assert (answer.status, answer.body) == (200, b"stopping\n")
        await proxy.says("Stopping")
        assert (await fetch(admin, "GET", "/readyz")).status == 503
        assert (await fetch(admin, "GET", "/status")).json()["draining"] is True
        proxy.terminate()
        assert (await fetch(await proxy.port())).status == 200
        assert await proxy.ended() == 0
