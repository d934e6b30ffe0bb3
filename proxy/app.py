"""The composition root: build the parts, bind, serve, drain."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from functools import partial

from proxy import __version__
from proxy.admin.server import AdminServer, Health
from proxy.admin.status import Status
from proxy.clock import Clock, SystemClock
from proxy.forward.deadlines import Deadlines
from proxy.forward.dial import Dialer, EgressProxy
from proxy.forward.exchange import Forwarder, Origin
from proxy.forward.inbound import Callers
from proxy.forward.outbound import Connection
from proxy.forward.pool import Pool
from proxy.forward.reader import Limits
from proxy.forward.replay import ReplayMemory
from proxy.listen import BACKLOG, Bound, bind
from proxy.network import egress_proxy, tls_context
from proxy.rules.bundle import BodyLinks
from proxy.rules.errors import ProxyError, TokenError
from proxy.rules.guard import Guard
from proxy.rules.links import Base, Links
from proxy.rules.permissions import Permissions
from proxy.settings import MEMORY, Settings, SettingsError, read_secret
from proxy.token.grant import ClientCredentials
from proxy.token.rotation import Rotation
from proxy.token.source import TokenGrant, TokenSource
from proxy.watch.metrics import Metrics, Tally
from proxy.watch.recent import Recent
from proxy.watch.record import Record

log = logging.getLogger(__name__)


# Seconds, from the last accept on, in which requests are served still: they were on their way when the
# listeners closed. A connection that the kernel completed is no request yet, but one will follow.
_SETTLE = 0.1


class App:
    """One proxy. `watch` gets the record of each request; `lenient`, by key: see `listen.bind`.

    `stop` is set when somebody asks on the admin listener that the process end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        watch: Callable[[Record], None],
        lenient: Mapping[str, bool] | None = None,
        clock: Clock | None = None,
        stop: asyncio.Event | None = None,
    ):
        self._settings = settings
        self._lenient = lenient or {}
        self._clock = clock or SystemClock()
        self._watch = watch
        self.stop = stop or asyncio.Event()
        self._tally = Tally()
        self._recent = Recent(self._clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []
        self.bound: list[Bound] = []
        self.admin_bound: list[Bound] = []

    async def start(self) -> None:
        """Bind and serve; the first token and a first connection are fetched meanwhile.

        Raises SettingsError before any socket is opened, or ListenError.
        """
        settings = self._settings
        self._build()
        self.bound = bind(settings.listen, lenient=self._lenient.get("listen", False))
        try:
            self.admin_bound = bind(settings.admin_listen, lenient=self._lenient.get("admin_listen", False))
            self._status.listeners = [one.name for one in self.bound]
            self._status.admin_listeners = [one.name for one in self.admin_bound]
            await self._admin.start(self.admin_bound)
            await self._serve()
        except BaseException:
            for one in (*self.bound, *self.admin_bound):
                one.close()
            raise
        self._tasks = [asyncio.create_task(self._tokens.run()), asyncio.create_task(self._warm())]
        if rotation := self._rotation():
            self._tasks.append(asyncio.create_task(rotation.run()))

    def _build(self) -> None:
        settings, clock = self._settings, self._clock
        context = self._context = tls_context(settings)
        self._tokens = TokenSource(
            self._grant(settings.client_secret),
            refresh_margin=settings.refresh_margin,
            clock=clock,
            on_event=_log_token_event,
        )
        self._pool = self._build_pool(context)
        base = settings.base_url
        self._forwarder = Forwarder(
            guard=Guard(settings.allowed_hosts, settings.allowed_origins),
            permissions=Permissions.parse(settings.allow),
            tokens=self._tokens,
            pool=self._pool,
            origin=Origin(base.authority.encode(), base.path.encode()),
            links=_links(settings),
            body_links=_body_links(settings),
            replay_limit=settings.replay_limit,
            replay_memory=ReplayMemory(settings.replay_memory),
            clock=clock,
            watch=self._note,
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
        self._admin = self._build_admin()

    def _build_admin(self) -> AdminServer:
        settings, pool, callers = self._settings, self._pool, self._callers
        metrics = Metrics(
            tally=self._tally,
            version=__version__,
            in_flight=lambda: callers.in_flight,
            connections=lambda: pool.counts,
            token_expiry=lambda: self._tokens.expires_at_wall,
        )
        self._status = Status(
            version=__version__,
            base_url=str(settings.base_url),
            token_url=str(settings.token_url),
            health=self._health,
            tokens=self._tokens,
            connections=lambda: pool.counts,
            callers=lambda: len(callers.open),
            in_flight=lambda: callers.in_flight,
            limits=(settings.max_connections, settings.max_clients),
            tally=self._tally,
            recent=self._recent,
            clock=self._clock,
        )
        return AdminServer(
            self._health,
            self._forwarder.guard,
            metrics=metrics.render,
            status=self._status.tell,
            quit=self.stop.set if settings.quit_endpoint else None,
        )

    def _note(self, record: Record) -> None:
        self._tally(record)
        self._recent(record)
        self._watch(record)

    def _grant(self, client_secret: str) -> TokenGrant:
        settings = self._settings
        grant = ClientCredentials(
            token_url=str(settings.token_url),
            client_id=settings.client_id,
            client_secret=client_secret,
            scope=settings.scope,
            patient=settings.patient,
            client_auth=settings.client_auth,
            timeout=settings.token_timeout,
            ssl=self._context,
            proxy=egress_proxy(settings.token_url),
            clock=self._clock,
            observe=self._tally.token_request,
        )
        return grant if settings.token_store == MEMORY else self._shared(grant)

    def _shared(self, grant: ClientCredentials) -> TokenGrant:
        settings = self._settings
        try:
            # Here, since the extra is needed for a shared store alone, and is not small.
            from proxy.token.seal import Seal
            from proxy.token.shared import SharedGrant
            from proxy.token.store import RedisStore
        except ImportError:
            advice = "pip install 'fumage-proxy[redis]'"
            raise SettingsError([f"token_store: a shared store needs the extra redis: {advice}"]) from None
        try:
            store = RedisStore(settings.token_store, password=settings.token_store_password)
        except ValueError as error:
            raise SettingsError([f"token_store: {error}"]) from None
        return SharedGrant(
            grant,
            store=store,
            seal=Seal(settings.token_store_key or ()),
            refresh_margin=settings.refresh_margin,
            patience=settings.token_timeout,
            clock=self._clock,
            observe=_log_store_event,
        )

    def _rotation(self) -> Rotation | None:
        path = self._settings.client_secret_file
        if path is None or not path.is_file():  # what a shell's <(…) leaves can be read once, and blocks then
            return None
        return Rotation(
            self._tokens,
            secret=self._settings.client_secret,
            read=partial(read_secret, path),
            make_grant=self._grant,
            clock=self._clock,
            on_event=_log_rotation,
        )

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
            serve = loop.create_server if one.path is None else loop.create_unix_server
            # A duplicate, so that the socket outlives asyncio's server: see _stop_listening.
            server = await serve(self._protocol(one), sock=one.sock.dup(), backlog=BACKLOG)
            self._servers.append(server)

    def _protocol(self, bound: Bound) -> Callable[[], asyncio.Protocol]:
        return partial(self._callers.connection, tcp=bound.path is None)

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
        """Stop: newcomers are served for drain_delay still, what runs may take drain_timeout then."""
        settings = self._settings
        self._health.draining = True
        await asyncio.sleep(settings.drain_delay)
        await self._stop_listening()
        self._callers.draining = True  # from now on answers say Connection: close
        await asyncio.sleep(_SETTLE)
        self._forwarder.draining = True
        self._callers.drain()
        try:
            async with asyncio.timeout(settings.drain_timeout):
                await self._callers.gone()
        except TimeoutError:
            log.warning("drain_timeout is over; %d connections are broken off.", len(self._callers.open))

    async def _stop_listening(self) -> None:
        """Close the listeners, and lose no connection that the kernel has completed."""
        loop = asyncio.get_running_loop()
        if isinstance(
            loop, asyncio.SelectorEventLoop
        ):  # not uvloop, whose accepted connections are transports at once
            for server in self._servers:
                loop.remove_reader(server.sockets[0].fileno())
            # What asyncio has accepted becomes a transport next turn; since Python 3.12 that fails, and
            # the connection is lost, once its server is closed.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        last = []
        for server, one in zip(self._servers, self.bound, strict=True):
            server.close()
            last += [loop.connect_accepted_socket(self._protocol(one), sock) for sock in one.accept_rest()]
        await asyncio.gather(*last, return_exceptions=True)

    async def close(self) -> None:
        """End at once what is left."""
        for server in self._servers:
            server.close()
        for one in self.bound:
            one.close()
        for one in self.admin_bound:
            one.remove_path()
        self._callers.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.abort()
        await self._tokens.close()
        await self._admin.close()


def _links(settings: Settings) -> Links | None:
    return None if settings.links == "off" else Links(_base(settings))


def _body_links(settings: Settings) -> BodyLinks | None:
    what, _, absolute = settings.links.partition(",")
    if what not in ("bundle", "all"):
        return None
    return BodyLinks(_base(settings), attachments=what == "all", absolute=absolute != "")


def _base(settings: Settings) -> Base:
    base = settings.base_url
    host = f"[{base.host}]" if ":" in base.host else base.host
    return Base(base.scheme.encode(), host.encode(), base.explicit_port, base.path.encode())


def _log_rotation(event: str, why: str | None) -> None:
    if why is None:
        log.info("The client secret was rotated: the new one is in use.")
    else:
        log.warning("The new client secret is not used, the old one stays: %s", why)


def _log_store_event(event: str, why: str | None) -> None:
    if why is not None:
        log.warning("The shared token store was not used: %s", why)


def _log_token_event(event: str, error: TokenError | None) -> None:
    if error is not None:
        log.warning("No token: %s %s", error, error.advice)
    elif event == "obtained":
        log.info("A new token is in use.")
    else:
        log.warning("A token was rejected by Fumage: %s.", event)
