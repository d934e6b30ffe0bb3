"""The log as the commands configure it, in the test's own process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from proxy.watch import log


@contextmanager
def configured(level: str, log_format: str, stream: TextIO) -> Iterator[None]:
    """Configure the log, and put back afterwards what was there."""
    root, own = logging.getLogger(), logging.getLogger("proxy")
    handlers, level_before, own_before = root.handlers[:], root.level, own.level
    log.configure(level, log_format, stream)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level_before)
        own.setLevel(own_before)
