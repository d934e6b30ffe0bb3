"""The command line: arguments in, exit code out."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from proxy import __version__
from proxy import settings as settings_module
from proxy.settings import Loaded, SettingsError

OK, FAILED, BAD_COMMAND_LINE, BAD_SETTINGS = 0, 1, 2, 78


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(_with_command(arguments if arguments is not None else sys.argv[1:]))
    try:
        return int(args.run(args))
    except SettingsError as error:
        for problem in error.problems:
            print(f"fumage-proxy: {problem}", file=sys.stderr)
        return BAD_SETTINGS
    except KeyboardInterrupt:
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fumage-proxy",
        description="A local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fumage-proxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, what in (
        ("serve", _serve, "run the proxy (the default)"),
        ("config", _config, "show the effective settings and where each came from, secrets masked"),
    ):
        command = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        settings_module.add_arguments(command)
        command.set_defaults(run=run)
    what = "run the embedded fake EMR, loopback only; prints the settings for a proxy as .env lines"
    command = commands.add_parser("sandbox", help=what, description=what, allow_abbrev=False)
    from proxy import sandbox

    sandbox.add_arguments(command)
    command.set_defaults(run=_sandbox)
    what = "run the sandbox and a proxy in front of it; needs no settings, and ignores those there are"
    command = commands.add_parser("demo", help=what, description=what, allow_abbrev=False)
    command.set_defaults(run=_demo)
    return parser


def _with_command(arguments: Sequence[str]) -> list[str]:
    """`fumage-proxy --listen …` is `fumage-proxy serve --listen …`."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        return ["serve", *arguments]
    return list(arguments)


def _load(args: argparse.Namespace) -> Loaded:
    return settings_module.load(args, os.environ, cwd=Path.cwd())


def _config(args: argparse.Namespace) -> int:
    print(settings_module.describe(_load(args)))
    return OK


def _serve(args: argparse.Namespace) -> int:
    loaded = _load(args)
    from proxy.run import serve

    return serve(loaded)


def _sandbox(args: argparse.Namespace) -> int:
    from proxy.run import run_sandbox

    return run_sandbox(args)


def _demo(args: argparse.Namespace) -> int:
    from proxy.run import demo

    return demo()
