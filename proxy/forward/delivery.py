"""Stations 7 and 8: an answer on its way to the caller, Fumage's or one of our own."""

from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from proxy.forward.inbound import CallerConnection
from proxy.forward.outbound import Answer, Connection
from proxy.forward.request import Request
from proxy.forward.rewriting import Rewriting, rewriting
from proxy.forward.strand import Strand
from proxy.rules.bundle import BodyLinks
from proxy.rules.errors import MalformedRequest, ProxyError
from proxy.rules.guard import Guard, cors_fields
from proxy.rules.headers import (
    BROWSER,
    LENGTH,
    NOSNIFF,
    Fields,
    response_head,
    trailer_lines,
    without,
    without_cors,
)
from proxy.rules.links import Links
from proxy.rules.outcome import REASONS, outcome, outcome_fields
from proxy.watch.record import Record

_REJECTED: Final = (b"Proxy-Status", b'fumage-proxy; received-status=401; details="token-rejected"')
_BROWSER: Final = ((b"Content-Security-Policy", b"sandbox"), (b"X-Content-Type-Options", b"nosniff"))
_AS_IT_CAME: Final = ("none", "length")  # framings that take nothing from us
_LOCATIONS: Final = frozenset((b"location", b"content-location"))

_ENOUGH: Final = 64 * 1024  # bytes that are written at a time, where a body comes in pieces of our own making


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
        self._caller.write(response_head(answer.status, answer.reason, without(answer.fields, LENGTH)))

    def deliver_whole(self, answer: Answer, connection: Connection) -> bool:
        """Pass the answer on if all of it is here and its body goes as it came; whether that was so."""
        if not connection.complete or answer.framing not in _AS_IT_CAME or self._body_links is not None:
            return False
        caller, body = self._caller, connection.take()
        keep_alive = caller.keep_alive
        self._record.response_bytes = len(body)
        head = self._head(answer, answer.fields, answer.framing, keep_alive)
        self.begun = True
        caller.write(head + body)
        caller.end(keep_alive=keep_alive)
        return True

    async def deliver(self, answer: Answer, connection: Connection, strand: Strand) -> None:
        """Copy the answer; what breaks off upstream is broken off here as well."""
        if self._body_links is not None and (change := rewriting(self._body_links, answer, self._here())):
            await self._deliver_rewritten(answer, connection, change, strand)
            return
        caller, record = self._caller, self._record
        framing = self._framing(answer.framing)
        keep_alive = caller.keep_alive and framing != "close"
        frame = _chunk if framing == "chunked" else _plain
        first = connection.take()
        head = self._head(answer, answer.fields, framing, keep_alive)
        record.response_bytes = len(first)
        data = head + frame(first)
        self.begun = True
        try:
            while not connection.complete:
                caller.write(data)
                if caller.congested:
                    await strand.as_task()
                    await caller.writable()
                data = await connection.read(strand.news)
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

    async def _deliver_rewritten(
        self, answer: Answer, connection: Connection, change: Rewriting, strand: Strand
    ) -> None:
        # The same, but a piece that comes in is none, one or many that go out.
        caller = self._caller
        framing = answer.framing if answer.framing == "none" else self._framing("chunked")
        keep_alive = caller.keep_alive and framing != "close"
        frame = self._counting(_chunk if framing == "chunked" else _plain)
        data = self._head(answer, change.fields(answer.fields), framing, keep_alive, resized=True)
        try:
            received = connection.take()
            while received or not connection.complete:
                for piece in change.feed(received):
                    data += frame(piece)
                    if len(data) >= _ENOUGH:
                        data = await self._written(data, strand)
                if not connection.complete:
                    data = await self._written(data, strand)
                received = await connection.read(strand.news)
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

    async def _written(self, data: bytes, strand: Strand) -> bytes:
        """Write the data and wait until the caller takes more; returns what is left: nothing."""
        if data:
            self._caller.write(data)
            self.begun = True
        if self._caller.congested:
            await strand.as_task()
            await self._caller.writable()
        return b""

    def _counting(self, frame: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def counted(piece: bytes) -> bytes:
            self._record.response_bytes += len(piece)
            return frame(piece)

        return counted

    def _framing(self, framing: str) -> str:
        if framing in _AS_IT_CAME:
            return framing
        return "chunked" if self._request.http11 else "close"

    def _head(
        self, answer: Answer, fields: Fields, framing: str, keep_alive: bool, *, resized: bool = False
    ) -> bytes:
        """`resized`: the Content-Length is not that of the body that the caller gets, or would get."""
        record, noted = self._record, answer.noted
        record.status, record.origin = answer.status, "fumage"
        record.correlation_id = noted.get(b"fumage-correlation-id")
        if self._links is not None and (b"location" in noted or b"content-location" in noted):
            fields = self._localised(fields, self._links)
        if b"origin" in self._request.noted:  # allowed, or the guard had refused it
            fields = without_cors(fields)
        if BROWSER in self._request.noted:
            fields = without(fields, NOSNIFF)  # the first of several values is the one that counts
        if resized or answer.status == 204:
            fields = without(fields, LENGTH)
        if framing == "chunked":
            fields.append((b"Transfer-Encoding", b"chunked"))
        return self._head_of(answer.status, answer.reason, fields, keep_alive)

    def _localised(self, fields: Fields, links: Links) -> Fields:
        here = self._here()
        return [
            (name, links.location(value, here)) if name.lower() in _LOCATIONS else (name, value)
            for name, value in fields
        ]

    def _here(self) -> bytes:
        """The authority that the caller used for us."""
        request = self._request
        return request.authority if request.authority is not None else request.noted[b"host"]

    def _head_of(self, status: int, reason: bytes, fields: Fields, keep_alive: bool) -> bytes:
        """An answer's head: its own fields, then ours."""
        noted = self._request.noted
        fields.append((b"X-Request-Id", self._record.request_id))
        if self.rejected:
            fields.append(_REJECTED)
        if b"origin" in noted and (origin := self._guard.allowed_origin(noted)) is not None:
            fields += cors_fields(origin)
        if BROWSER in noted:
            fields += _BROWSER
        if not keep_alive:
            fields.append((b"Connection", b"close"))
        elif not self._request.http11:
            fields.append((b"Connection", b"keep-alive"))
        return response_head(status, reason, fields)

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
        self.write_whole(error.status, outcome_fields(error), body, close=close)

    def write_whole(self, status: int, fields: Fields, body: bytes | None, *, close: bool = False) -> None:
        """Write an answer that the proxy makes itself."""
        keep_alive = self._caller.keep_alive and not close
        self.begun = True
        self._record.status, self._record.origin = status, "proxy"
        fields.append((b"Date", formatdate(usegmt=True).encode()))  # RFC 9110 section 6.6.1
        if body is not None:
            fields.append((b"Content-Length", b"%d" % len(body)))
        data = self._head_of(status, REASONS[status], fields, keep_alive)
        if body is not None and self._request.method != b"HEAD":
            self._record.response_bytes = len(body)
            data += body
        self._caller.write(data)
        self._caller.end(keep_alive=keep_alive)


def _plain(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
