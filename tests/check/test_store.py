"""What is told of a shared token store: a step of its own, and never a failure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import SettingsError
from tests.check.checking import SECRET, STEPS, Told, canvas, checked
from tests.forward.leftovers import ready
from tests.support.product import Product
from tests.token.conftest import running as running
from tests.token.conftest import server as server
from tests.token.replica import KEY, OTHER_KEY
from tests.token.server import Server, nonsense
from tests.token.test_store import configured, paused, replica, stopped, unresolvable

STORE = "token store"
CLIENT = {"CANVAS_API_CLIENT_ID": "client", "CANVAS_API_CLIENT_SECRET": SECRET}


async def told_of(url: str, **changes: str) -> Told:
    async with canvas() as (fumage, emr):
        settings = {"FUMAGE_PROXY_TOKEN_STORE": url, "FUMAGE_PROXY_TOKEN_STORE_KEY": KEY} | changes
        told = await checked(fumage.url, emr.token_url, **settings)
    assert KEY not in told.output
    return told


async def test_a_store_that_can_be_used_is_a_tick_and_leaves_nothing_there(server: Server) -> None:
    told = await told_of(server.url)
    assert (told.code, told.mark[STORE]) == (0, "good")
    assert told.steps == [*STEPS[:4], STORE, *STEPS[4:]]
    assert told.text[STORE].startswith(f"{server.url}: written and read; no token lies there")
    assert not server.keys(":lease")
    with server.ask() as redis:
        assert all(0 < redis.pttl(key) <= 5000 for key in server.keys(":token"))


async def beside(product: Product, server: Server, keys: str) -> Told:
    """What is told where this proxy runs already, with the store under these keys."""
    return await checked(
        product.fumage.url,
        product.emr.token_url,
        FUMAGE_PROXY_TOKEN_STORE=server.url,
        FUMAGE_PROXY_TOKEN_STORE_KEY=keys,
    )


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (KEY, "a token lies there, valid for 10 h"),
        (f"{OTHER_KEY},{KEY}", "a token lies there (key 2 of 2), valid for 10 h"),
        (OTHER_KEY, "no token lies there (if replicas run, their credentials, settings or token_store_key"),
    ],
    ids=["the same key", "an older key", "another key"],
)
async def test_the_token_of_replicas_that_run_is_found_by_their_key(
    keys: str, found: str, server: Server
) -> None:
    async with Product(environ=CLIENT, token_store=server.url, token_store_key=KEY) as product:
        await ready(product)
        told = await beside(product, server, keys)
    assert told.mark[STORE] == "good"
    assert found in told.text[STORE]


async def test_what_was_sealed_by_somebody_else_is_a_warning(server: Server) -> None:
    async with Product(environ=CLIENT, token_store=server.url, token_store_key=KEY) as product:
        await ready(product)
        with server.ask() as redis:
            redis.set(server.keys(":token")[0], b"x" * 99, px=1_000_000)
        told = await beside(product, server, KEY)
    assert told.mark[STORE] == "warning"
    assert "was not sealed with token_store_key, and is not used" in told.text[STORE]


@pytest.mark.parametrize(
    ("failing", "cause", "advice"),
    [
        (stopped, "could not be reached", "Check host and port"),
        (unresolvable, "has a host name that is unknown", "DNS"),
        (paused, "did not answer within 0.25 s", "network"),
        (lambda path: configured(path, requirepass="x"), "refused the password", "token_store_password"),
        (lambda path: configured(path, maxmemory="1"), "is full", "maxmemory"),
        (replica, "is read-only", "the primary"),
        (lambda path: nonsense(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not Redis", "Check host and port"),
        (
            lambda path: nonsense(b"-MOVED 7 10.0.0.1:6379\r\n", to=b"fumage-proxy"),
            "is a cluster",
            "without cluster mode",
        ),
    ],
)
async def test_a_store_that_is_of_no_use_is_a_warning_with_its_cause(
    tmp_path: Path, failing: Callable[[Path], Any], cause: str, advice: str
) -> None:
    async with failing(tmp_path) as url:
        told = await told_of(url)
    assert (told.code, told.mark[STORE]) == (0, "warning")
    assert told.text[STORE].startswith(url)
    assert cause in told.text[STORE]
    assert advice in told.text[STORE]
    assert "Meanwhile each replica gets a token of its own." in told.text[STORE]


async def test_a_user_who_may_only_read_is_a_warning_that_says_what_is_missing(server: Server) -> None:
    with server.ask() as redis:
        redis.execute_command(
            *("ACL", "SETUSER", "reader", "on", ">pass", "~fumage-proxy:*", "-@all"),
            *("+get", "+pttl", "+multi", "+exec"),
        )
    told = await told_of(f"redis://reader:pass@127.0.0.1:{server.port}")
    assert told.mark[STORE] == "warning"
    assert f"redis://reader:********@127.0.0.1:{server.port} refused the user" in told.text[STORE]
    assert "the commands GET PTTL SET DEL PEXPIRE EVAL MULTI EXEC" in told.text[STORE]


async def test_it_is_looked_at_though_the_emr_is_down(server: Server) -> None:
    async with canvas() as (fumage, emr):
        await emr.stop()
        changes = {"FUMAGE_PROXY_TOKEN_STORE": server.url, "FUMAGE_PROXY_TOKEN_STORE_KEY": KEY}
        told = await checked(fumage.url, emr.token_url, **changes)
    assert (told.code, told.mark[STORE]) == (69, "good")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memcached://host", "token_store: is not the URL of a Redis"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "token_store: ssl_ca_certs: /no/such/file holds no"),
    ],
)
async def test_a_store_that_cannot_be_one_is_a_wrong_setting(url: str, problem: str) -> None:
    with pytest.raises(SettingsError) as error:
        await told_of(url)
    (only,) = error.value.problems
    assert only.startswith(problem)
