"""A caller's request, as the stations pass it on."""

import asyncio
from binascii import hexlify
from collections.abc import Callable
from random import getrandbits
from typing import Final

from proxy.rules.errors import ProxyError
from proxy.rules.headers import Fields

HIGH_WATER: Final = 256 * 1024  # bytes of a body held for a Fumage that reads slowly; then reading stops

_IDS: Final = 64  # that are made together
_ID: Final = 32  # hex digits
_ids: Final[list[bytes]] = []


def new_request_id() -> bytes:
    """128 random bits, in hex."""
    if not _ids:
        digits = hexlify(getrandbits(4 * _ID * _IDS).to_bytes(_ID * _IDS // 2))
        _ids.extend([digits[start : start + _ID] for start in range(0, len(digits), _ID)])
    return _ids.pop()


class RequestBody:
    """A body as it arrives. `length` in bytes; None: chunked."""

    __slots__ = (
        "_chunks",
        "_error",
        "_on_wait",
        "_waiter",
        "buffered",
        "complete",
        "length",
        "received",
        "trailers",
    )

    def __init__(self, length: int | None, on_wait: Callable[[], None]):
        self.length = length
        self.trailers: Fields = []
        self.complete = False  # all of it is here
        self.received = 0
        self.buffered = 0
        self._chunks: list[bytes] = []
        self._error: ProxyError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_wait = on_wait

    @property
    def exhausted(self) -> bool:
        """All of it is here and has been read."""
        return self.complete and not self._chunks

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self.buffered += len(data)
        self.received += len(data)

    def wake(self) -> None:
        """Let the reader see what was fed, or that the body is complete."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: ProxyError) -> None:
        """The rest will not come: the reader gets `error`."""
        self._error = error
        self.wake()

    def take(self) -> bytes:
        """What is here, maybe nothing; does not wait."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        self.buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def read(self) -> bytes:
        """The next bytes, empty at the end; for tasks. Raises ProxyError if the body is broken or stalls."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            self._on_wait()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.take()


class Memo:
    """What was made of a request's fields, kept for those that follow with the very same ones.

    `head` is what comes after the target in a request to Fumage, for who admitted these fields: `by`.
    """

    __slots__ = ("by", "head")

    def __init__(self) -> None:
        self.by: object = None
        self.head = b""


class Request:
    """A request whose head has been read; `fields` and `noted` as `rules.headers.note_request` makes them."""

    __slots__ = ("authority", "body", "fields", "http11", "memo", "method", "noted", "target")

    def __init__(
        self,
        method: bytes,
        authority: bytes | None,
        target: bytes,
        http11: bool,
        fields: Fields,
        noted: dict[bytes, bytes],
        body: RequestBody | None,
        memo: Memo | None = None,
    ):
        self.method = method
        self.authority = authority  # of an absolute-form target
        self.target = target  # path and query as they came, or `*`
        self.http11 = http11
        self.fields = fields
        self.noted = noted
        self.body = body
        self.memo = memo
