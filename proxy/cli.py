"""The command line: arguments in, exit code out."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from proxy import settings as settings_module
from proxy.settings import KEYS, MEMORY, TCP, Choice, Loaded, SettingsError, Values, culprit

OK, FAILED, BAD_COMMAND_LINE, BAD_SETTINGS = 0, 1, 2, 78
_MAX_WAIT = "30s"
_OUTPUT_LOST = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))  # nothing here writes but what it prints


class _CannotRun(Exception):
    """What this process was started with leaves nothing to do; the text says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    _open_missing_streams()
    try:
        args = _parse(arguments if arguments is not None else sys.argv[1:])
        return int(args.run(args))
    except SettingsError as error:
        for problem in error.problems:
            _complain(problem)
        return BAD_SETTINGS
    except _CannotRun as error:
        _complain(str(error))
        return FAILED
    except (BrokenPipeError, KeyboardInterrupt):  # `fumage-proxy config | head`; Ctrl-C before a loop runs
        return FAILED
    except OSError as error:
        if error.errno not in _OUTPUT_LOST:
            raise
        _complain(f"what this command prints cannot be written: {error.strerror}")
        return FAILED
    finally:
        _give_up_broken_pipes()


def _complain(problem: str) -> None:
    print(f"fumage-proxy: {problem}", file=sys.stderr)


# --- standard streams ---


def _open_missing_streams() -> None:
    # A closed descriptor 0, 1 or 2 would be given to the first socket, and what is printed would go there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _give_up_broken_pipes() -> None:
    # What cannot be written now cannot be written by the interpreter at exit either: that is exit code 120.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# --- the commands' flags ---


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    # argparse's own complaint repeats what it does not know, and that may be `--client-secret=…`.
    args, unknown = _parser().parse_known_args(_with_command(arguments))
    if unknown:
        from proxy.settings.flags import complaint  # needed after a mistake alone

        known = set(re.findall(r"--[a-z-]+", args.command.format_usage()))
        # argparse's own usage is thirty lines, which would hide the one that counts.
        usage = f"usage: {args.command.prog} [FLAG ...]   (--help lists them)"
        what = f"{args.command.prog}: error: {complaint(unknown, known, _COMMANDS)}"
        args.command.exit(BAD_COMMAND_LINE, f"{usage}\n{what}\n")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fumage-proxy",
        description="A local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage).",
        epilog="fumage-proxy COMMAND --help lists a command's flags; without a command it is serve.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (run, what, add_flags) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", allow_abbrev=False
        )
        add_flags(command)
        command.set_defaults(run=run, command=command)
    return parser


class _Version(argparse.Action):
    """Like argparse's own, but the version is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from proxy import __version__

        print(f"fumage-proxy {__version__}")
        parser.exit()


def _sandbox_flags(command: argparse.ArgumentParser) -> None:
    from proxy import sandbox

    sandbox.add_arguments(command)


def _admin_flags(command: argparse.ArgumentParser) -> None:
    key = KEYS["admin_listen"]
    command.add_argument("--env-file", default=argparse.SUPPRESS, metavar="FILE", help="in place of ./.env")
    command.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE", help="TOML file")
    command.add_argument(
        "--admin-listen",
        action="append",
        default=argparse.SUPPRESS,
        metavar=key.kind.form,
        help=f"where the running proxy tells its health ({key.default}; {key.environment})",
    )


def _wait_flags(command: argparse.ArgumentParser) -> None:
    _admin_flags(command)
    command.add_argument(
        "--max", type=_duration, default=_MAX_WAIT, metavar="DURATION", help="how long at most (%(default)s)"
    )


def _duration(text: str) -> float:
    from proxy.settings.numbers import duration

    try:
        return duration(text, zero=True)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _no_flags(command: argparse.ArgumentParser) -> None:
    pass


# --- the commands ---


def _loader(args: argparse.Namespace) -> Callable[[], Loaded]:
    """What loads all settings, and looks at the files and URLs that they lead to."""
    from proxy.network import RULES  # here, since probes need no TLS

    rules = (*RULES, (("token_store", "token_store_password"), _store_rule))
    return partial(settings_module.load, args, os.environ, cwd=_here(), rules=rules)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise _CannotRun("the working directory is gone: change to one that is there") from None


def _store_rule(checked: Values, chosen: Choice) -> Iterator[str]:
    from proxy.token.extra import open_store

    if checked["token_store"] == MEMORY:
        return
    try:
        open_store(checked["token_store"], checked["token_store_password"])
    except ValueError as error:
        yield f"{culprit('token_store', chosen)}: {error}"


def _config(args: argparse.Namespace) -> int:
    print(settings_module.describe(_loader(args)()), flush=True)
    return OK


def _check(args: argparse.Namespace) -> int:
    from proxy.check import run  # as late as this: it takes most of the time to start

    return run(_loader(args), sys.stdout)


def _end_on_signals() -> None:
    # From here to the event loop it is a third of a second of imports, and nothing runs that needs draining.
    # A container's first process would not even hear SIGTERM without this.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(OK))


def _hold_hangups() -> None:
    # SIGHUP asks for the settings to be read again; it waits until somebody can.
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))


def _serve(args: argparse.Namespace) -> int:
    _hold_hangups()
    load = _loader(args)
    loaded = load()
    _end_on_signals()
    from proxy.network import no_system_trust  # late for the same reason

    with no_system_trust():
        from proxy.run import serve

    return serve(loaded, load)


def _sandbox(args: argparse.Namespace) -> int:
    _end_on_signals()
    from proxy.run import run_sandbox

    return run_sandbox(args)


def _demo(args: argparse.Namespace) -> int:
    _end_on_signals()
    from proxy.run import demo

    return demo()


def _health(args: argparse.Namespace) -> int:
    from proxy.admin.health import why_not_ready

    return _ready_or(why_not_ready(_admin_targets(args)))


def _wait(args: argparse.Namespace) -> int:
    from proxy.admin.health import wait

    return _ready_or(wait(_admin_targets(args), args.max))


def _admin_targets(args: argparse.Namespace) -> list[tuple[str, int] | str]:
    addresses = settings_module.load_admin_listen(args, os.environ, cwd=_here())
    return [(each.host, each.port) if isinstance(each, TCP) else each.path for each in addresses]


def _ready_or(reason: str | None) -> int:
    if reason is None:
        print("ready", flush=True)
        return OK
    _complain(f"not ready: {reason}")
    return FAILED


_Command = tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]
_COMMANDS: dict[str, _Command] = {
    "serve": (_serve, "run the proxy (the default)", settings_module.add_arguments),
    "config": (
        _config,
        "show the effective settings and where each came from, secrets masked",
        settings_module.add_arguments,
    ),
    "check": (
        _check,
        "prove a configuration, step by step: names, TLS, token, FHIR; says what to do about what fails",
        settings_module.add_arguments,
    ),
    "sandbox": (
        _sandbox,
        "run the embedded fake EMR, loopback only; prints the settings for a proxy as .env lines",
        _sandbox_flags,
    ),
    "demo": (
        _demo,
        "run the sandbox and a proxy in front of it; needs no settings, and ignores those there are",
        _no_flags,
    ),
    "wait": (_wait, "block until a running proxy is ready, or --max is over (exit code 1)", _wait_flags),
    "health": (_health, "exit code 0 if the running proxy is ready, 1 if not; for probes", _admin_flags),
}


def _with_command(arguments: Sequence[str]) -> list[str]:
    """`fumage-proxy --listen …` is `fumage-proxy serve --listen …`."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        return ["serve", *arguments]
    return list(arguments)
