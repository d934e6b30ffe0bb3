"""A server that tells what it got, byte by byte, and misbehaves on command."""

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, Self

from tests.support import Ended, Fields, Malformed, Message, Pipe, Pulse, chunk, head, last_chunk, read_fields

Framing = Literal["length", "chunked", "close", "none"]
FHIR = ("Content-Type", "application/fhir+json")
PATIENT = b'{"resourceType":"Patient"}'
AUTHENTICATION_FAILED = (
    b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"unknown",'
    b'"details":{"text":"Authentication failed"}}]}'
)


@dataclass(kw_only=True)
class Seen(Message):
    """A request whose head arrived; its body grows until it is `complete`."""

    method: str
    target: bytes
    connection: int  # 1 for the first connection that was accepted
    complete: bool = False

    @property
    def bearer(self) -> str | None:
        scheme, _, token = (self["Authorization"] or "").partition(" ")
        return token if scheme == "Bearer" else None


class Wire(Pipe):
    """The server's end of a connection, which a behaviour plays on."""

    patience = None

    def __init__(self, upstream: "Upstream") -> None:
        super().__init__()
        self.upstream = upstream
        self.peer_gone = asyncio.Event()  # a FIN counts; unseen while more than `limit` bytes are unread
        self.seen: Seen | None = None

    def beat(self) -> None:
        super().beat()
        self.upstream.pulse.beat()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.upstream.accepted(self)

    def eof_received(self) -> bool:
        self.peer_gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.peer_gone.set()
        self.upstream.wires.discard(self)
        super().connection_lost(exc)

    async def request(self, connection: int) -> Seen:
        self.tap = bytearray()
        line = await self.line()
        if (
            len(words := line.split(b" ")) != 3
            or not all(words)
            or words[2] not in (b"HTTP/1.1", b"HTTP/1.0")
        ):
            raise Malformed(f"request line: {line!r}")
        method, target, version = words
        self.seen = Seen(
            method=method.decode(),
            target=target,
            version=version.decode(),
            headers=await read_fields(self),
            raw_head=bytes(self.tap),
            connection=connection,
        )
        return self.seen

    async def body(self) -> bytes:
        """Read the rest of the request; 100 (Continue) goes out first where it is awaited."""
        assert self.seen
        if not self.seen.complete:
            framing = self.seen.declared() or 0
            if framing and not self.buffer and self.seen["Expect"] == "100-continue":
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await self.seen.read_body(self, framing)
            self.seen.complete = True
            self.beat()
        return self.seen.body

    async def read_raw(self, size: int) -> bytes:
        return await self.exactly(size)

    async def forever(self) -> None:
        """Hang until the peer is gone, or the server stopped."""
        await self.peer_gone.wait()


Behaviour = Callable[[Seen, Wire], Awaitable[None]]


@dataclass(frozen=True)
class early:  # a decorator
    """Play the behaviour as soon as the head is there; `await wire.body()` reads the rest. Outermost."""

    behaviour: Behaviour

    def __call__(self, seen: Seen, wire: Wire) -> Awaitable[None]:
        return self.behaviour(seen, wire)


def reply(
    status: int = 200,
    body: bytes = b"",
    headers: Fields = (),
    *,
    reason: str | None = None,
    framing: Framing = "length",
    keep_alive: bool = True,
    chunks: Sequence[bytes] | None = None,
    trailers: Fields = (),
) -> Behaviour:
    """A well-formed answer; HEAD, 204 and 304 get no body. `chunks` are written one by one."""
    pieces = [body] if chunks is None else chunks
    phrase = reason if reason is not None else HTTPStatus(status).phrase
    closing = framing == "close" or not keep_alive
    empty = status in (204, 304)
    fields = list(headers)
    if framing == "length" and not empty:
        fields.append(("Content-Length", str(sum(map(len, pieces)))))
    if framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
    if closing:
        fields.append(("Connection", "close"))

    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(head(f"HTTP/1.1 {status} {phrase}", fields))
        if not empty and seen.method != "HEAD" and framing != "none":
            for piece in pieces:
                if piece:
                    wire.write(chunk(piece) if framing == "chunked" else piece)
                    await wire.drain()
            if framing == "chunked":
                wire.write(last_chunk(trailers))
        if closing:
            wire.close()

    return answer


def raw(data: bytes = b"", then: Literal["keep", "close", "reset", "cut"] = "keep") -> Behaviour:
    """These bytes, whatever they are. `cut` is a FIN that TLS did not announce by close_notify; `reset` takes
    back what the peer's kernel has no room for, so keep `data` under 64 KiB where all of it has to arrive."""

    async def answer(seen: Seen, wire: Wire) -> None:
        wire.write(data)
        await wire.drain()
        if then != "keep":
            {"close": wire.close, "reset": wire.reset, "cut": wire.cut}[then]()

    return answer


def close_without_answer() -> Behaviour:
    return raw(then="close")


def reset_without_answer() -> Behaviour:
    return raw(then="reset")


def tls_cut(data: bytes = b"") -> Behaviour:
    return raw(data, then="cut")


def hang() -> Behaviour:
    return lambda seen, wire: wire.forever()


def after(event: asyncio.Event, behaviour: Behaviour) -> Behaviour:
    async def answer(seen: Seen, wire: Wire) -> None:
        await event.wait()
        await behaviour(seen, wire)

    return answer


def echo() -> Behaviour:
    """200 with the request as JSON: method, target, headers (list of pairs) and body, all as latin-1 text."""

    async def answer(seen: Seen, wire: Wire) -> None:
        await wire.body()
        told = {
            "method": seen.method,
            "target": seen.target.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in seen.headers],
            "body": seen.body.decode("latin-1"),
        }
        await reply(200, json.dumps(told).encode(), [("Content-Type", "application/json")])(seen, wire)

    return answer


def unauthorized() -> Behaviour:
    """Fumage's documented 401, which has no WWW-Authenticate."""
    return reply(401, AUTHENTICATION_FAILED, [FHIR])


def tokens_only(
    valid: Container[str] | Callable[[str], bool], behaviour: Behaviour | None = None
) -> Behaviour:
    """Asked anew at each request, so that `valid` may be a set that the test changes, or `emr.issued`."""
    accepted = behaviour or reply(200, PATIENT, [FHIR])

    async def answer(seen: Seen, wire: Wire) -> None:
        token = seen.bearer or ""
        known = valid(token) if callable(valid) else token in valid
        await (accepted if known else unauthorized())(seen, wire)

    return answer


@dataclass(kw_only=True)
class Upstream:
    """`script` is played first, a behaviour a request, then `answer`. What a behaviour raises, and requests
    that are not HTTP/1.1, fail the test at the end of the `async with`."""

    answer: Behaviour = field(default_factory=lambda: reply(200, PATIENT, [FHIR]))
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    on_connect: Callable[[Wire], Awaitable[None]] | None = None  # before the first request is read
    script: deque[Behaviour] = field(default_factory=deque, init=False)
    seen: list[Seen] = field(default_factory=list, init=False)
    wires: set[Wire] = field(default_factory=set, init=False)  # the open connections
    connections: int = field(default=0, init=False)  # accepted so far
    failures: list[Exception] = field(default_factory=list, init=False)
    port: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.pulse = Pulse()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self.tls else f"http://{self.host}:{self.port}"

    @property
    def open(self) -> int:
        return len(self.wires)

    async def __aenter__(self) -> Self:
        await self.restart()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.stop()
        if self.failures and not error:
            raise self.failures[0]

    async def restart(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Wire(self),
            self.host,
            self.port,
            ssl=self.tls,
            ssl_handshake_timeout=5 if self.tls else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop_accepting(self) -> None:
        """New connections are refused; open ones live on."""
        self._server.close()

    def close_all(self) -> None:
        """As a server does with idle connections."""
        for wire in list(self.wires):
            wire.close()

    async def stop(self) -> None:
        """As if the process were killed."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for wire in self.wires:
            wire.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.until(lambda: not self.wires)
        await self._server.wait_closed()

    async def until(self, predicate: Callable[[], object], seconds: float = 15) -> None:
        """Woken at each change of state: connections, heads, body bytes."""
        await self.pulse.until(
            predicate,
            seconds,
            lambda: (
                f"{self.connections} connections, {self.open} open, saw "
                f"{[(seen.method, seen.target, seen.complete) for seen in self.seen]}"
            ),
        )

    def accepted(self, wire: Wire) -> None:
        self.connections += 1
        self.wires.add(wire)
        task = asyncio.create_task(self._serve(wire, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.pulse.beat()

    async def _serve(self, wire: Wire, connection: int) -> None:
        try:
            if self.on_connect:
                await self.on_connect(wire)
            while not wire.transport.is_closing():
                await self._exchange(await wire.request(connection), wire)
        except (Ended, ConnectionError):
            pass  # the peer may leave at any time; `complete` and `open` tell
        except Exception as failure:
            self.failures.append(failure)
        finally:
            wire.close()

    async def _exchange(self, seen: Seen, wire: Wire) -> None:
        self.seen.append(seen)
        behaviour = self.script.popleft() if self.script else self.answer
        self.pulse.beat()
        if not isinstance(behaviour, early):
            await wire.body()
        await behaviour(seen, wire)
        if not wire.transport.is_closing():
            await wire.body()
