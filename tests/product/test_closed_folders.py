"""Paths that lead nowhere for this user: a closed folder, a name that is none. Told, never a traceback."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.product.command import CANVAS, COMMAND, FREE_PORTS, SECRET, environment, run, running
from tests.support.emr import EMR
from tests.support.upstream import Upstream

PASTED = "k3y-" * 75  # where a file's name belongs
AS_NOBODY = ("setpriv", "--reuid", "nobody", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")

LEADS: dict[str, tuple[list[str], dict[str, str]]] = {
    "serve --env-file": (["serve", "--env-file", "{}"], {}),
    "health --env-file": (["health", "--env-file", "{}"], {}),
    "config --config": (["config", "--config", "{}"], CANVAS),
    "config, in the environment": (["config"], {**CANVAS, "FUMAGE_PROXY_CONFIG": "{}"}),
    "client_secret_file": (
        ["config"],
        {**CANVAS, "CANVAS_API_CLIENT_SECRET": "", "CANVAS_API_CLIENT_SECRET_FILE": "{}"},
    ),
    "ca_file": (["config"], {**CANVAS, "FUMAGE_PROXY_CA_FILE": "{}"}),
    "client_cert": (["check"], {**CANVAS, "FUMAGE_PROXY_CLIENT_CERT": "{}"}),
    "SSL_CERT_FILE": (["serve"], {**CANVAS, "SSL_CERT_FILE": "{}"}),
}


def _to(path: str, lead: str) -> tuple[list[str], dict[str, str]]:
    arguments, env = LEADS[lead]
    return [each.format(path) for each in arguments], {name: each.format(path) for name, each in env.items()}


@pytest.mark.parametrize("lead", LEADS)
def test_a_key_pasted_where_a_file_belongs_is_told_and_not_repeated(lead: str, tmp_path: Path) -> None:
    arguments, env = _to(PASTED, lead)
    ended = run(*arguments, cwd=tmp_path, env=env)
    assert (ended.returncode, "k3y-... cannot be read: File name too long" in ended.stderr) == (78, True)
    assert PASTED[:8] not in ended.stderr + ended.stdout


@pytest.mark.parametrize("lead", LEADS)
def test_a_key_that_could_be_the_name_of_a_file_is_not_repeated_either(lead: str, tmp_path: Path) -> None:
    arguments, env = _to(PASTED[:128], lead)
    ended = run(*arguments, cwd=tmp_path, env=env)
    assert (ended.returncode, "k3y-... cannot be read: No such file" in ended.stderr) == (78, True)
    assert PASTED[:8] not in ended.stderr + ended.stdout


@pytest.mark.parametrize("lead", LEADS)
def test_a_path_through_a_file_is_told(lead: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments, env = _to("file/within", lead)
    ended = run(*arguments, cwd=tmp_path, env=env)
    assert (ended.returncode, "file/within cannot be read: Not a directory" in ended.stderr) == (78, True)


# Folders that are closed, to a user who is not root


@pytest.fixture(scope="module")
def unprivileged() -> tuple[str, ...]:
    """The command as a user whom permissions bind."""
    if os.geteuid() != 0:
        return COMMAND
    if shutil.which("setpriv") is None or "nobody" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("root may enter any folder, and here is no way to be somebody else")
    command = (*AS_NOBODY, *COMMAND)
    if subprocess.run([*command, "--version"], cwd="/", env=environment({}), capture_output=True).returncode:
        pytest.skip("root may enter any folder, and nobody else may read this checkout or run this Python")
    return command


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not in tmp_path, which is for its owner alone."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "sub").mkdir(0o755)
        yield path
        (path / "sub").chmod(0o755)


@pytest.mark.parametrize("lead", LEADS)
def test_a_folder_that_may_not_be_entered_is_told(
    lead: str, unprivileged: tuple[str, ...], folder: Path
) -> None:
    (folder / "sub").chmod(0o000)
    arguments, env = _to("sub/file", lead)
    ended = subprocess.run(
        [*unprivileged, *arguments],
        cwd=folder,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (ended.returncode, "sub/file cannot be read: Permission denied" in ended.stderr) == (78, True)


@pytest.mark.parametrize("named", [False, True], ids=["./.env", "--env-file"])
async def test_a_reload_while_the_folder_is_closed_changes_nothing_and_the_next_one_works(
    named: bool, unprivileged: tuple[str, ...], folder: Path, fumage: Upstream, emr: EMR
) -> None:
    # What is in force must not fall back to defaults, because the file cannot be seen for a while.
    sub = folder / "sub"
    settings = {"FUMAGE_BASE_URL": fumage.url, "FUMAGE_PROXY_TOKEN_URL": emr.token_url}
    (sub / ".env").write_text("FUMAGE_PROXY_ALLOW=Patient.r\n")
    where, arguments = (folder, ("--env-file", "sub/.env")) if named else (sub, ())
    env = {**CANVAS, **FREE_PORTS, **settings}
    async with running(*arguments, cwd=where, env=env, prefix=unprivileged) as proxy:
        await proxy.port()
        await proxy.says("This is fumage-proxy")
        sub.chmod(0o000)
        proxy.terminate(signal.SIGHUP)
        await proxy.says(r"Settings: \.env file .* cannot be read: Permission denied")
        await proxy.says("wrong: nothing was changed")
        sub.chmod(0o755)
        (sub / ".env").write_text("FUMAGE_PROXY_ALLOW=Patient.rs\n")
        proxy.terminate(signal.SIGHUP)
        await proxy.says(r"The settings were read again; changed: allow = Patient\.rs")
        proxy.terminate()
        assert await proxy.ended() == 0


async def test_a_secret_whose_folder_was_closed_for_a_while_is_rotated_when_it_is_open_again(
    unprivileged: tuple[str, ...], folder: Path, fumage: Upstream, emr: EMR
) -> None:
    sub = folder / "sub"
    (sub / "secret").write_text(SECRET)
    env = {
        **CANVAS,
        **FREE_PORTS,
        "FUMAGE_BASE_URL": fumage.url,
        "FUMAGE_PROXY_TOKEN_URL": emr.token_url,
        "CANVAS_API_CLIENT_SECRET": "",
        "CANVAS_API_CLIENT_SECRET_FILE": "sub/secret",
    }
    async with running(cwd=folder, env=env, prefix=unprivileged) as proxy:
        await proxy.says("A new token is in use")
        sub.chmod(0o000)
        await proxy.says("new client secret is not used, the old one stays: .* Permission denied")
        sub.chmod(0o755)
        (sub / "secret").write_text("another")
        await proxy.says("The client secret was rotated")
    assert sum("Permission denied" in line for line in proxy.err) == 1
