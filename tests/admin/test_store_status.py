"""What is told of a shared token store: /status, the status page, the metrics and the log."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.admin.browser import Page, chromium
from tests.admin.test_page import address, needs_chromium, shows, text
from tests.admin.test_status import seconds, told
from tests.forward.leftovers import ready
from tests.support.caller import fetch
from tests.support.product import Product
from tests.support.upstream import unauthorized
from tests.token.conftest import running as running
from tests.token.conftest import server as server
from tests.token.replica import KEY
from tests.token.server import Server
from tests.watch.test_metrics import scraped

TOKENS = "fumage_proxy_token_store_tokens_total"


def sharing(server: Server) -> Product:
    return Product(token_store=server.url, token_store_key=KEY)


async def lose_the_token(product: Product) -> None:
    """Fumage rejects it; the request is answered with a new one."""
    product.fumage.script.append(unauthorized())
    assert (await fetch(product.port)).status == 200


async def test_which_store_is_used_and_what_became_of_the_last_token(server: Server) -> None:
    async with sharing(server) as one:
        await ready(one)
        first = (await told(one))["token_store"]
        assert first.pop("last_at") is not None
        assert first == {
            "url": server.url,
            "last_outcome": "fetched",
            "failing_since": None,
            "error": None,
            "hits": 0,
            "fetched": 1,
            "fallbacks": 0,
            "waits": 0,
            "unreadable": 0,
        }
        async with Product(emr=one.emr, token_store=server.url, token_store_key=KEY) as two:
            await ready(two)
            status = await told(two)
            assert (status["token_store"]["last_outcome"], status["token_store"]["hits"]) == ("hit", 1)
            assert abs(seconds(status["token_store"]["last_at"]) - seconds(status["now"])) < 60
            now = await scraped(two)
        assert one.emr.requests == 1
    assert [now(TOKENS, outcome=each) for each in ("hit", "fetched", "fallback")] == [1, 0, 0]
    assert now("fumage_proxy_token_requests_total") == 0


async def test_since_when_a_store_fails_and_that_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(tmp_path)
    async with sharing(server) as product:
        await ready(product)
        server.stop()
        await lose_the_token(product)
        first = (await told(product))["token_store"]
        assert (first["last_outcome"], first["fallbacks"]) == ("fallback", 1)
        assert "could not be reached" in first["error"]["error"]
        assert "token_store" in first["error"]["advice"]
        await lose_the_token(product)
        second = (await told(product))["token_store"]
        assert (second["failing_since"], second["fallbacks"]) == (first["failing_since"], 2)
        server.restart()
        with caplog.at_level(logging.INFO):
            await lose_the_token(product)
        third = (await told(product))["token_store"]
        assert (third["last_outcome"], third["failing_since"], third["error"]) == ("fetched", None, None)
        assert "in use again" in caplog.text
        assert (await scraped(product))(TOKENS, outcome="fallback") == 2
    server.stop()


async def test_values_that_are_not_ours_are_counted(server: Server) -> None:
    async with sharing(server) as product:
        await ready(product)
        with server.ask() as redis:
            redis.set(server.keys(":token")[0], b"from somebody else", px=1_000_000)
        await lose_the_token(product)
        assert (await told(product))["token_store"]["unreadable"] == 1
        assert (await scraped(product))("fumage_proxy_token_store_unreadable_total") == 1


async def test_waiting_for_another_replica_is_counted(server: Server) -> None:
    async with sharing(server) as product:
        await ready(product)
        with server.ask() as redis:
            lease = server.keys(":token")[0].replace(b":token", b":lease")
            redis.set(lease, "another's", px=200)
        await lose_the_token(product)
        assert (await told(product))["token_store"]["waits"] == 1
        assert (await scraped(product))("fumage_proxy_token_store_waits_total") == 1


async def test_neither_the_password_nor_the_key_is_told(server: Server) -> None:
    url = f"redis://me:store-pa55word@127.0.0.1:{server.port}/2"
    async with Product(token_store=url, token_store_key=KEY) as product:
        await ready(product)
        for path in ("/status", "/metrics"):
            body = (await fetch(product.admin_port, "GET", path)).body.decode()
            assert "pa55" not in body
            assert KEY not in body
        store = (await told(product))["token_store"]
        assert store["url"] == f"redis://me:********@127.0.0.1:{server.port}/2"
        assert "refused the password" in store["error"]["error"]


# --- the page ---


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as browser:
        yield browser


@needs_chromium
async def test_the_page_shows_the_store(page: Page, tmp_path: Path) -> None:
    server = Server(tmp_path / "store")
    async with sharing(server) as product:
        await ready(product)
        await page.open(address(product))
        await shows(page, "ready")
        assert "put it there for the others" in await text(page, "store-line")
        assert server.url in await text(page, "store-figures")
        assert await page.value("document.getElementById('store-problem').hidden") is True
        server.stop()
        await lose_the_token(product)
        await page.until("!document.getElementById('store-problem').hidden")
        assert "got a token of its own" in await text(page, "store-line")
        problem = await text(page, "store-problem")
        assert problem.startswith("Since ")
        assert "could not be reached" in problem
        assert "What to do: Check host and port" in problem
        assert page.complaints == []


@needs_chromium
async def test_the_page_says_nothing_of_a_store_that_is_not_used(page: Page) -> None:
    async with Product() as product:
        await ready(product)
        await page.open(address(product))
        await shows(page, "ready")
        assert await page.value("document.getElementById('store').hidden") is True
        assert "Shared token store" not in await page.value("document.body.innerText")
