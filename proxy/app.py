"""The composition root: build the parts, bind, serve, drain."""

import asyncio
import logging
import ssl
import sys
from collections.abc import Callable, Mapping
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from proxy.admin.server import AdminServer, Health
from proxy.clock import Clock, SystemClock
from proxy.forward.deadlines import Deadlines
from proxy.forward.dial import Dialer, EgressProxy
from proxy.forward.exchange import Forwarder, Origin
from proxy.forward.inbound import Callers, Limits
from proxy.forward.outbound import Connection
from proxy.forward.pool import Pool
from proxy.forward.replay import ReplayMemory
from proxy.listen import Bound, accept_waiting, bind
from proxy.rules.errors import ProxyError, TokenError
from proxy.rules.guard import Guard
from proxy.rules.links import Base, Links
from proxy.settings import URL, Settings
from proxy.token.grant import ClientCredentials
from proxy.token.source import TokenSource
from proxy.watch.record import Record

log = logging.getLogger(__name__)


def egress_proxy(url: URL) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY say for this URL; http (loopback) goes without."""
    if url.scheme != "https":
        return None
    proxies = getproxies_environment()
    if proxy_bypass_environment(f"{url.host}:{url.port}", proxies):
        return None
    return proxies.get("https") or None


def tls_context(settings: Settings) -> ssl.SSLContext:
    """What both legs trust, and how they show who they are. Raises ssl.SSLError for files that hold no such thing."""
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.client_cert is not None:
        context.load_cert_chain(settings.client_cert, settings.client_key)
    return context


class App:
    """One proxy. `watch` gets the record of each request; `lenient_listen`: see `listen.bind`."""

    def __init__(
        self,
        settings: Settings,
        *,
        watch: Callable[[Record], None],
        lenient: Mapping[str, bool] | None = None,
        clock: Clock | None = None,
    ):
        self._settings = settings
        self._lenient = lenient or {}
        self._clock = clock or SystemClock()
        self._watch = watch
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []
        self.bound: list[Bound] = []
        self.admin_bound: list[Bound] = []

    async def start(self) -> None:
        """Bind and serve; the first token and a first connection are fetched meanwhile. Raises ListenError."""
        settings = self._settings
        self.bound = bind(settings.listen, lenient=self._lenient.get("listen", False))
        try:
            self.admin_bound = bind(settings.admin_listen, lenient=self._lenient.get("admin_listen", False))
            self._build()
            await self._admin.start(self.admin_bound)
            await self._serve()
        except BaseException:
            for one in (*self.bound, *self.admin_bound):
                one.close()
            raise
        self._tasks = [asyncio.create_task(self._tokens.run()), asyncio.create_task(self._warm())]

    def _build(self) -> None:
        settings, clock = self._settings, self._clock
        context = tls_context(settings)
        self._tokens = TokenSource(
            ClientCredentials(
                token_url=str(settings.token_url),
                client_id=settings.client_id,
                client_secret=settings.client_secret,
                scope=settings.scope,
                patient=settings.patient,
                client_auth=settings.client_auth,
                timeout=settings.token_timeout,
                ssl=context,
                proxy=egress_proxy(settings.token_url),
                clock=clock,
                observe=lambda grant, outcome: None,
            ),
            refresh_margin=settings.refresh_margin,
            clock=clock,
            on_event=_log_token_event,
        )
        self._pool = self._build_pool(context)
        base = settings.base_url
        self._forwarder = Forwarder(
            guard=Guard(settings.allowed_hosts, settings.allowed_origins),
            tokens=self._tokens,
            pool=self._pool,
            origin=Origin(base.authority.encode(), base.path.encode()),
            links=_links(settings),
            replay_limit=settings.replay_limit,
            replay_memory=ReplayMemory(settings.replay_memory),
            clock=clock,
            watch=self._watch,
        )
        self._callers = Callers(
            self._forwarder,
            Limits(settings.max_head, settings.max_body),
            head=settings.client_timeout,
            keepalive=settings.client_keepalive,
            idle=settings.idle_timeout,
            most=settings.max_clients,
        )
        self._health = Health(lambda: self._tokens.started, self._why_not_started)
        self._admin = AdminServer(self._health)

    def _build_pool(self, context: ssl.SSLContext) -> Pool:
        settings, base = self._settings, self._settings.base_url
        waiting = Deadlines(settings.response_timeout, Connection.timed_out)
        stalled = Deadlines(settings.idle_timeout, Connection.stalled)
        egress = egress_proxy(base)
        dialer = Dialer(
            host=base.host,
            port=base.port,
            ssl_context=context if base.scheme == "https" else None,
            egress=EgressProxy.of(egress) if egress else None,
            timeout=settings.connect_timeout,
            connection=lambda: Connection(waiting, stalled),
        )
        return Pool(
            dialer.dial,
            limit=settings.max_connections,
            keepalive=settings.upstream_keepalive,
            max_age=settings.upstream_max_age,
            busy_timeout=settings.connect_timeout,
            clock=self._clock,
        )

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for one in self.bound:
            tcp = one.path is None
            if tcp:
                server = await loop.create_server(lambda: self._callers.connection(tcp=True), sock=one.sock)
            else:
                server = await loop.create_unix_server(
                    lambda: self._callers.connection(tcp=False), sock=one.sock
                )
            self._servers.append(server)

    def _why_not_started(self) -> str:
        error = self._tokens.last_error
        return (
            f"no token yet: {error} {error.advice}"
            if error
            else "no token yet: the first one is being fetched"
        )

    async def _warm(self) -> None:
        try:
            await self._pool.warm()
        except ProxyError as error:
            log.warning("No connection to Fumage yet: %s %s", error, error.advice)

    async def drain(self) -> None:
        """Stop: newcomers are served for drain_delay still, what runs may take drain_timeout."""
        settings, loop = self._settings, asyncio.get_running_loop()
        self._health.draining = True
        await asyncio.sleep(settings.drain_delay)
        accepted: list[asyncio.Task[object]] = []
        for one, server in zip(self.bound, self._servers, strict=True):
            tcp = one.path is None
            accepted += accept_waiting(loop, one, lambda tcp=tcp: self._callers.connection(tcp=tcp))  # type: ignore[misc]
            server.close()
            one.close()
        await asyncio.gather(*accepted, return_exceptions=True)
        self._callers.drain()
        try:
            async with asyncio.timeout(settings.drain_timeout):
                await self._callers.gone()
        except TimeoutError:
            log.warning("drain_timeout is over; %d connections are broken off.", len(self._callers.open))

    async def close(self) -> None:
        """End at once what is left."""
        for server, one in zip(self._servers, self.bound, strict=True):
            server.close()
            one.close()
        self._callers.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.abort()
        await self._tokens.close()
        await self._admin.close()
        for one in self.admin_bound:
            one.close()


def _links(settings: Settings) -> Links | None:
    if settings.links == "off":
        return None
    base = settings.base_url
    host = f"[{base.host}]" if ":" in base.host else base.host
    return Links(Base(base.scheme.encode(), host.encode(), base.explicit_port, base.path.encode()))


def _log_token_event(event: str, error: TokenError | None) -> None:
    if error is not None:
        log.warning("No token: %s %s", error, error.advice)
    elif event == "obtained":
        log.info("A new token is in use.")
    else:
        log.warning("A token was rejected by Fumage: %s.", event)
