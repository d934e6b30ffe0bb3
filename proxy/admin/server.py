"""The admin listener: health, metrics, status and its page, and the way to end the process."""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.admin.door import Door
from proxy.admin.page import load
from proxy.listen import BACKLOG, Bound
from proxy.rules.errors import ProxyError
from proxy.rules.guard import Guard, split_target

_Route = Callable[[web.Request], Awaitable[web.Response]]

_SHUTDOWN = 1.0  # seconds that answers under way may take when the process ends
_KEEPALIVE = 75.0  # seconds that a connection may wait for its next request, as callers' do
CONNECTIONS = 64  # at a time, of all addresses together

# What every answer says: none of it is for a cache, a frame, or another site's page.
_FIELDS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether the problem is no malformed request, of which anybody could send any number."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_library = logging.getLogger("aiohttp.server.admin")
_library.addFilter(_is_ours)


class Health:
    """What the probes ask. `started`: the first token was obtained."""

    def __init__(self, started: Callable[[], bool], why_not: Callable[[], str]):
        self._started = started
        self._why_not = why_not
        self.draining = False

    def startup(self) -> str | None:
        """None when started, or the reason why not."""
        return None if self._started() else self._why_not()

    def readiness(self) -> str | None:
        """None when ready, or the reason why not. An EMR outage after the start does not count."""
        return "draining: this proxy was told to stop" if self.draining else self.startup()


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text + "\n")


def _health(reason: str | None) -> web.Response:
    return _text(200, "ok") if reason is None else _text(503, reason)


class AdminServer:
    """Serves on the sockets given to `start`.

    `metrics` makes body and Content-Type for an Accept field, `status` what /status tells; `catch_up`
    is called before them. `quit` ends the
    process as SIGTERM does; None: there is no /quitquitquit.
    """

    def __init__(
        self,
        health: Health,
        guard: Guard,
        *,
        metrics: Callable[[str], tuple[bytes, str]],
        status: Callable[[], Mapping[str, Any]],
        catch_up: Callable[[], None],
        quit: Callable[[], None] | None,
    ):
        self._health = health
        self.guard = guard
        self._metrics = metrics
        self._status = status
        self._catch_up = catch_up
        self._quit = quit
        app = web.Application(middlewares=[_short_errors])
        get = app.router.add_get  # and HEAD
        get("/livez", self._livez)
        get("/startupz", self._startupz)
        get("/readyz", self._readyz)
        get("/metrics", self._guarded(self._serve_metrics, any_host=True))
        get("/status", self._guarded(self._serve_status))
        get("/", self._guarded(self._serve_page))
        if quit is not None:
            app.router.add_post("/quitquitquit", self._guarded(self._serve_quit))
        app.on_response_prepare.append(_finish_head)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN, keepalive_timeout=_KEEPALIVE, logger=_library
        )
        self._listening: list[asyncio.Server] = []

    async def start(self, bound: Sequence[Bound]) -> None:
        await self._runner.setup()
        assert self._runner.server is not None
        door = Door(self._runner.server, CONNECTIONS)
        loop = asyncio.get_running_loop()
        for one in bound:
            self._listening.append(await loop.create_server(door, sock=one.sock, backlog=BACKLOG))

    async def close(self) -> None:
        for one in self._listening:
            one.close()
        await self._runner.cleanup()

    def _guarded(self, route: _Route, *, any_host: bool = False) -> _Route:
        async def guarded(request: web.Request) -> web.Response:
            try:
                self._check(request, any_host=any_host)
            except ProxyError as error:
                return _text(error.status, f"{error} {error.advice}")
            return await route(request)

        return guarded

    def _check(self, request: web.Request, *, any_host: bool) -> None:
        method, target = (
            text.encode("utf-8", "surrogateescape") for text in (request.method, request.raw_path)
        )
        authority, _ = split_target(method, target)
        # A field that came twice is joined, which fits no rule.
        noted = {
            name.lower().encode(): b", ".join(value.encode("utf-8", "surrogateescape") for value in values)
            for name in ("Host", "Origin", "Sec-Fetch-Site")
            if (values := request.headers.getall(name, []))
        }
        if self._is_own_origin(noted):
            del noted[b"origin"]
        if any_host:
            noted[b"host"], authority = b"localhost", None
        self.guard.check(method, authority, noted, tcp=not _over_unix(request))

    def _is_own_origin(self, noted: dict[bytes, bytes]) -> bool:
        """Whether a page of this listener asks.

        Its Host has to be allowed, also where any is answered: what a rebound name leads here has that name
        for its origin, too.
        """
        host, origin = noted.get(b"host"), noted.get(b"origin")
        if host is None or origin is None or origin.lower() != b"http://" + host.lower():
            return False
        try:
            self.guard.check(b"GET", None, {b"host": host}, tcp=True)
        except ProxyError:
            return False
        return True

    async def _livez(self, request: web.Request) -> web.Response:
        return _health(None)

    async def _startupz(self, request: web.Request) -> web.Response:
        return _health(self._health.startup())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _health(self._health.readiness())

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        self._catch_up()
        body, content_type = self._metrics(",".join(request.headers.getall("Accept", [])))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _serve_status(self, request: web.Request) -> web.Response:
        self._catch_up()
        body = json.dumps(self._status(), indent=1)
        return web.Response(text=body + "\n", content_type="application/json")

    async def _serve_page(self, request: web.Request) -> web.Response:
        html, policy = load()
        headers = {"Content-Security-Policy": policy, "Content-Type": "text/html; charset=utf-8"}
        return web.Response(body=html, headers=headers)

    async def _serve_quit(self, request: web.Request) -> web.Response:
        if not _is_local(request):
            return _text(403, "Only this machine may end the proxy: ask over loopback or a unix socket.")
        assert self._quit is not None
        self._quit()
        return _text(200, "stopping")


@web.middleware
async def _short_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _text(404, "There is no such page. See / for the status page.")
    except web.HTTPMethodNotAllowed as error:
        response = _text(405, f"Use {' or '.join(sorted(error.allowed_methods))}.")
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response


async def _finish_head(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_FIELDS)
    response.headers.popall("Server", None)  # it names the versions of Python and aiohttp


# A caller that is gone already has neither a socket nor a name, and gets the strictest rules.


def _over_unix(request: web.Request) -> bool:
    sock = request.get_extra_info("socket")
    return sock is not None and sock.family not in (socket.AF_INET, socket.AF_INET6)


def _is_local(request: web.Request) -> bool:
    if _over_unix(request):
        return True
    peer = request.get_extra_info("peername")
    if not peer:
        return False
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    # Python before 3.13 does not look inside ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
