"""What the commands that keep running do: an event loop, signals, and the first lines that a person reads."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from proxy import __version__
from proxy import settings as settings_module
from proxy.app import App
from proxy.listen import Bound, ListenError
from proxy.sandbox import Sandbox, from_arguments
from proxy.settings import TCP, Loaded, Settings
from proxy.watch import log as watch_log

FAILED = 1
_CONTAINERS = ("/.dockerenv", "/run/.containerenv")

log = logging.getLogger("proxy.run")


class _Stop:
    """SIGTERM and SIGINT: the first one asks, a second one insists."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._loop.add_signal_handler(number, self._signalled)
            except NotImplementedError:  # Windows: the handler runs between two turns of the loop
                signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(self._signalled))

    def _signalled(self) -> None:
        if self.asked.is_set():
            os._exit(FAILED)
        self.asked.set()


def serve(loaded: Loaded) -> int:
    """Run the proxy until a signal; the exit code."""
    settings = loaded.settings
    watch_log.configure(settings.log_level, settings.log_format)
    log.setLevel(logging.INFO)  # where it listens is told whatever log_level says: port 0 picks one
    lenient = {name: loaded.sources[name] == "default" for name in ("listen", "admin_listen")}
    try:
        asyncio.run(_serve(settings, lenient))
    except ListenError as error:
        print(f"fumage-proxy: {error}", file=sys.stderr)
        return FAILED
    return 0


async def _serve(settings: Settings, lenient: Mapping[str, bool]) -> None:
    stop = _Stop()
    requests = _request_log(settings)
    app = App(settings, watch=requests, lenient=lenient)
    await app.start()
    log.info(
        "Listening on %s; forwarding to %s. fumage-proxy %s",
        _names(app.bound),
        settings.base_url,
        __version__,
    )
    if app.admin_bound:
        log.info("Health on %s.", _names(app.admin_bound))
    if any(map(os.path.exists, _CONTAINERS)) and _loopback_only(settings):
        log.info(
            "This is a container, and only loopback is listened on: published ports cannot reach it, "
            "processes in the same container or pod can. See listen and unsafe_listen."
        )
    # What was made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    await stop.asked.wait()
    log.info("Stopping: what runs may take %g s.", settings.drain_timeout)
    await app.drain()
    await app.close()
    requests.flush()


def _request_log(settings: Settings) -> watch_log.RequestLog:
    return watch_log.RequestLog(
        json_lines=watch_log.as_json(settings.log_format, sys.stderr),
        stream=sys.stderr,
        enabled=logging.getLogger("proxy").isEnabledFor(logging.INFO),
    )


def _names(bound: list[Bound]) -> str:
    return ", ".join(one.name for one in bound)


def _loopback_only(settings: Settings) -> bool:
    return not any(isinstance(address, TCP) and settings.unsafe_listen for address in settings.listen)


def run_sandbox(args: argparse.Namespace) -> int:
    """Run the sandbox until a signal; its .env lines on stdout, what a person reads on stderr."""

    async def until_stopped() -> None:
        stop = _Stop()
        async with from_arguments(args) as sandbox:
            print("\n".join(f"{name}={value}" for name, value in sandbox.settings().items()), flush=True)
            print(f"Sandbox: control endpoint on {sandbox.control_url}. Ctrl-C ends it.", file=sys.stderr)
            await stop.asked.wait()

    return _run(until_stopped)


def demo() -> int:
    """Run the sandbox and a proxy in front of it until a signal."""
    watch_log.configure("warning", "auto")
    return _run(_demo)


def _run(main: Callable[[], Awaitable[None]]) -> int:
    async def run() -> None:
        await main()

    try:
        asyncio.run(run())
    except (OSError, ValueError, ListenError) as error:
        print(f"fumage-proxy: {error}", file=sys.stderr)
        return FAILED
    return 0


async def _demo() -> None:
    stop = _Stop()
    async with Sandbox() as sandbox:
        app = await _start_demo(sandbox)
        here = app.bound[0].name
        print(
            f"sandbox  the fake EMR and its FHIR API, on {sandbox.fumage_url} (control: {sandbox.control_url})"
        )
        print(f"proxy    on {here}: attaches the token and forwards to the sandbox")
        print(f"health   on {app.admin_bound[0].name}/readyz")
        print(f"\nTry:     curl '{here}/Patient?name=Briddle'\n\nCtrl-C ends both.", flush=True)
        await stop.asked.wait()
        await app.drain()
        await app.close()


async def _start_demo(sandbox: Sandbox) -> App:
    try:
        return await _demo_app(sandbox, {})
    except ListenError:  # the usual ports are taken
        ports = {"FUMAGE_PROXY_LISTEN": "127.0.0.1:0", "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0"}
        return await _demo_app(sandbox, ports)


async def _demo_app(sandbox: Sandbox, more: dict[str, str]) -> App:
    # An empty .env file in place of ./.env, and no environment: a demo is the same everywhere.
    args = argparse.Namespace(env_file=os.devnull)
    loaded = settings_module.load(args, {**sandbox.settings(), **more}, cwd=Path.cwd())
    app = App(loaded.settings, watch=lambda record: None, lenient={"listen": True, "admin_listen": True})
    await app.start()
    return app
