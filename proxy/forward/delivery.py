"""Stations 7 and 8: an answer on its way to the caller, Fumage's or one of our own."""

from collections.abc import Callable

from proxy.forward.inbound import CallerConnection
from proxy.forward.outbound import Answer, Connection
from proxy.forward.request import Request
from proxy.forward.rewriting import Rewriting, rewriting
from proxy.rules.bundle import BodyLinks
from proxy.rules.errors import MalformedRequest, ProxyError
from proxy.rules.guard import Guard, cors_lines
from proxy.rules.headers import BROWSER, NOSNIFF, trailer_lines, without, without_cors
from proxy.rules.links import Links
from proxy.rules.outcome import REASONS, outcome, outcome_lines
from proxy.watch.record import Record

_REJECTED = b'Proxy-Status: fumage-proxy; received-status=401; details="token-rejected"\r\n'
_BROWSER = b"Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"

_ENOUGH = 64 * 1024  # bytes that are written at a time, where a body comes in pieces of our own making


class Delivery:
    """The answer to one request; `begun` when its head is out."""

    __slots__ = (
        "_body_links",
        "_caller",
        "_guard",
        "_links",
        "_record",
        "_request",
        "begun",
        "rejected",
    )

    def __init__(
        self,
        request: Request,
        caller: CallerConnection,
        record: Record,
        guard: Guard,
        links: Links | None,
        body_links: BodyLinks | None,
    ):
        self._request = request
        self._caller = caller
        self._record = record
        self._guard = guard
        self._links = links
        self._body_links = body_links
        self.begun = False
        self.rejected = False  # the answer is a 401 although the token was replaced, or could not be

    # --- Fumage's answer ---

    def pass_interim(self, answer: Answer) -> None:
        """Pass a 1xx on to a caller that knows it."""
        # 100 answers an Expect that was ours to answer (RFC 9110 section 15.2); HTTP/1.0 knows no 1xx.
        if answer.status == 100 or not self._request.http11 or self.begun:
            return
        self._caller.write(
            b"HTTP/1.1 %d %b\r\n%b\r\n" % (answer.status, answer.reason, b"".join(answer.lines))
        )

    async def deliver(self, answer: Answer, connection: Connection) -> None:
        """Copy the answer; what breaks off upstream is broken off here as well."""
        if self._body_links is not None and (change := rewriting(self._body_links, answer, self._here())):
            await self._deliver_rewritten(answer, connection, change)
            return
        caller, record = self._caller, self._record
        framing = self._framing(answer.framing)
        keep_alive = caller.keep_alive and framing != "close"
        frame = _chunk if framing == "chunked" else _plain
        first = connection.take()
        head = self._head(answer, answer.lines, framing, keep_alive)
        record.response_bytes = len(first)
        data = head + frame(first)
        self.begun = True
        try:
            while not connection.complete:
                caller.write(data)
                if caller.congested:
                    await caller.writable()
                data = await connection.read()
                record.response_bytes += len(data)
                data = frame(data)
        except ProxyError as error:
            self._break_off(error)
            return
        last = connection.take()
        record.response_bytes += len(last)
        data += frame(last)
        if framing == "chunked":
            data += b"0\r\n" + trailer_lines(answer.trailers, answer.noted.get(b"connection")) + b"\r\n"
        caller.write(data)
        caller.end(keep_alive=keep_alive)

    async def _deliver_rewritten(self, answer: Answer, connection: Connection, change: Rewriting) -> None:
        # The same, but a piece that comes in is none, one or many that go out.
        caller = self._caller
        framing = answer.framing if answer.framing == "none" else self._framing("chunked")
        keep_alive = caller.keep_alive and framing != "close"
        frame = self._counting(_chunk if framing == "chunked" else _plain)
        data = self._head(answer, change.lines(answer.lines), framing, keep_alive, resized=True)
        try:
            received = connection.take()
            while received or not connection.complete:
                for piece in change.feed(received):
                    data += frame(piece)
                    if len(data) >= _ENOUGH:
                        data = await self._written(data)
                if not connection.complete:
                    data = await self._written(data)
                received = await connection.read()
            data += frame(change.end())
        except ProxyError as error:
            if not self.begun:  # a body that came whole, and is not in its coding
                raise
            self._break_off(error)
            return
        self.begun = True
        if framing == "chunked":
            trailers = trailer_lines(answer.trailers, answer.noted.get(b"connection"), change.dropped)
            data += b"0\r\n" + trailers + b"\r\n"
        caller.write(data)
        caller.end(keep_alive=keep_alive)

    async def _written(self, data: bytes) -> bytes:
        """Write the data and wait until the caller takes more; returns what is left: nothing."""
        if data:
            self._caller.write(data)
            self.begun = True
        if self._caller.congested:
            await self._caller.writable()
        return b""

    def _counting(self, frame: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def counted(piece: bytes) -> bytes:
            self._record.response_bytes += len(piece)
            return frame(piece)

        return counted

    def _framing(self, framing: str) -> str:
        if framing in ("none", "length"):
            return framing
        return "chunked" if self._request.http11 else "close"

    def _head(
        self, answer: Answer, lines: list[bytes], framing: str, keep_alive: bool, *, resized: bool = False
    ) -> bytes:
        """`resized`: the Content-Length is not that of the body that the caller gets, or would get."""
        record, noted = self._record, answer.noted
        record.status, record.origin = answer.status, "fumage"
        record.correlation_id = noted.get(b"fumage-correlation-id")
        if self._links is not None and (b"location" in noted or b"content-location" in noted):
            self._localise(lines, self._links)
        if b"origin" in self._request.noted and self._origin() is not None:
            lines = without_cors(lines)
        if BROWSER in self._request.noted:
            lines = without(lines, NOSNIFF)  # the first of several values is the one that counts
        if framing == "chunked":
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif answer.status != 204 and not resized and (length := noted.get(b"content-length")) is not None:
            lines += (b"Content-Length: ", length, b"\r\n")
        return self._head_of(answer.status, answer.reason, lines, keep_alive)

    def _localise(self, lines: list[bytes], links: Links) -> None:
        for at in range(0, len(lines), 4):
            if lines[at].lower() in (b"location", b"content-location"):
                lines[at + 2] = links.location(lines[at + 2], self._here())

    def _here(self) -> bytes:
        """The authority that the caller used for us."""
        request = self._request
        return request.authority if request.authority is not None else request.noted[b"host"]

    def _head_of(self, status: int, reason: bytes, lines: list[bytes], keep_alive: bool) -> bytes:
        """An answer's head: its own lines, then ours."""
        noted = self._request.noted
        lines += (b"X-Request-Id: ", self._record.request_id, b"\r\n")
        if self.rejected:
            lines.append(_REJECTED)
        if b"origin" in noted and (origin := self._origin()) is not None:
            lines += cors_lines(origin)
        if BROWSER in noted:
            lines.append(_BROWSER)
        if not keep_alive:
            lines.append(b"Connection: close\r\n")
        elif not self._request.http11:
            lines.append(b"Connection: keep-alive\r\n")
        return b"".join((b"HTTP/1.1 %d " % status, reason, b"\r\n", *lines, b"\r\n"))

    def _origin(self) -> bytes | None:
        return self._guard.allowed_origin(self._request.noted)

    def _break_off(self, error: ProxyError) -> None:
        self._record.broken = error
        self._caller.abort()

    # --- answers of our own ---

    def refuse(self, error: ProxyError) -> None:
        """Answer with an OperationOutcome, or break off if an answer is on its way already."""
        if self.begun:
            self._break_off(error)
            return
        self._record.error = error
        body = outcome(error, self._record.request_id.decode("latin-1"))
        close = isinstance(error, MalformedRequest)  # who knows what else the caller means otherwise
        self.write_whole(error.status, outcome_lines(error), body, close=close)

    def write_whole(
        self, status: int, lines: list[bytes], body: bytes | None, *, close: bool = False
    ) -> None:
        """Write an answer that the proxy makes itself; `lines` are pieces of lines."""
        keep_alive = self._caller.keep_alive and not close
        self.begun = True
        self._record.status, self._record.origin = status, "proxy"
        if body is not None:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        data = self._head_of(status, REASONS[status], lines, keep_alive)
        if body is not None and self._request.method != b"HEAD":
            self._record.response_bytes = len(body)
            data += body
        self._caller.write(data)
        self._caller.end(keep_alive=keep_alive)


def _plain(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
