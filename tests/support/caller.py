"""A local application that speaks plain bytes and reads the answers strictly."""

import asyncio
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self, TypedDict, Unpack

from tests.support import (
    Ended,
    Ending,
    Fields,
    Malformed,
    Message,
    Pipe,
    chunk,
    head,
    last_chunk,
    octets,
    read_fields,
)

Body = bytes | Sequence[bytes] | None
STATUS = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9]{2}) ([^\r\n]*)")
PARAMETER = r';\s*([a-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;,\s]+))'
PROXY_STATUS = re.compile(rf"fumage-proxy((?:\s*{PARAMETER})*)")


class Shape(TypedDict, total=False):
    chunked: bool
    host: str | None  # None sends no Host
    trailers: Fields


@dataclass(kw_only=True)
class Answer(Message):
    status: int
    reason: str
    framing: Literal["length", "chunked", "close", "none"] = "none"
    ending: Ending | None = None  # of the connection, as far as it was seen when the answer was complete
    interim: list["Answer"] = field(default_factory=list)  # the 1xx before

    @property
    def proxy_status(self) -> dict[str, str]:
        """The parameters of our own member of Proxy-Status (RFC 9209); empty if there is none."""
        if not (ours := PROXY_STATUS.search(", ".join(self.all("Proxy-Status")))):
            return {}
        return {name: quoted or token for name, quoted, token in re.findall(PARAMETER, ours[1])}


class Broken(Exception):
    """The connection ended (`ending`) before the answer did; `read` is what had come of it, undecoded."""

    def __init__(self, pipe: Pipe, answer: Answer | None = None):
        assert pipe.ending
        self.ending: Ending = pipe.ending
        self.answer = answer  # head and the body so far, if the head came
        self.read = (answer.raw_head + answer.raw_body if answer else bytes(pipe.tap)) + bytes(pipe.buffer)
        super().__init__(f"{self.ending} after {self.read[:300]!r}")


class Closed(Broken):
    """A clean FIN, and not a byte of an answer."""


class Reset(Broken):
    """RST, and not a byte of an answer."""


class Cut(Broken):
    """FIN or RST in the middle of an answer."""


class Caller(Pipe):
    @classmethod
    async def connect(
        cls,
        port: int | None = None,
        host: str = "127.0.0.1",
        *,
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """To a port, or to the unix socket at `path`. `async with await Caller.connect(port) as caller:`"""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(cls.patience):
            if path is not None:
                return (await loop.create_unix_connection(cls, path))[1]
            name = "localhost" if tls else None
            return (await loop.create_connection(cls, host, port or 0, ssl=tls, server_hostname=name))[1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cut()
        await self.pulse.until(lambda: self.lost, self.patience, lambda: "the connection does not close")

    async def send(self, data: bytes) -> None:
        self.write(data)
        await self.drain()

    async def request(
        self,
        method: str = "GET",
        target: str | bytes = "/Patient/1",
        headers: Fields = (),
        body: Body = None,
        **shape: Unpack[Shape],
    ) -> Answer:
        """`build` a request, send it and read its answer."""
        self.write(build(method, target, headers, body, **shape))
        return await self.answer(head=method == "HEAD")

    async def answer(self, head: bool = False) -> Answer:
        """The next answer (`head`: to a HEAD); a Broken if it does not come whole."""
        interim: list[Answer] = []
        while 100 <= (answer := await self._head()).status < 200 and answer.status != 101:
            interim.append(answer)
        answer.interim = interim
        try:
            await self._body(answer, head)
        except Ended:
            raise Cut(self, answer) from None
        answer.ending = self.ending
        return answer

    async def _head(self) -> Answer:
        self.tap = bytearray()
        try:
            line = await self.line()
            if not (match := STATUS.fullmatch(line)):
                raise Malformed(f"status line: {line!r}")
            fields = await read_fields(self)
        except Ended:
            if self.tap or self.buffer:
                raise Cut(self) from None
            raise (Closed if self.ending == "eof" else Reset)(self) from None
        return Answer(
            version=match[1].decode(),
            status=int(match[2]),
            reason=match[3].decode("latin-1"),
            headers=fields,
            raw_head=bytes(self.tap),
        )

    async def _body(self, answer: Answer, head: bool) -> None:
        framing = answer.declared()
        if head or answer.status in (101, 204, 304):
            return
        if framing is not None:
            answer.framing = "chunked" if framing == "chunked" else "length"
            await answer.read_body(self, framing)
            return
        answer.framing = "close"
        self.tap = answer.raw_content
        try:
            while True:
                answer.content += await self.some()
        except Ended:
            if self.ending == "reset":
                raise

    async def eof(self) -> Ending:
        """Wait for the end of the connection, before which nothing more may come."""
        try:
            data = await self.some()
        except Ended:
            assert self.ending
            return self.ending
        raise Malformed(f"bytes after the answer: {data[:200]!r}")

    def half_close(self) -> None:
        if not self.lost:
            self.transport.write_eof()


def build(
    method: str = "GET",
    target: str | bytes = "/Patient/1",
    headers: Fields = (),
    body: Body = None,
    *,
    chunked: bool = False,
    host: str | None = "localhost",
    trailers: Fields = (),
) -> bytes:
    """The bytes of a request. With `chunked` the body may be a list: an item, a chunk."""
    pieces = [body] if isinstance(body, bytes) else list(body or ())
    fields: list[tuple[str | bytes, str | bytes]] = [] if host is None else [("Host", host)]
    fields += headers
    if chunked:
        fields.append(("Transfer-Encoding", "chunked"))
        content = b"".join(map(chunk, filter(None, pieces))) + last_chunk(trailers)
    else:
        content = b"".join(pieces)
        if body is not None:
            fields.append(("Content-Length", str(len(content))))
    return head(octets(method) + b" " + octets(target) + b" HTTP/1.1", fields) + content


async def fetch(
    port: int | None,
    method: str = "GET",
    target: str | bytes = "/Patient/1",
    headers: Fields = (),
    body: Body = None,
    *,
    path: str | None = None,
    **shape: Unpack[Shape],
) -> Answer:
    """One request on a connection of its own."""
    async with await Caller.connect(port, path=path) as caller:
        return await caller.request(method, target, headers, body, **shape)
