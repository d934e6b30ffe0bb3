"""The status page: self-contained, under a strict policy, and usable in a real browser."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.admin.page import load
from tests.admin.browser import CHROMIUM, Page, chromium
from tests.admin.test_status import Shifted
from tests.forward.leftovers import ready
from tests.support.caller import fetch
from tests.support.emr import EMR, refuse
from tests.support.product import Product
from tests.support.upstream import reply, unauthorized

HTML = load()[0].decode()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


async def test_the_policy_lets_only_its_own_parts_run() -> None:
    async with Product() as product:
        answer = await fetch(product.admin_port, "GET", "/")
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    assert answer.body.decode() == HTML
    policy = dict(part.split(" ", 1) for part in (answer["Content-Security-Policy"] or "").split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    for name in ("script", "style"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", HTML, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in str(policy)


def test_it_is_one_small_file_without_outside_resources_or_inline_code() -> None:
    assert len(HTML) < 24 * 1024
    addresses = set(re.findall(r"""(?:href|src|action)\s*=\s*["']([^"']*)""", HTML))
    assert addresses == {"data:,", "status", "metrics"}
    assert re.findall(r"https?://[^\s\"'`]+", HTML) == ["http://www.w3.org/2000/svg"]  # a name, not fetched
    assert not re.search(r"<[^>]*\s(?:on\w+|style)\s*=", HTML)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "@import",
        "url(",
    ):
        assert word not in HTML


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with chromium(tmp_path / "profile") as browser:
        yield browser


def address(product: Product) -> str:
    return f"http://localhost:{product.admin_port}/"


async def text(page: Page, element: str) -> str:
    return str(await page.value(f"document.getElementById('{element}').innerText"))


async def shows(page: Page, state: str) -> None:
    await page.until(f"document.getElementById('state').textContent === '{state}'")


async def busy(product: Product, clock: Shifted) -> None:
    """Some windows with requests and errors, and a replay."""
    await ready(product)
    product.fumage.script += [reply(503), unauthorized()]
    for _ in range(8):
        for _ in range(4):
            await fetch(product.port, "GET", "/Patient/Zqsmith?name=Zqsmith")
        clock.by += 10


@needs_chromium
async def test_it_shows_the_figures_and_asks_nobody_else(page: Page) -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await busy(product, clock)
        await page.open(address(product))
        await shows(page, "ready")
        assert product.fumage.url in await text(page, "about")
        assert "10 h" in await text(page, "token-line")
        assert "Next refresh" in await text(page, "token")
        mark = await page.value("parseFloat(document.getElementById('mark').style.left)")
        assert 45 < mark < 55
        assert await text(page, "requests-now") == "0.4 per second"
        assert "503" in await text(page, "troubles")
        assert "What to do" in await text(page, "troubles")
        assert "\t1" in await text(page, "replays")
        for plot in ("requests", "errors-plot", "latency"):
            assert await page.value(f"document.querySelectorAll('#{plot} path').length") == 2
        whole = await page.value("document.body.innerText")
        assert "Zq" not in whole
        assert "token-" not in whole
        hosts = {url.split("/")[2] for url in page.requests if url.startswith("http")}
        assert hosts == {f"localhost:{product.admin_port}"}
        assert page.complaints == []


@needs_chromium
async def test_figures_of_the_first_ten_seconds_are_not_known_yet_and_then_there_was_no_request(
    page: Page,
) -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        for _ in range(10):
            await fetch(product.port)
        await page.open(address(product))
        await shows(page, "ready")
        for plot in ("requests", "errors", "latency"):
            assert await text(page, f"{plot}-now") == "not known yet"
    async with Product(clock=clock) as product:
        clock.by += 10
        await page.open(address(product))
        await shows(page, "ready")
        assert await text(page, "latency-now") == "no request"


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_it_fits_and_can_be_read(width: int, dark: bool, page: Page) -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await busy(product, clock)
        await page.open(address(product), width=width, dark=dark)
        await shows(page, "ready")
        await page.value("document.getElementById('figures').open = true")
        await page.until("document.querySelectorAll('#rows tr').length > 0")
        assert await page.value("document.documentElement.scrollWidth") <= width
        assert await page.value(_POOR_CONTRASTS) == []


# Texts whose contrast with their ground is under 4.5 (WCAG 2.2, 1.4.3).
_POOR_CONTRASTS = """(() => {
  const parts = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((parts(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility())
    .filter((node) => [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
    .filter((node) => !["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName))
    .map((node) => {
      const [one, two] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => b - a);
      return [node.textContent.slice(0, 30), (one + 0.05) / (two + 0.05)];
    })
    .filter(([text, contrast]) => contrast < 4.5);
})()"""


@needs_chromium
async def test_a_screen_reader_finds_headings_tables_and_plots_by_name(page: Page) -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await busy(product, clock)
        await page.open(address(product))
        await shows(page, "ready")
        found = await page.accessible()
    headings = [name for role, name in found if role == "heading"]
    assert headings == [
        *("fumage-proxy", "Token", "Connections", "Requests of the last five minutes"),
        *("Latest errors", "Replays"),
    ]
    plots = [name for role, name in found if role == "image"]
    assert [name.split(" ")[0] for name in plots] == ["Requests", "Errors", "Latency:"]
    assert "0.4 per second in the last minute" in plots[0]
    tables = [name for role, name in found if role == "table"]
    assert tables == ["Requests whose token Fumage rejected with a 401, since the start"]
    assert {role for role, _ in found} >= {"main", "banner", "contentinfo", "list", "status"}


@needs_chromium
async def test_the_table_opens_by_keyboard(page: Page) -> None:
    clock = Shifted()
    async with Product(clock=clock) as product:
        await busy(product, clock)
        await page.open(address(product))
        await shows(page, "ready")
        await page.press("Tab", 9)
        assert await page.value("document.activeElement.tagName") == "SUMMARY"
        await page.press(" ", 32)
        await page.until("document.querySelectorAll('#rows tr').length > 0")


@needs_chromium
async def test_what_changes_seldom_is_read_out_and_what_changes_often_is_not(page: Page) -> None:
    async with Product() as product:
        await ready(product)
        await page.open(address(product))
        await shows(page, "ready")
        assert (
            await page.value("document.querySelectorAll('[aria-live], [role=status], [role=alert]').length")
            == 1
        )
        assert await text(page, "live") == ""
        product.app._health.draining = True
        await shows(page, "stopping")
        assert await text(page, "live") == "The proxy is now: stopping"


@needs_chromium
async def test_it_says_so_when_the_proxy_stops_answering_and_when_it_is_back(page: Page) -> None:
    async with Product() as product:
        await ready(product)
        port = product.admin_port
        await page.open(address(product))
        await shows(page, "ready")
    await shows(page, "not answering")
    assert "does not answer" in await text(page, "problem")
    assert await page.value("document.title") == "not answering: fumage-proxy"
    assert await page.value(_POOR_CONTRASTS) == []
    async with Product(admin_listen=f"127.0.0.1:{port}") as product:
        await ready(product)
        await shows(page, "ready")
        assert await page.value("document.getElementById('problem').hidden") is True


@needs_chromium
async def test_a_refused_client_is_told_with_what_to_do(page: Page) -> None:
    async with EMR() as emr:
        emr.answer = refuse()
        async with Product(emr=emr) as product:
            await fetch(product.port)
            await page.open(address(product))
            await shows(page, "starting")
            assert "CANVAS_API_CLIENT_SECRET" in await text(page, "token-problem")
            assert "no valid token" in await text(page, "token-line")
            assert await page.value("document.getElementById('bar').hidden") is True
            await asyncio.sleep(0)
