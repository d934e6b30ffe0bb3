"""All callers' connections, and what they share."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from proxy.forward.deadlines import Deadlines
from proxy.forward.inbound import CallerConnection
from proxy.forward.reader import Limits
from proxy.forward.request import Request
from proxy.forward.strand import Strand
from proxy.rules.errors import ProxyError

_LINGER = 2.0  # seconds of silence after which a connection that only lingers is closed
_UNHEARD = 2.0  # seconds between two looks whether a caller that is not read is still there


class Exchanges(Protocol):
    """What serves the requests that a connection reads."""

    def serve(self, request: Request, caller: CallerConnection, strand: Strand) -> Coroutine[Any, Any, None]:
        """Answer one request through `caller.write`, and say `caller.served`; the `strand` runs it."""

    def refuse(self, error: ProxyError, caller: CallerConnection, request: Request | None) -> None:
        """Answer what could not even be read as a request."""


class Callers:
    """All callers' connections and what they share: limits, timeouts (seconds), and who serves them."""

    def __init__(
        self, exchanges: Exchanges, limits: Limits, *, head: float, keepalive: float, idle: float, most: int
    ):
        self.exchanges = exchanges
        self.limits = limits
        self.most = most
        self.head: Deadlines[CallerConnection] = Deadlines(head, CallerConnection.head_timed_out)
        self.idle: Deadlines[CallerConnection] = Deadlines(keepalive, CallerConnection.idle_timed_out)
        self.upload: Deadlines[CallerConnection] = Deadlines(idle, CallerConnection.body_stalled)
        self.unread: Deadlines[CallerConnection] = Deadlines(idle, CallerConnection.answer_stalled)
        self.linger: Deadlines[CallerConnection] = Deadlines(_LINGER, CallerConnection.lingered)
        self.unheard: Deadlines[CallerConnection] = Deadlines(_UNHEARD, CallerConnection.unheard)
        self.open: set[CallerConnection] = set()  # until the last byte of their answers is out
        self.draining = False
        self._none_left: asyncio.Future[None] | None = None

    def connection(self, *, tcp: bool) -> CallerConnection:
        """The protocol of a new connection; `tcp`: the Host guard applies."""
        return CallerConnection(self, tcp=tcp)

    @property
    def full(self) -> bool:
        """Whether max_clients are open; those that only linger lock nobody out."""
        return len(self.open) - len(self.linger) >= self.most

    @property
    def in_flight(self) -> int:
        """Requests that are being answered; counted when somebody asks, so that they themselves need not."""
        return sum(connection.busy for connection in self.open)

    def drain(self, pause: float) -> None:
        """Close what is not used: at once where no request came, else `pause` seconds after an answer."""
        self.idle.change(pause)
        for connection in (*self.head, *(() if pause else self.idle)):
            connection.close_if_unused()

    async def gone(self) -> None:
        """Return when no connection is left."""
        if self.open:
            self._none_left = asyncio.get_running_loop().create_future()
            await self._none_left

    def lost(self, connection: CallerConnection) -> None:
        self.open.discard(connection)
        if not self.open and self._none_left is not None and not self._none_left.done():
            self._none_left.set_result(None)

    def abort(self) -> None:
        """Break all of them off."""
        for connection in list(self.open):
            connection.abort()
        for deadlines in (self.head, self.idle, self.upload, self.unread, self.linger, self.unheard):
            deadlines.close()
