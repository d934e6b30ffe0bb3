"""Reading the files that settings come from: no more than they may hold, and without waiting for ever."""

import os
import select
import stat
from io import FileIO
from pathlib import Path

from proxy.settings.numbers import show_size

_PATIENCE = 2.0  # seconds in which somebody has to open a pipe's other end
_LONGEST = 64  # characters of a name within a path: a longer one may be a key, pasted into the wrong place


def is_pipe(path: Path) -> bool:
    """Whether the file is one, as far as this user can tell; never raises."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def shown(path: Path | str) -> str:
    """The path as a message shows it: of a name in it that is too long to be one, the beginning."""
    return "/".join(name if len(name) <= _LONGEST else f"{name[:4]}..." for name in str(path).split("/"))


def read_file(path: Path, most: int) -> bytes:
    """What the file holds, which may also be a pipe, as a shell's `<(…)` is.

    Raises ValueError, with what fits behind the file's name: also for one of over `most` bytes, for a device
    other than the null device, and for a pipe that nobody writes to.
    """
    try:
        with FileIO(path, opener=_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or _is_null(file)):
                raise ValueError("is neither a file nor a pipe")
            data = _read(file, most + 1, pipe=stat.S_ISFIFO(mode))
    except OSError as error:
        # Not Path's own: up to Python 3.13 they raise where a folder is closed, or a name too long.
        lost = os.path.islink(path) and not os.path.exists(path)
        hint = " (it is a link, which leads nowhere)" if lost else ""
        raise ValueError(f"cannot be read: {error.strerror}{hint}") from None
    if len(data) > most:
        raise ValueError(f"is larger than {show_size(most)}")
    return data


def _without_waiting(name: str, flags: int) -> int:
    # Else opening a pipe would wait for who writes to it. Windows has no pipes among its files.
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _is_null(file: FileIO) -> bool:
    found = os.fstat(file.fileno())
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev


def _read(file: FileIO, most: int, *, pipe: bool) -> bytes:
    data, somebody, waited = b"", not pipe, False
    while len(data) < most:
        more = file.read(most - len(data))
        if more:
            data += more
        elif more is None:  # who writes may take as long as it likes: a password manager asks its user
            somebody = True
            _wait(file, None)
        elif data or somebody:
            return data
        elif waited:
            raise ValueError("is a pipe that nobody writes to")
        else:
            waited = True
            _wait(file, _PATIENCE)
    return data


def _wait(file: FileIO, seconds: float | None) -> None:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    poll.poll(None if seconds is None else seconds * 1000)
