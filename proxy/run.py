"""What the commands that keep running do: an event loop, signals, and the first lines that a person reads."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy import __version__
from proxy import settings as settings_module
from proxy.app import App
from proxy.clock import SystemClock
from proxy.listen import Bound, ListenError
from proxy.loop import loop_factory
from proxy.notify import Supervisor
from proxy.rules.errors import TokenError
from proxy.settings import Change, Loaded, Settings, SettingsError, is_pipe, shown
from proxy.tasks import watched
from proxy.watch import log as watch_log

if TYPE_CHECKING:
    from proxy.sandbox import Sandbox

FAILED, BAD_COMMAND_LINE = 1, 2
_CONTAINERS = ("/.dockerenv", "/run/.containerenv")  # Docker's and Podman's marks; Kubernetes sets a variable
_OPEN_MAX = 10_240  # macOS grants no more open files, however high the hard limit is
_OWN_FILES = 32  # event loop, log, look-ups of names, token endpoint and store, health probes

_LARGE = 1 << 19  # bytes; more than what a read brings, in all its forms
_LOGGING = frozenset(("log_level", "log_format"))

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


def serve(loaded: Loaded, load: Callable[[], Loaded]) -> int:
    """Run the proxy until a signal; the exit code. `load` reads the settings again. Raises SettingsError."""
    watch_log.configure(loaded.settings.log_level, loaded.settings.log_format)
    files = _allow_descriptors()

    def fitting(loaded: Loaded) -> Loaded:
        return replace(loaded, settings=_within(loaded.settings, files))

    first = fitting(loaded)
    return _run(lambda: _serve(first, lambda: fitting(load())), ListenError)


def _allow_descriptors() -> int | None:
    """Let this process open as many files as it may; returns how many, None where nobody counts them."""
    # The usual soft limit, 1,024, is less than max_clients and max_connections need. It is low for the sake
    # of programs that use select() (https://0pointer.net/blog/file-descriptor-limits.html).
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, max(soft, _OPEN_MAX)):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _within(settings: Settings, files: int | None) -> Settings:
    """The settings, with no more connections than so many open files allow.

    Who comes when none is left is cut off by the event loop, in the middle of a request: better to count.
    """
    if files is None:
        return settings
    spare = files - _OWN_FILES - 2 * len(settings.listen + settings.admin_listen)
    if spare >= settings.max_connections + 2 * settings.max_clients:
        return settings
    connections = max(1, min(settings.max_connections, spare // 4))
    # Twice: as many again may be on their way out, with a 503 that they have yet to read.
    clients = max(1, min(settings.max_clients, (spare - connections) // 2))
    log.warning(
        "This process may open %d files: max_clients is %d and max_connections is %d. "
        "Raise that limit (ulimit -n, or LimitNOFILE of systemd).",
        files,
        clients,
        connections,
    )
    return replace(settings, max_clients=clients, max_connections=connections)


def _settle_memory() -> None:
    # What was made so far lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # glibc gives the end of the heap back after each large piece of a body, and takes it again for the next
    # with 600 page faults a MiB, until it has seen a larger block freed (mallopt(3), M_MMAP_THRESHOLD).
    bytes(_LARGE)


async def _serve(loaded: Loaded, load: Callable[[], Loaded]) -> int:
    settings, stop, hangup = loaded.settings, _Stop(), asyncio.Event()
    _on_hangup(hangup.set, or_end=stop.asked.set)
    lenient = {name: loaded.sources[name] == "default" for name in ("listen", "admin_listen")}
    app = App(settings, watch=_request_log(settings), lenient=lenient, stop=stop.asked)
    await app.start()
    _tell(app, loaded)
    _settle_memory()
    supervisor = Supervisor(os.environ)
    supervisor.ready()
    alive = watched(supervisor.keep_alive(), app.died)
    reload = _Reload(app, loaded, load)
    reloading = watched(reload.run(hangup, supervisor), app.died)
    await stop.asked.wait()
    supervisor.stopping()
    reloading.cancel()
    await asyncio.wait([reloading])
    log.info("Stopping: what runs may take %g s.", app.drain_time)
    await app.drain()
    await app.close()
    alive.cancel()
    return FAILED if app.failed else 0


def _on_hangup(reload: Callable[[], None], *, or_end: Callable[[], None]) -> None:
    """Have SIGHUP mean `reload`, or `or_end` where the terminal that this was started on was closed."""
    if sys.platform == "win32":
        return
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # as nohup has it
    on_terminal = _has_terminal() and not outlives

    def hung_up() -> None:
        if on_terminal and not _has_terminal():
            or_end()
        else:
            reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP,))  # see proxy.cli


def _has_terminal() -> bool:
    # The controlling one, whatever the standard streams are; once it is closed, nobody can open it any more.
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


class _Reload:
    """Reads the settings again when asked to, and has the app take up what can change, or nothing at all.

    `loaded` is what it was started with.
    """

    def __init__(self, app: App, loaded: Loaded, load: Callable[[], Loaded]):
        self._app = app
        self._files = loaded.files
        self._load = load

    async def run(self, asked: asyncio.Event, supervisor: Supervisor) -> None:
        """Until cancelled; who asks meanwhile is served afterwards."""
        while True:
            await asked.wait()
            asked.clear()
            supervisor.reloading()
            self._app.flush()  # so that the log's lines are in order
            try:
                wanted = self._read()
                change = await self._app.change(wanted.settings)
            except SettingsError as error:
                for problem in error.problems:
                    log.error("Settings: %s", problem)
                log.error("The settings were read again, and are wrong: nothing was changed.")
            except TokenError as error:
                log.error("The new credentials got no token: nothing was changed. %s %s", error, error.advice)
            else:
                self._files = wanted.files
                self._tell(wanted, change)
            supervisor.ready()

    def _read(self) -> Loaded:
        # What a shell's <(…) leaves can be read once. A second time it would hold up everything.
        once = [path for path in self._files if is_pipe(path)]
        if once:
            raise SettingsError([f"{shown(path)} is a pipe, which cannot be read again" for path in once])
        return self._load()

    def _tell(self, wanted: Loaded, change: Change) -> None:
        changed = settings_module.told(wanted, change.live)
        self._app.flush()
        if not _LOGGING.isdisjoint(change.live):
            watch_log.configure(change.settings.log_level, change.settings.log_format)
            self._app.watch = _request_log(change.settings)
        with _whatever_log_level():
            log.info("The settings were read again; changed: %s", changed or "nothing")
            if change.restart:
                log.warning("Changed as well, but needs a restart: %s", ", ".join(change.restart))


@contextmanager
def _whatever_log_level() -> Iterator[None]:
    """What is logged meanwhile is told at every log_level: somebody asked for it."""
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(logging.NOTSET)


def _tell(app: App, loaded: Loaded) -> None:
    with _whatever_log_level():  # port 0 picks one
        log.info("Listening on %s; forwarding to %s", _names(app.bound), loaded.settings.base_url)
        if app.admin_bound:
            log.info("Health on %s", _names(app.admin_bound))
    if _in_container() and any(one.path is None for one in app.bound) and _loopback_only(app.bound):
        log.info(
            "This is a container, and only loopback is listened on: published ports cannot reach it, "
            "processes in the same container or pod can. See listen and unsafe_listen."
        )
    log.info("Settings: %s", settings_module.given(loaded))
    log.info("Defaults: %s", settings_module.defaults(loaded))
    log.info("This is fumage-proxy %s.", __version__)


def _in_container() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(map(os.path.exists, _CONTAINERS))


def _loopback_only(bound: Sequence[Bound]) -> bool:
    return all(one.loopback for one in bound if one.path is None)


def _request_log(settings: Settings) -> watch_log.RequestLog:
    return watch_log.RequestLog(
        json_lines=watch_log.as_json(settings.log_format, sys.stderr),
        stream=sys.stderr,
        clock=SystemClock(),
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


def _run(main: Callable[[], Coroutine[Any, Any, int | None]], failure: type[Exception]) -> int:
    """Run until the end; the exit code, which is 0 where `main` gives none.

    `failure` is what may well happen and needs no traceback.
    """
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(main()) or 0
    except BrokenPipeError:
        raise  # an OSError, but of our own output
    except failure as error:
        print(f"fumage-proxy: {error}", file=sys.stderr)
        return FAILED


async def _demo() -> int:
    from proxy.sandbox import Sandbox

    stop = _Stop()
    async with Sandbox() as sandbox:
        app = await _start_demo(sandbox, stop.asked)
        here = app.bound[0].name
        print(f"sandbox  the fake EMR and its FHIR API, on {sandbox.fumage_url}; to make it misbehave:")
        print(f"         curl {sandbox.control_url}")
        print(f"proxy    on {here}: attaches the token and forwards to the sandbox")
        print(f"status   page on {app.admin_bound[0].name}, metrics on /metrics, health on /readyz")
        print(f"\nTry:     curl '{here}/Patient?name=Briddle'\n\nCtrl-C ends both.", flush=True)
        await stop.asked.wait()
        await app.drain()
        await app.close()
    return FAILED if app.failed else 0


async def _start_demo(sandbox: "Sandbox", stop: asyncio.Event) -> App:
    try:
        return await _demo_app(sandbox, {}, stop)
    except ListenError:
        print("The usual ports are taken, so these are others.\n")
        ports = {"FUMAGE_PROXY_LISTEN": "127.0.0.1:0", "FUMAGE_PROXY_ADMIN_LISTEN": "127.0.0.1:0"}
        return await _demo_app(sandbox, ports, stop)


async def _demo_app(sandbox: "Sandbox", more: dict[str, str], stop: asyncio.Event) -> App:
    # An empty .env file in place of ./.env, and no environment: a demo is the same everywhere.
    args = argparse.Namespace(env_file=os.devnull)
    loaded = settings_module.load(args, {**sandbox.settings(), **more}, cwd=Path(os.devnull).parent)
    lenient = {"listen": True, "admin_listen": True}
    app = App(loaded.settings, watch=lambda records: None, lenient=lenient, stop=stop)
    await app.start()
    return app
