"""The story of one request: admit, token, send, 401, replay, answer."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from proxy.forward.delivery import Delivery
from proxy.forward.inbound import CallerConnection
from proxy.forward.outbound import Answer, Connection
from proxy.forward.pool import Pool
from proxy.forward.replay import ReplayMemory, Upload
from proxy.forward.request import Request, new_request_id
from proxy.forward.strand import Strand
from proxy.rules.bundle import BodyLinks
from proxy.rules.coding import narrow
from proxy.rules.errors import (
    CallerRefused,
    Draining,
    FumageConnectionLost,
    InternalError,
    LoopDetected,
    ProxyError,
    TokenError,
    TokenRenewed,
)
from proxy.rules.guard import Guard, is_preflight, preflight_fields
from proxy.rules.headers import VIA, Fields, authorized, loops, request_fields, request_head
from proxy.rules.links import Links
from proxy.rules.permissions import Permissions
from proxy.token.grant import Token
from proxy.token.source import TokenSource
from proxy.watch.record import Record

# RFC 9110 section 9.2.1, less TRACE: may be sent once more when a kept-alive connection turns out closed.
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `host` as the Host field has it, `path` the base URL's own."""

    host: bytes
    path: bytes


@dataclass(slots=True)
class Phase:
    """How near its end the process is; one for all Forwarders, of which each reload makes a new one."""

    draining: bool = False  # no new request
    ended: bool = False  # nor any that still runs


@dataclass(slots=True)
class Forwarder:
    """The parts that all exchanges share; serves the requests of the callers' connections."""

    guard: Guard
    permissions: Permissions
    tokens: TokenSource
    pool: Pool
    origin: Origin
    links: Links | None
    body_links: BodyLinks | None
    replay_limit: int
    replay_memory: ReplayMemory
    now: Callable[[], float]  # a clock's, in seconds
    watch: Callable[[Record], None]
    phase: Phase

    def serve(self, request: Request, caller: CallerConnection, strand: Strand) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        return Exchange(self, request, caller).run(strand)

    def refuse(self, error: ProxyError, caller: CallerConnection, request: Request | None) -> None:
        """Answer what could not be read as a request."""
        if request is None:
            request = Request(b"", None, b"", True, [], {}, None)
        exchange = Exchange(self, request, caller)
        exchange.refuse(error)
        exchange.leave()


class Exchange:
    """One request on its way."""

    __slots__ = (
        "_caller",
        "_connection",
        "_delivery",
        "_parts",
        "_pump",
        "_record",
        "_request",
        "_sent_at",
        "_strand",
        "_token",
        "_upload",
    )

    def __init__(self, parts: Forwarder, request: Request, caller: CallerConnection):
        self._parts = parts
        self._request = request
        self._caller = caller
        self._strand: Strand
        self._connection: Connection | None = None
        self._token: Token | None = None
        self._sent_at = 0.0
        self._pump: asyncio.Task[None] | None = None  # sends what the caller still sends
        self._upload: Upload | None = None
        if request.body is not None:
            self._upload = Upload(request, request.body, parts.replay_limit, parts.replay_memory)
        given = request.noted.get(b"x-request-id")
        request_id = given if given is not None else new_request_id()
        self._record = record = Record(
            parts.now(), request.method, request.target, request_id, own_id=given is None
        )
        self._delivery = Delivery(request, caller, record, parts.guard, parts.links, parts.body_links)

    async def run(self, strand: Strand) -> None:
        """All stations, in their order."""
        self._strand = strand
        try:
            if not self._admit():
                return
            if self._upload is not None and not self._upload.arrived:
                await strand.as_task()
            if not self._parts.permissions.unrestricted:
                await self._permit()
            head = self._head()
            if self._upload is not None:
                await self._upload.gather()
            answer = await self._ask(head)
            if answer.status == 401:
                answer = await self._ask_again(head, answer)
            if self._upload is not None:
                self._upload.spare()
            assert self._connection is not None
            if not self._delivery.deliver_whole(answer, self._connection):
                await self._delivery.deliver(answer, self._connection, strand)
        except ProxyError as error:
            self.refuse(error)
        except asyncio.CancelledError:
            if self._parts.phase.ended:
                self._record.broken = Draining("drain_timeout was over.")
            else:
                self._record.abandoned = True
            raise
        except Exception as error:
            self._record.defect = error
            self.refuse(InternalError("fumage-proxy met a defect of its own."))
        finally:
            self.leave()

    # --- stations 2 and 3: may it pass, and as what ---

    def _admit(self) -> bool:
        """Raise ProxyError unless the request may go on; False if it is answered here."""
        parts, request = self._parts, self._request
        if parts.phase.draining:
            raise Draining("This proxy is stopping and takes no new request.")
        if request.memo is not None and request.memo.by is parts:
            return True
        parts.guard.check(request.method, request.authority, request.noted, tcp=self._caller.tcp)
        if loops(request.noted):
            raise LoopDetected("The request has been through this proxy before (Via).")
        if is_preflight(request.method, request.noted):
            self._delivery.write_whole(204, preflight_fields(request.noted), None)
            return False
        return True

    async def _permit(self) -> None:
        """Raise CallerRefused unless `allow` permits the request, with all that its body asks for."""
        permissions, request = self._parts.permissions, self._request
        permissions.check(request.method, request.target, request.noted)
        kind = permissions.needs_body(request.method, request.target)
        if kind is None:
            return
        body = b"" if self._upload is None else await self._upload.whole()  # it is what is sent then
        if body is None:
            raise CallerRefused(
                f"The {kind} has to be looked into, and is larger than replay_limit or what replay_memory "
                "has left.",
                "Send less at once, or raise replay_limit or replay_memory.",
            )
        if kind == "bundle":
            permissions.check_bundle(body)
        else:
            permissions.check_search_form(request.target, body)

    def _head(self) -> bytes:
        """The head of our request, for `authorized`."""
        parts, request, record, memo = self._parts, self._request, self._record, self._request.memo
        if memo is None:
            fields = self._fields()
        else:
            if memo.by is not parts:
                memo.head, memo.by = self._fields(), parts
            fields = memo.head
        path = parts.origin.path if request.target != b"*" else b""
        own = record.request_id if record.own_id else None
        return request_head(request.method, path, request.target, fields, own)

    def _fields(self) -> bytes:
        parts, request = self._parts, self._request
        fields = request.fields if parts.body_links is None else narrow(request.fields)
        added: Fields = [(b"Via", VIA)]
        if (length := request.noted.get(b"content-length")) is not None:
            added.append((b"Content-Length", length))
        elif request.body is not None:
            added.append((b"Transfer-Encoding", b"chunked"))
        return request_fields(parts.origin.host, fields, added)

    # --- stations 5 and 6: the token, and Fumage ---

    async def _ask(self, head: bytes, *, fresh: bool = False) -> Answer:
        """Send the request with the current token; the head of the final answer.

        `fresh`: on a connection that nothing was sent on before.
        """
        parts, retryable = self._parts, self._request.method in _SAFE
        # Before a connection is taken: those who wait for a token hold none.
        self._token = parts.tokens.current() or await self._next_token()
        now = parts.now()
        connection = None if fresh else parts.pool.take(now, recent=not retryable)
        if connection is None:
            connection = await self._open(fresh=fresh)
            now = parts.now()
        self._connection = connection
        self._sent_at = now
        self._send(connection, authorized(head, self._token.authorization))
        answer = None
        try:
            while (answer := connection.answer()) is None or answer.status < 200:
                if answer is not None:
                    self._delivery.pass_interim(answer)
                else:
                    await self._strand.news(connection)
        except FumageConnectionLost as error:
            # RFC 9112 section 9.3.1: the server may close an idle connection just when we use it.
            if not (retryable and connection.kept_alive and not connection.answered and self._replayable):
                if retryable:
                    error.advice = "Send it again."
                raise
        finally:
            now = parts.now()
            self._record.upstream_seconds += now - self._sent_at
        if answer is None:
            await self._drop_connection()
            return await self._ask(head, fresh=True)
        if answer.status != 401:
            parts.tokens.accepted(self._token, now)
        return answer

    async def _next_token(self) -> Token:
        await self._strand.as_task()
        return await self._parts.tokens.get()

    async def _open(self, *, fresh: bool) -> Connection:
        await self._strand.as_task()
        parts = self._parts
        # In that turn of the loop one may have become free: the pool must not close it to make room.
        now, recent = parts.now(), self._request.method not in _SAFE
        connection = None if fresh else parts.pool.take(now, recent=recent)
        if connection is None:
            connection = await parts.pool.open(fresh=fresh)
        self._connection = connection
        self._token = parts.tokens.current() or await parts.tokens.get()  # it may have expired meanwhile
        return connection

    def _send(self, connection: Connection, data: bytes) -> None:
        upload, whole = self._upload, True
        if upload is not None:
            data += upload.at_hand()
            whole = upload.complete
        connection.begin(data, head_only=self._request.method == b"HEAD", whole=whole)
        if upload is not None and not whole:
            self._start_pump(upload, connection)

    @property
    def _replayable(self) -> bool:
        return self._upload is None or self._upload.replayable

    def _start_pump(self, upload: Upload, connection: Connection) -> None:
        self._pump = asyncio.get_running_loop().create_task(self._send_rest(upload, connection))

    async def _send_rest(self, upload: Upload, connection: Connection) -> None:
        try:
            await upload.send_rest(connection)
        except ProxyError as error:
            connection.fail(error)  # whoever waits for the answer gets it

    async def _stop_pump(self) -> bool:
        """Whether it had not come to its end yet."""
        await self._strand.as_task()
        pump, self._pump = self._pump, None
        if pump is None or not pump.cancel():
            return False
        await asyncio.wait([pump])
        return True

    async def _drop_connection(self) -> None:
        await self._stop_pump()
        if self._connection is not None:
            self._parts.pool.release(self._connection, self._parts.now())
            self._connection = None

    async def _ask_again(self, head: bytes, rejection: Answer) -> Answer:
        """After a 401: the same bytes once more with a new token, if there is one to be had."""
        parts, record, rejected, connection = self._parts, self._record, self._token, self._connection
        assert rejected is not None
        assert connection is not None
        interrupted = await self._stop_pump()  # or what is kept could grow over the limit meanwhile
        try:
            token = await parts.tokens.replace(rejected, self._sent_at)
        except TokenError:
            record.replay = "no_token"
            raise
        if token is None:
            if (
                interrupted and self._upload is not None
            ):  # Fumage may want to see the end of the request first
                self._start_pump(self._upload, connection)
            return self._rejected(rejection, "suppressed")
        if not self._replayable:
            record.replay = "too_large"
            raise TokenRenewed("Fumage rejected the token; the body was too large to be kept and resent.")
        await self._drop_connection()
        record.replayed = True
        answer = await self._ask(head)
        if answer.status == 401:
            assert self._token is not None
            parts.tokens.rejected_again(self._token)
            return self._rejected(answer, "rejected")
        record.replay = "ok"
        return answer

    def _rejected(self, answer: Answer, replay: str) -> Answer:
        self._record.replay = replay
        self._delivery.rejected = True
        return answer

    def refuse(self, error: ProxyError) -> None:
        """Answer with what went wrong."""
        self._delivery.refuse(error)

    def leave(self) -> None:
        """Leave nothing open behind, whatever happened."""
        parts, record = self._parts, self._record
        record.ended = now = parts.now()
        if self._pump is not None:
            self._pump.cancel()
        if self._connection is not None:
            parts.pool.release(self._connection, now)
            self._connection = None
        if self._upload is not None:
            self._upload.release()
        self._caller.served()
        if self._request.body is not None:
            record.request_bytes = self._request.body.received
        parts.watch(record)
