"""The composition root: build the parts, bind, serve, drain."""

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from proxy import __version__
from proxy.admin.server import AdminServer, Health
from proxy.admin.status import Status
from proxy.clock import Clock, SystemClock
from proxy.forward.callers import Callers
from proxy.forward.deadlines import Deadlines
from proxy.forward.dial import Dialer, EgressProxy
from proxy.forward.exchange import Forwarder, Origin, Phase
from proxy.forward.listeners import Listeners
from proxy.forward.outbound import Connection, Outbox
from proxy.forward.pool import Pool
from proxy.forward.reader import Limits
from proxy.forward.replay import ReplayMemory
from proxy.listen import Bound, bind
from proxy.network import egress_proxy, tls_context
from proxy.parts import body_links, links
from proxy.rules.errors import ProxyError, TokenError
from proxy.rules.guard import Guard
from proxy.rules.permissions import Permissions
from proxy.settings import (
    CREDENTIALS,
    MEMORY,
    Change,
    Settings,
    SettingsError,
    compare,
    is_pipe,
    mask_url,
    read_secret,
)
from proxy.tasks import end, watched
from proxy.token.extra import open_store
from proxy.token.grant import ClientCredentials
from proxy.token.rotation import Rotation
from proxy.token.source import TokenGrant, TokenSource
from proxy.watch.batch import Batch
from proxy.watch.metrics import Metrics, Tally
from proxy.watch.recent import Recent
from proxy.watch.record import Record
from proxy.watch.sharing import Sharing, Told

if TYPE_CHECKING:
    from proxy.token.store import RedisStore

log = logging.getLogger(__name__)


# Seconds, from the last accept on, in which a connection may bring its first request: it was on its way when
# the listeners closed. A connection that the kernel completed is no request yet, but one will follow.
_SETTLE = 0.1
# Seconds after an answer in which a caller may send its next request if that answer did not tell it that the
# connection will be closed: only the answer to that request can (RFC 9112 section 9.6).
_PAUSE = 1.0


class App:
    """One proxy. `watch` gets the records of requests, many at a time; `lenient`, by key: see `listen.bind`.

    `stop` is set when the process has to end: somebody asks for it on the admin listener, or the app has
    `failed`, since what runs beside the requests died.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        watch: Callable[[Sequence[Record]], None],
        lenient: Mapping[str, bool] | None = None,
        clock: Clock | None = None,
        stop: asyncio.Event | None = None,
    ):
        self._settings = settings  # those in force: see `change` and `_rotated`
        self._lenient = lenient or {}
        self._clock = clock or SystemClock()
        self.watch = watch
        self.stop = stop or asyncio.Event()
        self.failed = False
        self._tally = Tally()
        self._recent = Recent(self._clock)
        self._batch = Batch(self._look)
        self._phase = Phase()
        shared = settings.token_store != MEMORY
        self._sharing = Sharing(mask_url(settings.token_store), self._clock) if shared else None
        self._tasks: list[asyncio.Task[None]] = []
        self._rotation: asyncio.Task[None] | None = None
        self._store: RedisStore
        self.bound: list[Bound] = []
        self.admin_bound: list[Bound] = []

    async def start(self) -> None:
        """Bind and serve; the first token and a first connection are fetched meanwhile.

        Raises SettingsError before any socket is opened, or ListenError.
        """
        settings = self._settings
        self._build()
        self.bound = bind(settings.listen, lenient=self._lenient.get("listen", False))
        self._listeners = Listeners(self.bound, self._callers.connection)
        try:
            self.admin_bound = bind(settings.admin_listen, lenient=self._lenient.get("admin_listen", False))
            self._status.listeners = [one.name for one in self.bound]
            self._status.admin_listeners = [one.name for one in self.admin_bound]
            await self._admin.start(self.admin_bound)
            await self._listeners.start()
        except BaseException:
            for one in (*self.bound, *self.admin_bound):
                one.close()
            raise
        self._tasks = [watched(self._tokens.run(), self.died), watched(self._warm(), self.died)]
        self._rotate()

    def _build(self) -> None:
        settings, clock = self._settings, self._clock
        context = self._context = tls_context(settings)
        if self._sharing is not None:
            self._store = _open_store(settings)
        self._tokens = TokenSource(
            self._grant(settings),
            refresh_margin=settings.refresh_margin,
            clock=clock,
            on_event=_log_token_event,
        )
        self._waiting = Deadlines(settings.response_timeout, Connection.timed_out)
        self._stalled = Deadlines(settings.idle_timeout, Connection.stalled)
        self._pool = self._build_pool(context)
        self._forwarder = self._build_forwarder(ReplayMemory(settings.replay_memory))
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

    def _build_forwarder(self, replay_memory: ReplayMemory) -> Forwarder:
        settings, base = self._settings, self._settings.base_url
        return Forwarder(
            guard=Guard(settings.allowed_hosts, settings.allowed_origins),
            permissions=Permissions.parse(settings.allow),
            tokens=self._tokens,
            pool=self._pool,
            origin=Origin(base.authority.encode(), base.path.encode()),
            links=links(settings),
            body_links=body_links(settings),
            replay_limit=settings.replay_limit,
            replay_memory=replay_memory,
            now=self._clock.now,
            watch=self._batch,
            phase=self._phase,
        )

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
            sharing=self._sharing,
            tally=self._tally,
            recent=self._recent,
            clock=self._clock,
        )
        return AdminServer(
            self._health,
            self._forwarder.guard,
            metrics=metrics.render,
            status=self._status.tell,
            catch_up=self.flush,
            quit=self.stop.set if settings.quit_endpoint else None,
        )

    def died(self) -> None:
        """Have the process stop, with an exit code that says why; see `tasks.watched`."""
        self.failed = True
        self.stop.set()

    def flush(self) -> None:
        """Have looked at the requests that are over by now."""
        self._batch.flush()

    def _look(self, records: Sequence[Record]) -> None:
        self._tally(records)
        self._recent(records)
        self.watch(records)

    def _grant(self, settings: Settings) -> TokenGrant:
        grant = ClientCredentials(
            token_url=str(settings.token_url),
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            scope=settings.scope,
            patient=settings.patient,
            client_auth=settings.client_auth,
            timeout=settings.token_timeout,
            ssl=self._context,
            proxy=egress_proxy(settings.token_url),
            clock=self._clock,
            observe=self._tally.token_request,
        )
        return grant if self._sharing is None else self._shared(grant, self._sharing)

    def _shared(self, grant: ClientCredentials, sharing: Sharing) -> TokenGrant:
        # Here, since they need the extra.
        from proxy.token.seal import Seal
        from proxy.token.shared import SharedGrant

        settings = self._settings
        return SharedGrant(
            grant,
            store=self._store.twin(),  # a grant closes its own, and while one takes over there are two
            seal=Seal(settings.token_store_key or ()),
            refresh_margin=settings.refresh_margin,
            patience=settings.token_timeout,
            clock=self._clock,
            observe=partial(self._note_store, sharing),
        )

    def _note_store(self, sharing: Sharing, event: str, error: Told | None) -> None:
        self._tally.store_event(event)
        if sharing(event, error):
            log.info("The shared token store is in use again.")
        elif error is not None:
            log.warning("The shared token store was not used: %s %s", error, error.advice)

    def _rotate(self) -> None:
        """Watch the secret's file from now on, if there is one."""
        settings, path = self._settings, self._settings.client_secret_file
        if path is None or is_pipe(path):  # what a shell's <(…) leaves can be read once, and blocks then
            return
        rotation = Rotation(
            self._tokens,
            secret=settings.client_secret,
            read=partial(read_secret, path),
            make_grant=lambda secret: self._grant(replace(settings, client_secret=secret)),
            clock=self._clock,
            on_event=lambda event, why: self._rotated(rotation, why),
        )
        self._rotation = watched(rotation.run(), self.died)
        self._tasks.append(self._rotation)

    def _rotated(self, rotation: Rotation, why: str | None) -> None:
        if why is None:
            self._settings = replace(self._settings, client_secret=rotation.secret)
            log.info("The client secret was rotated: the new one is in use.")
        else:
            log.warning("The new client secret is not used, the old one stays: %s", why)

    async def change(self, wanted: Settings) -> Change:
        """Take up what can change while it runs; new credentials first prove themselves with a token.

        Raises TokenError if they cannot; then all is as it was.
        """
        change = compare(self._settings, wanted)
        if not CREDENTIALS.isdisjoint(change.live):
            await self._change_credentials(change.settings)
        self._take_up(change.settings)
        return change

    async def _change_credentials(self, settings: Settings) -> None:
        if self._rotation is not None:  # its secrets go with the old settings
            self._tasks.remove(self._rotation)
            await end(self._rotation)
            self._rotation = None
        try:
            if failure := await self._tokens.adopt(self._grant(settings)):
                raise failure
            self._settings = settings
        finally:
            self._rotate()

    def _take_up(self, settings: Settings) -> None:
        old, self._settings = self._settings, settings
        same_memory = settings.replay_memory == old.replay_memory
        memory = self._forwarder.replay_memory if same_memory else ReplayMemory(settings.replay_memory)
        callers = self._callers
        # Requests under way keep the old one, so that each of them sees one set of rules.
        self._forwarder = callers.exchanges = self._build_forwarder(memory)
        self._admin.guard = self._forwarder.guard
        callers.limits = Limits(settings.max_head, settings.max_body)
        callers.most = settings.max_clients
        self._status.limits = (settings.max_connections, settings.max_clients)
        for deadlines, seconds in (
            (callers.head, settings.client_timeout),
            (callers.idle, settings.client_keepalive),
            (callers.upload, settings.idle_timeout),
            (callers.unread, settings.idle_timeout),
            (self._stalled, settings.idle_timeout),
            (self._waiting, settings.response_timeout),
        ):
            deadlines.change(seconds)

    def _build_pool(self, context: ssl.SSLContext) -> Pool:
        settings, base = self._settings, self._settings.base_url
        egress, outbox = egress_proxy(base), Outbox()
        dialer = Dialer(
            host=base.host,
            port=base.port,
            ssl_context=context if base.scheme == "https" else None,
            egress=EgressProxy.of(egress) if egress else None,
            timeout=settings.connect_timeout,
            connection=lambda: Connection(self._waiting, self._stalled, outbox),
        )
        return Pool(
            dialer.dial,
            limit=settings.max_connections,
            keepalive=settings.upstream_keepalive,
            max_age=settings.upstream_max_age,
            busy_timeout=settings.connect_timeout,
            clock=self._clock,
        )

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

    @property
    def drain_time(self) -> float:
        """Seconds that `drain` takes at most."""
        return self._settings.drain_delay + self._settings.drain_timeout

    async def drain(self) -> None:
        """Stop: newcomers are served for drain_delay still, what runs may take drain_timeout then.

        A kept connection brings one more request for a moment: its answer tells the caller to leave.
        """
        settings = self._settings
        self._health.draining = True
        await asyncio.sleep(settings.drain_delay)
        await self._listeners.stop()
        self._callers.draining = True  # from now on answers say Connection: close
        await asyncio.sleep(_SETTLE)
        pause = _PAUSE if settings.drain_timeout > _PAUSE else 0.0
        self._callers.drain(pause)
        gone = asyncio.create_task(self._callers.gone())
        await asyncio.wait([gone], timeout=pause)
        self._phase.draining = True
        await asyncio.wait([gone], timeout=settings.drain_timeout - pause)
        if not gone.done():
            await end(gone)
            log.warning("drain_timeout is over; %d connections are broken off.", len(self._callers.open))

    async def close(self) -> None:
        """End at once what is left."""
        self._listeners.close()
        for one in self.admin_bound:
            one.remove_path()
        self._phase.ended = True
        self._callers.abort()
        await end(*self._tasks)
        self._pool.abort()
        await self._tokens.close()
        await self._admin.close()
        self.flush()


def _open_store(settings: Settings) -> "RedisStore":
    try:
        return open_store(settings.token_store, settings.token_store_password)
    except ValueError as error:
        raise SettingsError([f"token_store: {error}"]) from None


def _log_token_event(event: str, error: TokenError | None) -> None:
    if error is not None:
        log.warning("No token: %s %s", error, error.advice)
    elif event == "obtained":
        log.info("A new token is in use.")
    else:
        log.warning("A token was rejected by Fumage: %s.", event)
