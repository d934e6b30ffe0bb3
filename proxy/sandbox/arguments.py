"""The flags of the command. Nothing here imports aiohttp: `--help` should not wait for it."""

import argparse
from typing import TYPE_CHECKING

from .faults import KINDS, SLOW_BY, Faults, seconds

if TYPE_CHECKING:
    from .server import Sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the sandbox's flags."""
    ports = parser.add_argument_group("ports (loopback; 0 takes a free one)")
    for name, served in (
        ("fumage", "the FHIR API"),
        ("emr", "the token endpoint"),
        ("files", "the file store"),
        ("control", "the control endpoint"),
    ):
        ports.add_argument(f"--{name}-port", type=_port, default=0, metavar="PORT", help=f"port of {served}")
    credentials = parser.add_argument_group("credentials and tokens")
    credentials.add_argument(
        "--client-id", default="sandbox", help="the client id that is accepted (%(default)s)"
    )
    credentials.add_argument(
        "--token-lifetime",
        type=_lifetime,
        default=36_000.0,
        metavar="DURATION",
        help="how long a token lives (10h)",
    )
    faults = parser.add_argument_group("faults from the start (the control endpoint changes them)")
    for place, kinds in KINDS.items():
        told = "; ".join(f"{kind}: {meaning}" for kind, meaning in kinds.items())
        faults.add_argument(f"--{place.replace('_', '-')}", choices=tuple(kinds), help=told)
    faults.add_argument(
        "--slow-by",
        type=_duration,
        default=SLOW_BY,
        metavar="DURATION",
        help=f"how late slow answers come ({SLOW_BY:g}s)",
    )
    faults.add_argument(
        "--times", type=_times, metavar="N", help="only the next N requests meet these faults"
    )


def from_arguments(args: argparse.Namespace) -> "Sandbox":
    """The sandbox that the flags describe, not yet started. ValueError if they do not go together."""
    from .server import Sandbox

    return Sandbox(
        fumage_port=args.fumage_port,
        emr_port=args.emr_port,
        files_port=args.files_port,
        control_port=args.control_port,
        token_lifetime=args.token_lifetime,
        client_id=args.client_id,
        faults=Faults(
            token_endpoint=args.token_endpoint,
            fumage=args.fumage,
            slow_by=args.slow_by,
            times=args.times,
        ),
    )


# argparse shows the text of an ArgumentTypeError; of a ValueError only that there was one.


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _lifetime(text: str) -> float:
    lifetime = _duration(text)
    if lifetime <= 0:
        raise argparse.ArgumentTypeError("a token has to live for some time")
    return lifetime


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give 0 to 65535")
    return int(text)


def _times(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
