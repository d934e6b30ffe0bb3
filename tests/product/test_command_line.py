"""What the command says and how it ends, when it ends by itself."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.product.command import CANVAS, COMMAND, SECRET, environment, run

WRONG = {
    "FUMAGE_PROXY_CONECT_TIMEOUT": "3s",
    "FUMAGE_PROXY_MAX_HEAD": "much",
    "FUMAGE_BASE_URL": "http://example.com",
}


def test_the_installed_command_and_the_module_are_the_same(tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("fumage-proxy")
    told = subprocess.check_output([installed, "--version"], cwd=tmp_path, text=True)
    assert told == run("--version", cwd=tmp_path).stdout
    assert told.startswith("fumage-proxy ")


def test_help_names_every_command(tmp_path: Path) -> None:
    told = run("--help", cwd=tmp_path)
    assert told.returncode == 0
    for name in ("serve", "config", "check", "sandbox", "demo", "wait", "health"):
        assert f"    {name} " in told.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["serv"],
        ["--lissten", ":1"],
        ["config", "extra"],
        ["serve", "--client-secret", "x"],
        ["wait", "--max", "soon"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_wrong_command_line_is_2(arguments: list[str], tmp_path: Path) -> None:
    ended = run(*arguments, cwd=tmp_path, env=CANVAS)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: fumage-proxy")


SECRET_FLAG = "is no flag, since a process list shows flags; set "


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--client-secret={}"], f"--client-secret {SECRET_FLAG}CANVAS_API_CLIENT_SECRET "),
        (["serve", "--client_secret", "{}"], f"--client_secret {SECRET_FLAG}CANVAS_API_CLIENT_SECRET "),
        (["check", "--secret", "--{}"], f"--secret {SECRET_FLAG}CANVAS_API_CLIENT_SECRET "),
        (["check", "--token-store-key={}"], f"--token-store-key {SECRET_FLAG}FUMAGE_PROXY_TOKEN_STORE_KEY "),
        (
            ["--token-store-password={}", "--scope", "a"],
            f"--token-store-password {SECRET_FLAG}FUMAGE_PROXY_TOKEN_STORE_PASSWORD ",
        ),
        (["health", "--client-secret", "{}"], f"--client-secret {SECRET_FLAG}CANVAS_API_CLIENT_SECRET "),
        (
            ["--conect-timeout={}"],
            "--conect-timeout is no flag of this command; did you mean --connect-timeout?",
        ),
        (["--port", "{}"], "--port is no flag of this command; did you mean --listen?"),
        (["config", "-x{}"], "there are words that belong to no flag"),
        (["config", "{}"], "there are words that belong to no flag"),
        (
            ["sandbox", "--token-lifetme={}"],
            "did you mean --token-lifetime?",
        ),
        (["demo", "--listen={}"], "--listen is no flag of this command; --help lists them"),
        (
            ["--env-file", "{}", "check"],
            "check is a command, and a command stands before its flags: fumage-proxy check",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_flag_that_is_none_is_told_by_its_name_and_what_was_given_to_it_is_not(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    ended = run(*(each.format(SECRET) for each in arguments), cwd=tmp_path, env=CANVAS)
    assert (ended.returncode, told in " ".join(ended.stderr.split())) == (2, True), ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["config"], ["check"]], ids=["default", "serve", "config", "check"]
)
def test_wrong_settings_are_78_and_all_told_at_once(command: list[str], tmp_path: Path) -> None:
    ended = run(*command, cwd=tmp_path, env=WRONG)
    assert ended.returncode == 78
    problems = ended.stderr.splitlines()
    assert all(problem.startswith("fumage-proxy: ") for problem in problems), problems
    for named in (
        "FUMAGE_PROXY_CONECT_TIMEOUT",
        "FUMAGE_PROXY_CONNECT_TIMEOUT",
        "FUMAGE_PROXY_MAX_HEAD",
        "FUMAGE_BASE_URL",
    ):
        assert named in ended.stderr
    assert "CANVAS_API_CLIENT_ID" in ended.stderr
    assert "CANVAS_API_CLIENT_SECRET" in ended.stderr
    assert (ended.stdout == "") is (command != ["check"])  # which tells of its steps there


@pytest.mark.parametrize("command", ["serve", "config", "check"])
def test_what_settings_lead_to_is_told_with_all_the_rest(command: str, tmp_path: Path) -> None:
    _files(tmp_path)
    wrong = {
        "FUMAGE_PROXY_CLIENT_AUTH": "zz",
        "FUMAGE_PROXY_CA_FILE": "text.pem",
        "FUMAGE_PROXY_CLIENT_CERT": "text.pem",
        "FUMAGE_PROXY_TOKEN_STORE": "http://x",
        "HTTPS_PROXY": "::::",
    }
    ended = run(command, cwd=tmp_path, env={**CANVAS, **wrong})
    assert ended.returncode == 78
    assert {line.split(": ")[1] for line in ended.stderr.splitlines()} == {
        f"environment {name}" for name in wrong
    }


def test_health_asks_for_none_of_it(tmp_path: Path) -> None:
    wrong = {"FUMAGE_PROXY_TOKEN_STORE": "http://x", "HTTPS_PROXY": "::::", "SSL_CERT_FILE": "/nowhere"}
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        free = f"127.0.0.1:{nobody.getsockname()[1]}"
    ended = run("health", "--admin-listen", free, cwd=tmp_path, env=wrong)
    assert (ended.returncode, "not ready: no proxy answers" in ended.stderr) == (1, True)


def test_a_trust_store_that_is_not_there_is_78(tmp_path: Path) -> None:
    ended = run("config", cwd=tmp_path, env={**CANVAS, "SSL_CERT_FILE": "/nowhere"})
    assert ended.returncode == 78
    assert ended.stderr == (
        "fumage-proxy: environment SSL_CERT_FILE: /nowhere cannot be read: No such file or directory\n"
    )


def test_wrong_settings_open_no_socket(tmp_path: Path) -> None:
    """The address is taken: were it bound, that would be the complaint."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(
            cwd=tmp_path,
            env={**CANVAS, "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}", "FUMAGE_PROXY_LINKS": "no"},
        )
    assert ended.returncode == 78
    assert "Cannot listen" not in ended.stderr


def test_each_place_of_a_setting_outranks_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        'scope = "toml"\npatient = "toml"\nmax_clients = 7\nclient_auth = "basic"\n'
    )
    (tmp_path / ".env").write_text(
        "FUMAGE_PROXY_SCOPE=dotenv\nFUMAGE_PROXY_PATIENT=dotenv\nFUMAGE_PROXY_MAX_CLIENTS=8\n"
    )
    env = {**CANVAS, "FUMAGE_PROXY_SCOPE": "environment", "FUMAGE_PROXY_PATIENT": "environment"}
    shown = run("config", "--config", "settings.toml", "--scope", "flag", cwd=tmp_path, env=env).stdout
    assert "scope = flag  (flag --scope)" in shown
    assert "patient = environment  (environment FUMAGE_PROXY_PATIENT)" in shown
    assert "max_clients = 8  (.env file ./.env)" in shown
    assert "client_auth = basic  (TOML file settings.toml)" in shown
    assert "connect_timeout = 10s  (default)" in shown


def test_another_env_file_replaces_the_one_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FUMAGE_PROXY_SCOPE=here\n")
    (tmp_path / "other.env").write_text("FUMAGE_PROXY_PATIENT=there\n")
    shown = run("config", "--env-file", "other.env", cwd=tmp_path, env=CANVAS).stdout
    assert "patient = there  (.env file other.env)" in shown
    assert "scope =   (not set)" in shown


@pytest.mark.parametrize("flag", ["--env-file", "--config"])
def test_a_file_that_is_not_there_is_78(flag: str, tmp_path: Path) -> None:
    ended = run("config", flag, "nowhere", cwd=tmp_path, env=CANVAS)
    assert ended.returncode == 78
    assert "nowhere" in ended.stderr


def test_a_read_only_folder_is_enough(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in CANVAS.items()))
    (tmp_path / ".env").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert run("config", cwd=tmp_path).returncode == 0
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_env_file_is_78(tmp_path: Path) -> None:
    (tmp_path / ".env").touch(0o000)
    ended = run("config", cwd=tmp_path, env=CANVAS)
    assert (ended.returncode, "Permission denied" in ended.stderr) == (78, True)


def test_no_secret_is_printed(tmp_path: Path) -> None:
    shown = run("config", cwd=tmp_path, env=CANVAS)
    broken = run("config", "--max-head", "much", cwd=tmp_path, env=CANVAS)
    assert "client_secret = ********" in shown.stdout
    assert (shown.returncode, broken.returncode) == (0, 78)
    assert SECRET not in shown.stdout + shown.stderr + broken.stdout + broken.stderr


def test_a_password_in_a_flag_is_refused_and_not_repeated(tmp_path: Path) -> None:
    ended = run("config", "--base-url", f"https://me:{SECRET}@fumage-example.com", cwd=tmp_path, env=CANVAS)
    assert ended.returncode == 78
    assert SECRET not in ended.stderr


def _files(folder: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    other.issue_cert("other.example").private_key_pem.write_to_path(folder / "other.pem")
    (folder / "text.pem").write_text("no certificate at all\n")
    (folder / "empty.pem").touch()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"ca_file": "text.pem"}, ["ca_file"]),
        ({"ca_file": "empty.pem"}, ["ca_file"]),
        ({"ca_file": "key.pem"}, ["ca_file"]),
        ({"client_cert": "text.pem"}, ["client_cert"]),
        ({"client_cert": "cert.pem"}, ["client_cert", "client_key"]),
        ({"client_cert": "cert.pem", "client_key": "other.pem"}, ["client_cert", "client_key"]),
        ({"ca_file": "text.pem", "client_cert": "text.pem"}, ["ca_file", "client_cert"]),
    ],
    ids=["no-pem", "empty", "a-key", "no-certificate", "no-key", "another-key", "both"],
)
def test_files_that_hold_no_certificate_are_78_before_any_socket(
    files: dict[str, str], named: list[str], tmp_path: Path
) -> None:
    _files(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {**CANVAS, "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{taken.getsockname()[1]}"}
        env |= {f"FUMAGE_PROXY_{key.upper()}": file for key, file in files.items()}
        ended = run(cwd=tmp_path, env=env)
    assert ended.returncode == 78
    assert all(f"FUMAGE_PROXY_{key.upper()}" in ended.stderr for key in named)
    assert "Cannot listen" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1080", f"http://me:{SECRET}@[::1", "http://host:port"])
def test_an_egress_proxy_that_is_no_http_url_is_78(url: str, tmp_path: Path) -> None:
    ended = run(cwd=tmp_path, env={**CANVAS, "HTTPS_PROXY": url})
    assert (ended.returncode, "HTTPS_PROXY" in ended.stderr) == (78, True)
    assert SECRET not in ended.stderr
    assert "Traceback" not in ended.stderr


# What only a shell does to a process.


def _shell(line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    script = f'command() {{ "{COMMAND[0]}" -m proxy "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=environment(CANVAS), capture_output=True, text=True, timeout=20
    )


@pytest.mark.parametrize("arguments", ["config", "--help", "serve --help"])
def test_a_reader_that_leaves_early_sees_no_traceback(arguments: str, tmp_path: Path) -> None:
    ended = _shell(f"command {arguments} | head -0; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert ended.returncode in (0, 1)
    assert ended.stderr == ""


@pytest.mark.parametrize("command", ["config", "health", "wait"])
def test_a_working_directory_that_is_gone_is_told(command: str, tmp_path: Path) -> None:
    ended = _shell(f"mkdir gone; cd gone; rmdir ../gone; command {command}", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "fumage-proxy: the working directory is gone: change to one that is there\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this machine has no /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    ended = _shell("command config >/dev/full", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        "fumage-proxy: what this command prints cannot be written: No space left on device\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "CANVAS_API_CLIENT_SECRET= CANVAS_API_CLIENT_SECRET_FILE=<(echo hush) command config",
        "command config --env-file <(echo FUMAGE_PROXY_SCOPE=a)",
        "echo FUMAGE_PROXY_SCOPE=a | command config --env-file /dev/stdin",
    ],
    ids=["secret", "env-file", "stdin"],
)
def test_what_a_shell_writes_to_a_pipe_is_read(line: str, tmp_path: Path) -> None:
    ended = _shell(line, tmp_path)
    assert ended.returncode == 0
    assert "(file /dev/fd/" in ended.stdout or "scope = a " in ended.stdout


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_trouble(closed: str, tmp_path: Path) -> None:
    assert _shell(f"command config {closed}", tmp_path).returncode == 0
    assert _shell(f"command config --max-head much {closed}", tmp_path).returncode == 78
