"""Files that are none, or too much of one: nothing hangs, and what is wrong is said."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.settings import SettingsError, read_secret
from proxy.settings.files import read_file
from tests.settings.conftest import Place


def test_a_file_is_read_up_to_what_it_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1024)
    assert read_file(path, 1024) == b"x" * 1024
    with pytest.raises(ValueError, match=r"is larger than 1023$"):
        read_file(path, 1023)


def test_a_secrets_file_of_any_size_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="is larger than 64KiB"):
        read_secret(path)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full", "/dev/tty"])
def test_a_device_is_no_file(device: str) -> None:
    if not os.path.exists(device):
        pytest.skip("this machine has none")
    with pytest.raises(ValueError, match=r"is neither a file nor a pipe|cannot be read"):
        read_file(Path(device), 1024)


def test_the_null_device_is_an_empty_file() -> None:
    assert read_file(Path(os.devnull), 1024) == b""


# --- pipes ---


@contextmanager
def _written(data: bytes, *, to: int) -> Iterator[None]:
    """Somebody else who has the pipe open already, and only then begins to write."""

    def write() -> None:
        with os.fdopen(to, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    yield
    writer.join()


def test_what_somebody_writes_to_a_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with _written(b"x" * 100_000, to=os.open(path, os.O_RDWR)):  # opened so, it does not wait for a reader
        assert read_file(path, 100_000) == b"x" * 100_000


def test_what_a_shell_leaves_is_read_when_it_is_written_at_last() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), _written(b"hush\n", to=writer):
        assert read_secret(Path(f"/dev/fd/{reader}")) == "hush"


def test_a_dotenv_pipe_that_nobody_writes_to_does_not_hang(place: Place) -> None:
    os.mkfifo(place.cwd / ".env")
    assert place.problem() == ".env file ./.env is a pipe that nobody writes to"
    with pytest.raises(SettingsError, match="nobody writes"):
        place.admin_listen("--env-file=.env")
