"""The story of one request: admit, token, send, 401, replay, answer."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.forward.inbound import CallerConnection
from proxy.forward.outbound import Answer, Connection
from proxy.forward.pool import Pool
from proxy.forward.replay import ReplayMemory, Upload
from proxy.forward.request import Request
from proxy.rules.errors import (
    FumageConnectionLost,
    InternalError,
    LoopDetected,
    ProxyError,
    TokenRenewed,
)
from proxy.rules.guard import Guard, cors_lines, is_preflight, preflight_lines
from proxy.rules.headers import (
    VIA,
    authorized,
    loops,
    note_response,
    request_head,
    trailer_lines,
    without_cors,
)
from proxy.rules.links import Links
from proxy.rules.outcome import outcome, outcome_lines
from proxy.token.grant import Token
from proxy.token.source import TokenSource
from proxy.watch.record import Record

# RFC 9110 section 9.2.1, less TRACE: what may be sent once more when a kept-alive connection turns out closed.
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))

_REJECTED = b'Proxy-Status: fumage-proxy; received-status=401; details="token-rejected"\r\n'
_BROWSER = b"Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `host` as the Host field has it, `path` the base URL's own."""

    host: bytes
    path: bytes


@dataclass(slots=True)
class Forwarder:
    """The parts that all exchanges share; serves the requests of the callers' connections."""

    guard: Guard
    tokens: TokenSource
    pool: Pool
    origin: Origin
    links: Links | None
    replay_limit: int
    replay_memory: ReplayMemory
    clock: Clock
    watch: Callable[[Record], None]
    draining: bool = False

    async def serve(self, request: Request, caller: CallerConnection) -> None:
        """Answer one request."""
        await Exchange(self, request, caller).run()

    def refuse(self, error: ProxyError, caller: CallerConnection, request: Request | None) -> None:
        """Answer what could not be read as a request."""
        if request is None:
            request = Request(b"", None, b"", True, [], {}, None)
        exchange = Exchange(self, request, caller)
        exchange.answer_error(error)
        exchange.leave()


class Exchange:
    """One request on its way."""

    def __init__(self, parts: Forwarder, request: Request, caller: CallerConnection):
        self._parts = parts
        self._request = request
        self._caller = caller
        self._connection: Connection | None = None
        self._pump: asyncio.Task[None] | None = None
        self._upload = Upload(request.body, parts.replay_limit, parts.replay_memory)
        self._token: Token | None = None
        self._sent_at = 0.0
        self._marks: list[bytes] = []  # lines that the answer gets besides its own
        self._answering = False
        given = request.noted.get(b"x-request-id")
        self._request_id = given if given is not None else b"%032x" % random.getrandbits(128)
        self._record = Record(parts.clock.now(), request.method, request.target, self._request_id)

    async def run(self) -> None:
        """All stations, in their order."""
        try:
            if not self._admit():
                return
            head = self._head()
            await self._upload.gather()
            answer = await self._ask(head)
            if answer.status == 401:
                answer = await self._ask_again(head, answer)
            await self._deliver(answer)
        except ProxyError as error:
            self.answer_error(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._record.defect = error
            self.answer_error(InternalError("fumage-proxy met a defect of its own."))
        finally:
            self.leave()

    # --- stations 2 and 3: may it pass, and as what ---

    def _admit(self) -> bool:
        """Raise ProxyError unless the request may go on; False if it is answered here."""
        parts, request = self._parts, self._request
        parts.guard.check(request.method, request.authority, request.noted, tcp=self._caller.tcp)
        if loops(request.noted):
            raise LoopDetected("The request has been through this proxy before (Via).")
        if is_preflight(request.method, request.noted):
            self._write_whole(204, b"No Content", preflight_lines(request.noted), None)
            return False
        return True

    def _head(self) -> bytes:
        parts, request = self._parts, self._request
        added = [b"Via: ", VIA, b"\r\n"]
        if b"x-request-id" not in request.noted:
            added += (b"X-Request-Id: ", self._request_id, b"\r\n")
        if (length := request.noted.get(b"content-length")) is not None:
            added += (b"Content-Length: ", length, b"\r\n")
        elif request.body is not None:
            added.append(b"Transfer-Encoding: chunked\r\n")
        target = request.target if request.target == b"*" else parts.origin.path + request.target
        return request_head(request.method, target, parts.origin.host, request.lines, added)

    # --- stations 5 and 6: the token, and Fumage ---

    async def _ask(self, head: bytes) -> Answer:
        """Send the request with the current token; the head of the final answer."""
        retryable = self._request.method in _SAFE
        connection = await self._connect(fresh=False)
        try:
            return await self._send(connection, head)
        except FumageConnectionLost:
            # RFC 9112 section 9.3.1: the server may close an idle connection just when we use it.
            if not (
                retryable and connection.kept_alive and not connection.answered and self._upload.replayable
            ):
                raise
        await self._drop_connection()
        return await self._send(await self._connect(fresh=True), head)

    async def _connect(self, *, fresh: bool) -> Connection:
        parts = self._parts
        if parts.tokens.current() is None:
            await parts.tokens.get()  # before a connection is taken: those who wait for a token hold none
        connection = None if fresh else parts.pool.take(recent=self._request.method not in _SAFE)
        if connection is None:
            connection = await parts.pool.open(fresh=fresh)
        self._connection = connection
        return connection

    async def _send(self, connection: Connection, head: bytes) -> Answer:
        parts, upload = self._parts, self._upload
        token = parts.tokens.current()
        if token is None:  # it expired while we waited for a connection
            token = await parts.tokens.get()
        self._token = token
        self._sent_at = self._record.asked(parts.clock.now())
        connection.begin(
            authorized(head, token.authorization) + upload.at_hand(),
            head_only=self._request.method == b"HEAD",
        )
        if upload.complete:
            connection.sent_all()
        else:
            self._pump = asyncio.get_running_loop().create_task(self._send_rest(connection))
        answer = await connection.answer()
        while answer.status < 200:
            self._pass_interim(answer)
            answer = await connection.answer()
        self._record.answered(parts.clock.now())
        if answer.status != 401:
            parts.tokens.accepted(token)
        return answer

    async def _send_rest(self, connection: Connection) -> None:
        try:
            await self._upload.send_rest(connection)
        except ProxyError as error:
            connection.fail(error)  # whoever waits for the answer gets it

    async def _stop_pump(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
            self._pump = None

    async def _drop_connection(self) -> None:
        await self._stop_pump()
        if self._connection is not None:
            self._parts.pool.release(self._connection)
            self._connection = None

    async def _ask_again(self, head: bytes, rejection: Answer) -> Answer:
        """After a 401: the same bytes once more with a new token, if there is one to be had."""
        parts, rejected = self._parts, self._token
        assert rejected is not None
        await self._stop_pump()
        token = await parts.tokens.replace(rejected, self._sent_at)
        if token is None:
            return self._rejected(rejection, "suppressed")
        if not self._upload.replayable:
            self._record.replay = "too_large"
            raise TokenRenewed("Fumage rejected the token; the body was too large to be kept and sent again.")
        await self._drop_connection()
        self._record.replay = "ok"
        answer = await self._ask(head)
        if answer.status == 401:
            assert self._token is not None
            parts.tokens.rejected_again(self._token)
            return self._rejected(answer, "rejected")
        return answer

    def _rejected(self, answer: Answer, replay: str) -> Answer:
        self._record.replay = replay
        self._marks.append(_REJECTED)
        return answer

    # --- stations 7 and 8: the answer ---

    def _pass_interim(self, answer: Answer) -> None:
        # 100 answers an Expect that was ours to answer (RFC 9110 section 15.2); HTTP/1.0 knows no 1xx.
        if answer.status == 100 or not self._request.http11 or self._answering:
            return
        lines, _ = note_response(answer.headers)
        self._caller.write(b"HTTP/1.1 %d %b\r\n%b\r\n" % (answer.status, answer.reason, b"".join(lines)))

    async def _deliver(self, answer: Answer) -> None:
        connection, caller = self._connection, self._caller
        assert connection is not None
        framing = self._framing(answer)
        keep_alive = caller.keep_alive and framing != "close"
        frame = _chunk if framing == "chunked" else _plain
        first = connection.take()
        head = self._answer_head(answer, framing, keep_alive)
        self._answering = True
        self._record.status, self._record.origin = answer.status, "fumage"
        self._record.response_bytes = len(first)
        data = head + frame(first) if first else head
        try:
            while not connection.complete:
                caller.write(data)
                if caller.congested:
                    await caller.writable()
                data = await connection.read()
                self._record.response_bytes += len(data)
                data = frame(data) if data else b""
        except ProxyError as error:
            self._break_off(error)
            return
        data += frame(connection.take())
        if framing == "chunked":
            data += b"0\r\n" + trailer_lines(answer.trailers) + b"\r\n"
        caller.write(data)
        caller.end(keep_alive=keep_alive)

    def _framing(self, answer: Answer) -> str:
        if answer.framing in ("none", "length"):
            return answer.framing
        return "chunked" if self._request.http11 else "close"

    def _answer_head(self, answer: Answer, framing: str, keep_alive: bool) -> bytes:
        lines, noted = note_response(answer.headers)
        self._record.correlation_id = noted.get(b"fumage-correlation-id")
        if self._parts.links is not None and (b"location" in noted or b"content-location" in noted):
            self._localise(lines)
        if self._parts.guard.allowed_origin(self._request.noted) is not None:
            lines = without_cors(lines)
        if (
            answer.status != 204
            and framing != "chunked"
            and (length := noted.get(b"content-length")) is not None
        ):
            lines += (b"Content-Length: ", length, b"\r\n")
        elif framing == "chunked":
            lines.append(b"Transfer-Encoding: chunked\r\n")
        return self._head_of(answer.status, answer.reason, lines, keep_alive)

    def _localise(self, lines: list[bytes]) -> None:
        request, links = self._request, self._parts.links
        assert links is not None
        here = request.authority if request.authority is not None else request.noted[b"host"]
        for at in range(0, len(lines), 4):
            if lines[at].lower() in (b"location", b"content-location"):
                lines[at + 2] = links.location(lines[at + 2], here)

    def _head_of(self, status: int, reason: bytes, lines: list[bytes], keep_alive: bool) -> bytes:
        """An answer's head: its own lines, then ours."""
        noted = self._request.noted
        lines += (b"X-Request-Id: ", self._request_id, b"\r\n", *self._marks)
        if (origin := self._parts.guard.allowed_origin(noted)) is not None:
            lines += cors_lines(origin)
        if b"sec-fetch-site" in noted or b"sec-fetch-mode" in noted or b"sec-fetch-dest" in noted:
            lines.append(_BROWSER)
        if not keep_alive:
            lines.append(b"Connection: close\r\n")
        elif not self._request.http11:
            lines.append(b"Connection: keep-alive\r\n")
        return b"".join((b"HTTP/1.1 %d " % status, reason, b"\r\n", *lines, b"\r\n"))

    def _break_off(self, error: ProxyError) -> None:
        self._record.broken = error
        self._caller.abort()

    # --- answers of our own ---

    def answer_error(self, error: ProxyError) -> None:
        """Answer with an OperationOutcome, or break off if an answer is on its way already."""
        if self._answering:
            self._break_off(error)
            return
        body = outcome(error, self._request_id.decode("latin-1"))
        self._record.error = error
        self._write_whole(error.status, _REASONS[error.status], outcome_lines(error), body)

    def _write_whole(self, status: int, reason: bytes, lines: list[bytes], body: bytes | None) -> None:
        keep_alive = self._caller.keep_alive
        self._answering = True
        self._record.status, self._record.origin = status, "proxy"
        if body is not None:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        data = self._head_of(status, reason, lines, keep_alive)
        if body is not None and self._request.method != b"HEAD":
            self._record.response_bytes = len(body)
            data += body
        self._caller.write(data)
        self._caller.end(keep_alive=keep_alive)

    def leave(self) -> None:
        """Leave nothing open behind, whatever happened."""
        if self._pump is not None:
            self._pump.cancel()
        if self._connection is not None:
            self._parts.pool.release(self._connection)
            self._connection = None
        self._upload.release()
        self._record.ended = self._parts.clock.now()
        if self._request.body is not None:
            self._record.request_bytes = self._request.body.received
        self._parts.watch(self._record)


_REASONS = {
    204: b"No Content",
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    508: b"Loop Detected",
}


def _plain(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
