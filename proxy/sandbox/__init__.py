"""A fake EMR with a Fumage-like FHIR API, for demos and for users' own CI. Imports nothing else of ours."""

from typing import TYPE_CHECKING

from .arguments import add_arguments, from_arguments
from .faults import Faults

if TYPE_CHECKING:
    from .server import Sandbox
else:

    def __getattr__(name: str) -> object:
        # Late, so that a command line that only mentions the sandbox does not import aiohttp.
        if name != "Sandbox":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from .server import Sandbox

        return Sandbox


__all__ = ["Faults", "Sandbox", "add_arguments", "from_arguments"]
