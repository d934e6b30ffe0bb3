"""Binds the sandbox's four origins and puts its parts together."""

import asyncio
import socket
import time
from contextlib import ExitStack
from types import TracebackType

from aiohttp import web

from .control import Control
from .emr import PATH, Clock, TokenEndpoint, Tokens
from .faults import Faults
from .fhir import Fumage
from .files import Files
from .stats import Stats
from .store import Store

HOST = "127.0.0.1"
GRACE = 0.1  # seconds for what is being answered at close; not 0, which aiohttp takes for no limit
TOKEN_LIFETIME = 36_000.0  # seconds: Canvas's ten hours
CLIENT_ID, CLIENT_SECRET = "sandbox", "sandbox-secret"


class Sandbox:
    """A fake EMR with its Fumage, on loopback ports (0: any free one). `faults`, `tokens`, `stats` and (once
    started) `store` are what the control endpoint works on, for tests that run in the same process.

    `token_lifetime` in seconds; `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        fumage_port: int = 0,
        emr_port: int = 0,
        files_port: int = 0,
        control_port: int = 0,
        token_lifetime: float = TOKEN_LIFETIME,
        client_id: str = CLIENT_ID,
        client_secret: str = CLIENT_SECRET,
        faults: Faults | None = None,
        clock: Clock = time.time,
    ):
        self.client_id = client_id
        self.client_secret = client_secret
        self.faults = faults or Faults()
        self.tokens = Tokens(token_lifetime, clock)
        self.stats = Stats()
        self._clock = clock
        self._ports = (fumage_port, emr_port, files_port, control_port)
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Serve. OSError if a port cannot be had; then nothing is left open."""
        sockets = _bind(self._ports)
        # Ports first: the data names them, since attachments have absolute URLs.
        self.fumage_url, emr_url, files_url, self.control_url = (
            f"http://{HOST}:{sock.getsockname()[1]}" for sock in sockets
        )
        self.token_url = emr_url + PATH
        self.store = Store(self.fumage_url, self._clock)
        files = Files(files_url, self.store, self._clock, self.stats)
        applications = (
            Fumage(self.fumage_url, self.store, files, self.tokens, self.faults, self.stats).application(),
            TokenEndpoint(
                self.tokens, self.client_id, self.client_secret, self.faults, self.stats
            ).application(),
            files.application(),
            Control(self.faults, self.tokens, self.store, self.stats).application(),
        )
        for application, sock in zip(applications, sockets, strict=True):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=GRACE)
            self._runners.append(runner)
            await runner.setup()
            await web.SockSite(runner, sock).start()

    async def close(self) -> None:
        """Stop serving and close all connections. May be called twice."""
        runners, self._runners = self._runners, []
        await asyncio.gather(*(runner.cleanup() for runner in runners))

    async def __aenter__(self) -> "Sandbox":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def settings(self) -> dict[str, str]:
        """The environment that points a proxy at this sandbox."""
        return {
            "FUMAGE_BASE_URL": self.fumage_url,
            "CANVAS_API_CLIENT_ID": self.client_id,
            "CANVAS_API_CLIENT_SECRET": self.client_secret,
            "FUMAGE_PROXY_TOKEN_URL": self.token_url,
        }


def _bind(ports: tuple[int, ...]) -> list[socket.socket]:
    with ExitStack() as undo:
        sockets = [undo.enter_context(socket.create_server((HOST, port), backlog=128)) for port in ports]
        undo.pop_all()
    return sockets
