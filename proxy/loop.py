"""The event loop that the commands run on, and the tests."""

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed; None means asyncio's own (Windows, PyPy).

    uvloop 0.23 loses what its TLS layer holds when reading is paused and the peer closes. We read no body
    through that layer: TLS to Fumage is ours (`proxy.forward.tls`), and a token's answer is never paused.
    """
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
