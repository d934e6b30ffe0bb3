"""The admin listener: health answers, which any Host may ask for."""

from collections.abc import Callable, Sequence

from aiohttp import web

from proxy.listen import Bound


class Health:
    """What the probes ask. `started`: the first token was obtained."""

    def __init__(self, started: Callable[[], bool], why_not: Callable[[], str]):
        self._started = started
        self._why_not = why_not
        self.draining = False

    def startup(self) -> str | None:
        """None when started, or the reason why not."""
        return None if self._started() else self._why_not()

    def readiness(self) -> str | None:
        """None when ready, or the reason why not. An EMR outage after the start does not count."""
        return "draining: this proxy was told to stop" if self.draining else self.startup()


def _answer(reason: str | None) -> web.Response:
    return web.Response(text="ok\n") if reason is None else web.Response(status=503, text=reason + "\n")


class AdminServer:
    """Serves the health answers on the sockets given to `start`."""

    def __init__(self, health: Health):
        self._health = health
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/startupz", self._startupz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self, bound: Sequence[Bound]) -> None:
        await self._runner.setup()
        for one in bound:
            await web.SockSite(self._runner, one.sock).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        return _answer(None)

    async def _startupz(self, request: web.Request) -> web.Response:
        return _answer(self._health.startup())

    async def _readyz(self, request: web.Request) -> web.Response:
        return _answer(self._health.readiness())
