"""What systemd, or whoever started this process, wants to hear: ready, alive, stopping … (sd_notify(3))."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

_PATIENCE = 1.0  # seconds; the receiver's queue may be full

log = logging.getLogger(__name__)


class Supervisor:
    """Who watches this process, as `environ` says; without NOTIFY_SOCKET nobody does, and nothing is sent."""

    def __init__(self, environ: Mapping[str, str]):
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract one
        self._interval = _watchdog(environ) / 2

    def ready(self) -> None:
        """Callers are served from now on."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The settings are read again; `ready` says that this is over."""
        # systemd tells this from an earlier reload by the time (Type=notify-reload in systemd.service(5)).
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The process was asked to end; what runs is finished first."""
        self._tell("STOPPING=1")

    async def keep_alive(self) -> None:
        """Feed the watchdog, if there is one, for as long as the event loop turns."""
        while self._address and self._interval:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._interval)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.connect(self._address)
                sock.send(state.encode())
        except OSError as error:
            what = state.partition("\n")[0]
            log.warning("NOTIFY_SOCKET: %s was not heard: %s.", what, error.strerror or error)


def _watchdog(environ: Mapping[str, str]) -> float:
    """Seconds after which silence counts as death; 0: there is no watchdog, or it is another process's."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0
