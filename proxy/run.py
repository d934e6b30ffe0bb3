"""What the commands that keep running do: an event loop, signals, and the first lines that a person reads."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy import settings as settings_module
from proxy.app import App
from proxy.listen import Bound, ListenError
from proxy.loop import loop_factory
from proxy.notify import Supervisor
from proxy.settings import Loaded, Settings
from proxy.watch import log as watch_log

if TYPE_CHECKING:
    from proxy.sandbox import Sandbox

FAILED, BAD_COMMAND_LINE = 1, 2
_CONTAINERS = ("/.dockerenv", "/run/.containerenv")  # Docker's and Podman's marks; Kubernetes sets a variable

log = logging.getLogger("proxy.run")


class _Stop:
    """SIGTERM and SIGINT: the first one asks, a second one insists."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._signals = 0  # not those who asked on the admin listener: a Job's pod ends with a signal then
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._loop.add_signal_handler(number, self._signalled)
            except NotImplementedError:  # Windows: the handler runs between two turns of the loop
                signal.signal(number, lambda *_: self._loop.call_soon_threadsafe(self._signalled))

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(FAILED)
        self.asked.set()


def serve(loaded: Loaded) -> int:
    """Run the proxy until a signal; the exit code. Raises SettingsError."""
    settings = loaded.settings
    _allow_descriptors()
    watch_log.configure(settings.log_level, settings.log_format)
    lenient = {name: loaded.sources[name] == "default" for name in ("listen", "admin_listen")}
    return _run(lambda: _serve(settings, lenient), ListenError)


def _allow_descriptors() -> None:
    # The usual soft limit, 1,024, is less than max_clients and max_connections need. It is low for the sake
    # of programs that use select() (https://0pointer.net/blog/file-descriptor-limits.html).
    with suppress(ImportError, ValueError, OSError):  # Windows; a hard limit that the kernel does not like
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: Settings, lenient: Mapping[str, bool]) -> None:
    stop = _Stop()
    requests = _request_log(settings)
    app = App(settings, watch=requests, lenient=lenient, stop=stop.asked)
    await app.start()
    _tell(app, settings)
    # What was made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    supervisor = Supervisor(os.environ)
    supervisor.ready()
    alive = asyncio.create_task(supervisor.keep_alive())
    await stop.asked.wait()
    supervisor.stopping()
    log.info("Stopping: what runs may take %g s.", settings.drain_delay + settings.drain_timeout)
    await app.drain()
    await app.close()
    alive.cancel()
    with suppress(OSError):  # nobody may be reading the log any more
        requests.flush()


def _tell(app: App, settings: Settings) -> None:
    log.setLevel(logging.INFO)  # where it listens is told whatever log_level says: port 0 picks one
    log.info("Listening on %s; forwarding to %s", _names(app.bound), settings.base_url)
    if app.admin_bound:
        log.info("Health on %s", _names(app.admin_bound))
    log.setLevel(logging.NOTSET)
    if _in_container() and any(one.path is None for one in app.bound) and _loopback_only(app.bound):
        log.info(
            "This is a container, and only loopback is listened on: published ports cannot reach it, "
            "processes in the same container or pod can. See listen and unsafe_listen."
        )
    log.info("This is fumage-proxy %s.", __version__)


def _in_container() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, _CONTAINERS))


def _loopback_only(bound: Sequence[Bound]) -> bool:
    return all(one.loopback for one in bound if one.path is None)


def _request_log(settings: Settings) -> watch_log.RequestLog:
    return watch_log.RequestLog(
        json_lines=watch_log.as_json(settings.log_format, sys.stderr),
        stream=sys.stderr,
        enabled=logging.getLogger("proxy").isEnabledFor(logging.INFO),
    )


def _names(bound: Sequence[Bound]) -> str:
    return ", ".join(one.name for one in bound)


def run_sandbox(args: argparse.Namespace) -> int:
    """Run the sandbox until a signal; its .env lines on stdout, what a person reads on stderr."""
    from proxy.sandbox import from_arguments  # here and below: `serve` need not import it

    try:
        sandbox = from_arguments(args)
    except ValueError as error:
        print(f"fumage-proxy sandbox: {error}", file=sys.stderr)
        return BAD_COMMAND_LINE

    async def until_stopped() -> None:
        stop = _Stop()
        async with sandbox:
            print("\n".join(f"{name}={value}" for name, value in sandbox.settings().items()), flush=True)
            print(f"Sandbox: Ctrl-C ends it; control endpoint on {sandbox.control_url}", file=sys.stderr)
            await stop.asked.wait()

    return _run(until_stopped, OSError)


def demo() -> int:
    """Run the sandbox and a proxy in front of it until a signal."""
    watch_log.configure("warning", "auto")
    return _run(_demo, ListenError)


def _run(main: Callable[[], Coroutine[Any, Any, None]], failure: type[Exception]) -> int:
    """Run until the end; the exit code. `failure` is what may well happen and needs no traceback."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except BrokenPipeError:
        raise  # an OSError, but of our own output
    except failure as error:
        print(f"fumage-proxy: {error}", file=sys.stderr)
        return FAILED
    return 0


async def _demo() -> None:
    from proxy.sandbox import Sandbox

    stop = _Stop()
    async with Sandbox() as sandbox:
        app = await _start_demo(sandbox)
        here = app.bound[0].name
        print(f"sandbox  the fake EMR and its FHIR API, on {sandbox.fumage_url}; to make it misbehave:")
        print(f"         curl {sandbox.control_url}")
        print(f"proxy    on {here}: attaches the token and forwards to the sandbox")
        print(f"status   page on {app.admin_bound[0].name}, metrics on /metrics, health on /readyz")
        print(f"\nTry:     curl '{here}/Patient?name=Briddle'\n\nCtrl-C ends both.", flush=True)
        await stop.asked.wait()
        await app.drain()
        await app.close()


async def _start_demo(sandbox: "Sandbox") -> App:
    try:
        return await _demo_app(sandbox, {})
    except ListenError:
        print("The usual ports are taken, so these are others.\n")
        ports = {"FUMAGE_PROXY_LISTEN": "127.0.0.1:0", "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0"}
        return await _demo_app(sandbox, ports)


async def _demo_app(sandbox: "Sandbox", more: dict[str, str]) -> App:
    # An empty .env file in place of ./.env, and no environment: a demo is the same everywhere.
    args = argparse.Namespace(env_file=os.devnull)
    loaded = settings_module.load(args, {**sandbox.settings(), **more}, cwd=Path.cwd())
    app = App(loaded.settings, watch=lambda record: None, lenient={"listen": True, "admin_listen": True})
    await app.start()
    return app
