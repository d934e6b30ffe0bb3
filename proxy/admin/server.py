"""The admin listener: health, metrics, status and its page, and the way to end the process."""

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response
from aiohttp.web_server import Server  # alone: all of aiohttp.web takes 2 MB more

from proxy.admin.door import Door
from proxy.admin.page import load
from proxy.listen import BACKLOG, Bound
from proxy.rules.errors import ProxyError
from proxy.rules.guard import Guard, split_target

_Route = Callable[[BaseRequest], Awaitable[Response]]

_SHUTDOWN = 1.0  # seconds that answers under way may take when the process ends
_KEEPALIVE = 75.0  # seconds that a connection may wait for its next request, as callers' do
CONNECTIONS = 64  # at a time, of all addresses together

_READ = ("GET", "HEAD")

# What every answer says: none of it is for a cache, a frame, or another site's page.
_FIELDS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "fumage-proxy",  # aiohttp's own names the versions of Python and aiohttp
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


def _text(status: int, text: str) -> Response:
    return Response(status=status, text=text + "\n")


def _health(reason: str | None) -> Response:
    return _text(200, "ok") if reason is None else _text(503, reason)


class AdminServer:
    """Serves on the sockets given to `start`.

    `metrics` makes body and Content-Type for an Accept field, `status` what /status tells; `catch_up` is
    called before them. `quit` ends the process as SIGTERM does; None: there is no /quitquitquit.
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
        self._routes: dict[str, tuple[tuple[str, ...], _Route]] = {
            "/livez": (_READ, self._livez),
            "/startupz": (_READ, self._startupz),
            "/readyz": (_READ, self._readyz),
            "/metrics": (_READ, self._guarded(self._serve_metrics, any_host=True)),
            "/status": (_READ, self._guarded(self._serve_status)),
            "/": (_READ, self._guarded(self._serve_page)),
        }
        if quit is not None:
            self._routes["/quitquitquit"] = (("POST",), self._guarded(self._serve_quit))
        self._server: Server | None = None
        self._listening: list[asyncio.Server] = []

    async def start(self, bound: Sequence[Bound]) -> None:
        self._server = Server(self._answer, access_log=None, keepalive_timeout=_KEEPALIVE, logger=_library)
        door = Door(self._server, CONNECTIONS)
        loop = asyncio.get_running_loop()
        for one in bound:
            self._listening.append(await loop.create_server(door, sock=one.sock, backlog=BACKLOG))

    async def close(self) -> None:
        for one in self._listening:
            one.close()
        if self._server is not None:
            await asyncio.sleep(0)  # requests that have come begin
            self._server.pre_shutdown()
            await self._server.shutdown(_SHUTDOWN)

    async def _answer(self, request: BaseRequest) -> Response:
        response = await self._routed(request)
        response.headers.update(_FIELDS)
        return response

    async def _routed(self, request: BaseRequest) -> Response:
        if request.path not in self._routes:
            return _text(404, "There is no such page. See / for the status page.")
        methods, route = self._routes[request.path]
        if request.method not in methods:
            response = _text(405, f"Use {' or '.join(methods)}.")
            response.headers["Allow"] = ", ".join(methods)
            return response
        return await route(request)

    def _guarded(self, route: _Route, *, any_host: bool = False) -> _Route:
        async def guarded(request: BaseRequest) -> Response:
            try:
                self._check(request, any_host=any_host)
            except ProxyError as error:
                return _text(error.status, f"{error} {error.advice}")
            return await route(request)

        return guarded

    def _check(self, request: BaseRequest, *, any_host: bool) -> None:
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

    async def _livez(self, request: BaseRequest) -> Response:
        return _health(None)

    async def _startupz(self, request: BaseRequest) -> Response:
        return _health(self._health.startup())

    async def _readyz(self, request: BaseRequest) -> Response:
        return _health(self._health.readiness())

    async def _serve_metrics(self, request: BaseRequest) -> Response:
        self._catch_up()
        body, content_type = self._metrics(",".join(request.headers.getall("Accept", [])))
        return Response(body=body, headers={"Content-Type": content_type})

    async def _serve_status(self, request: BaseRequest) -> Response:
        self._catch_up()
        body = json.dumps(self._status(), indent=1)
        return Response(text=body + "\n", content_type="application/json")

    async def _serve_page(self, request: BaseRequest) -> Response:
        html, policy = load()
        headers = {"Content-Security-Policy": policy, "Content-Type": "text/html; charset=utf-8"}
        return Response(body=html, headers=headers)

    async def _serve_quit(self, request: BaseRequest) -> Response:
        if not _is_local(request):
            return _text(403, "Only this machine may end the proxy: ask over loopback or a unix socket.")
        assert self._quit is not None
        self._quit()
        return _text(200, "stopping")


# A caller that is gone already has neither a socket nor a name, and gets the strictest rules.


def _over_unix(request: BaseRequest) -> bool:
    sock = request.get_extra_info("socket")
    return sock is not None and sock.family not in (socket.AF_INET, socket.AF_INET6)


def _is_local(request: BaseRequest) -> bool:
    if _over_unix(request):
        return True
    peer = request.get_extra_info("peername")
    if not peer:
        return False
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    # Python before 3.13 does not look inside ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
