"""The product in the test's own process: the whole application on free ports, before two fakes."""

import argparse
import os
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.app import App
from proxy.clock import Clock
from proxy.settings import load
from proxy.watch.record import Record
from tests.support.emr import EMR
from tests.support.upstream import Upstream


class Product:
    """An `App` with its Fumage and EMR. Keyword arguments are settings by their keys, as text.

    `fumage`, `emr`: given ones are used and stay open; `records`: what each request left behind.
    """

    def __init__(
        self,
        fumage: Upstream | None = None,
        emr: EMR | None = None,
        *,
        clock: Clock | None = None,
        environ: dict[str, str] | None = None,
        **settings: str,
    ):
        self.fumage = fumage or Upstream()
        self.emr = emr or EMR()
        self._own = [double for double, given in ((self.fumage, fumage), (self.emr, emr)) if given is None]
        self._clock = clock
        self._environ = environ or {}
        self._settings = settings
        self._stack = AsyncExitStack()
        self._records: list[Record] = []

    async def __aenter__(self) -> Self:
        for double in self._own:
            await self._stack.enter_async_context(double)
        environ = {
            "FUMAGE_BASE_URL": self.fumage.url,
            "FUMAGE_PROXY_TOKEN_URL": self.emr.token_url,
            "CANVAS_API_CLIENT_ID": "test-client",
            "CANVAS_API_CLIENT_SECRET": "test-secret",
            "FUMAGE_PROXY_LISTEN": "127.0.0.1:0",
            "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0",
            **self._environ,
        }
        names = {"base_url": "FUMAGE_BASE_URL"}
        for key, value in self._settings.items():
            environ[names.get(key, f"FUMAGE_PROXY_{key.upper()}")] = value
        loaded = load(argparse.Namespace(env_file=os.devnull), environ, cwd=Path.cwd())
        self.app = App(loaded.settings, watch=self._records.extend, clock=self._clock)
        await self.app.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.app.close()
        await self._stack.aclose()

    @property
    def records(self) -> list[Record]:
        self.app.flush()
        return self._records

    @property
    def port(self) -> int:
        port: int = self.app.bound[0].sock.getsockname()[1]
        return port

    @property
    def admin_port(self) -> int:
        port: int = self.app.admin_bound[0].sock.getsockname()[1]
        return port


def trusting(ca_pem: bytes, folder: Path) -> dict[str, str]:
    """Settings that trust this CA alone."""
    path = folder / "ca.pem"
    path.write_bytes(ca_pem)
    return {"ca_file": str(path)}


def server_context(certificate: object) -> ssl.SSLContext:
    """A server's TLS context for a certificate that trustme issued."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)  # type: ignore[attr-defined]
    return context
