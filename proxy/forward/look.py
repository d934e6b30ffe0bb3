"""What the kernel knows of a connection and the event loop does not say, or not yet."""

import select
from collections.abc import Callable
from functools import partial

# The peer has closed its sending side (Linux alone tells without reading), or all of it, or reset it.
_HUP = getattr(select, "POLLRDHUP", 0)


def watcher(descriptor: int) -> Callable[[], object]:
    """What says, when called, whether there is anything to read."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return partial(poll.poll, 0)
    # Windows, whose select() knows no limit of 1024
    return lambda: select.select([descriptor], [], [], 0)[0]


def readable(descriptor: int) -> bool:
    """Whether there is anything to read, or the end."""
    return bool(watcher(descriptor)())


def hung_up(descriptor: int) -> bool:
    """Whether the peer has closed or reset the connection, even if bytes before that have not been read."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(descriptor, _HUP)
    return bool(poll.poll(0))
