import argparse

import pytest

from proxy.settings import KEYS, add_arguments
from tests.settings.conftest import Place


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FUMAGE_PROXY_BASE_URL", "FUMAGE_BASE_URL"),
        ("FUMAGE_PROXY_CLIENT_ID", "CANVAS_API_CLIENT_ID"),
        ("FUMAGE_PROXY_CLIENT_SECRET", "CANVAS_API_CLIENT_SECRET"),
        ("FUMAGE_PROXY_CLIENT_SECRET_FILE", "CANVAS_API_CLIENT_SECRET_FILE"),
        ("FUMAGE_PROXY_CONECT_TIMEOUT", "FUMAGE_PROXY_CONNECT_TIMEOUT"),
        ("FUMAGE_PROXY_CONNECT-TIMEOUT", "FUMAGE_PROXY_CONNECT_TIMEOUT"),
        ("FUMAGE_PROXY_listen", "FUMAGE_PROXY_LISTEN"),
        ("FUMAGE_PROXY_CONFG", "FUMAGE_PROXY_CONFIG"),
        ("FUMAGE_PROXY_MAX", "FUMAGE_PROXY_MAX_HEAD"),
        ("FUMAGE_PROXY_PORT", "FUMAGE_PROXY_LISTEN"),
        ("FUMAGE_PROXY_ADMIN_PORT", "FUMAGE_PROXY_ADMIN_LISTEN"),
        ("FUMAGE_PROXY_LOG", "FUMAGE_PROXY_LOG_LEVEL"),
        ("FUMAGE_PROXY_ENV_FILE", "--env-file"),
    ],
)
def test_an_unknown_variable_suggests_the_nearest_name(place: Place, name: str, meant: str) -> None:
    assert place.problem(**{name: "x"}) == f"environment {name} is not a setting; did you mean {meant}?"


def test_an_unknown_variable_in_a_dotenv_file_is_an_error_and_other_programs_variables_are_not(
    place: Place,
) -> None:
    place.write(".env", "DATABASE_URL=x\nFUMAGE_OTHER=y\nFUMAGE_PROXY_SCOP=z\n")
    assert place.problem() == (
        ".env file ./.env, FUMAGE_PROXY_SCOP is not a setting; did you mean FUMAGE_PROXY_SCOPE?"
    )


def test_a_name_that_resembles_none_gets_no_wrong_suggestion(place: Place) -> None:
    assert "did you mean" not in place.problem(FUMAGE_PROXY_XYZZYQ="1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUMAGE_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("FUMAGE_PROXY_SERVICE_PORT", "3447"),
        ("FUMAGE_PROXY_SERVICE_PORT_HTTP", "3447"),
        ("FUMAGE_PROXY_PORT", "tcp://10.0.0.1:3447"),
        ("FUMAGE_PROXY_PORT", "udp://10.0.0.1:3447"),
        ("FUMAGE_PROXY_PORT_3447_TCP", "tcp://10.0.0.1:3447"),
        ("FUMAGE_PROXY_PORT_3447_TCP_ADDR", "10.0.0.1"),
        ("FUMAGE_PROXY_FOO_SERVICE_HOST", "10.0.0.1"),
        ("FUMAGE_PROXY_FOO_SERVICE_PORT_METRICS", "1"),
        ("FUMAGE_PROXY_FOO_PORT", "tcp://10.0.0.1:80"),
        ("FUMAGE_PROXY_FOO_PORT_80_TCP_PROTO", "tcp"),
    ],
)
def test_the_service_links_of_kubernetes_are_ignored(place: Place, name: str, value: str) -> None:
    place.load(**{name: value})
    place.write(".env", f"{name}={value}\n")
    place.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [("FUMAGE_PROXY_PORT", "3447"), ("FUMAGE_PROXY_PORT_X_TCP", "1"), ("FUMAGE_PROXY_FOO", "tcp://x:1")],
)
def test_what_only_resembles_a_service_link_is_an_error(place: Place, name: str, value: str) -> None:
    assert place.problem(**{name: value}).startswith(f"environment {name} is not a setting")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("connect-timeout", "connect_timeout"),
        ("fumage_base_url", "base_url"),
        ("CANVAS_API_CLIENT_ID", "client_id"),
        ("lissten", "listen"),
        ("port", "listen"),
        ("env_file", "--env-file"),
        ("config", "--config"),
    ],
)
def test_an_unknown_toml_key_suggests_the_nearest_name(place: Place, name: str, meant: str) -> None:
    place.write("x.toml", f"{name} = 1\n")
    assert place.problem("--config=x.toml") == (
        f"TOML file x.toml, {name} is not a setting; did you mean {meant}?"
    )


def test_a_toml_table_is_an_error(place: Place) -> None:
    place.write("x.toml", '[proxy]\nscope = "a"\n')
    assert "x.toml, [proxy] is a table, and settings stand at the top" in place.problem("--config=x.toml")


def test_a_dotenv_file_is_read_here_alone_and_without_interpolation(place: Place) -> None:
    place.write(".env", "FUMAGE_PROXY_SCOPE=${HOME}x\n")
    assert place.load().settings.scope == "${HOME}x"
    place.cwd = place.cwd / "below"
    place.cwd.mkdir()
    assert place.load().settings.scope is None


def test_an_env_file_stands_in_for_the_one_here(place: Place) -> None:
    place.write(".env", "FUMAGE_PROXY_SCOPE=wrong\n")
    place.write("other.env", "# comment\nexport FUMAGE_PROXY_PATIENT='p'\n")
    loaded = place.load("--env-file", "other.env")
    assert (loaded.settings.scope, loaded.settings.patient) == (None, "p")
    assert loaded.sources["patient"] == ".env file other.env"


def test_a_dotenv_file_with_a_byte_order_mark_and_windows_line_ends_is_read(place: Place) -> None:
    place.write(".env", b"\xef\xbb\xbfFUMAGE_PROXY_SCOPE=a\r\nFUMAGE_PROXY_PATIENT=b\r\n")
    loaded = place.load()
    assert (loaded.settings.scope, loaded.settings.patient) == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--env-file", "no.env"], ".env file no.env cannot be read: No such file or directory"),
        (["--env-file", ""], ".env file  cannot be read: Is a directory"),
        (["--config", "no.toml"], "flag --config: no.toml cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_was_named_has_to_be_there(place: Place, flags: list[str], problem: str) -> None:
    assert place.problem(*flags) == problem


def test_who_named_a_missing_toml_file_is_said(place: Place) -> None:
    assert place.problem(FUMAGE_PROXY_CONFIG="no").startswith(
        "environment FUMAGE_PROXY_CONFIG: no cannot be read"
    )
    place.write(".env", "FUMAGE_PROXY_CONFIG=no\n")
    assert place.problem().startswith(".env file ./.env, FUMAGE_PROXY_CONFIG: no cannot be read")
    place.write("yes.toml", "")
    place.load("--config=yes.toml")


def test_a_virtualenv_called_dotenv_is_no_mistake(place: Place) -> None:
    (place.cwd / ".env").mkdir()
    place.write(".env/pyvenv.cfg", "home = /usr/bin\n")
    place.load()


def test_a_dotenv_file_that_is_there_and_cannot_be_read_is_an_error(place: Place) -> None:
    path = place.cwd / ".env"
    path.mkdir()
    assert place.problem() == ".env file ./.env cannot be read: Is a directory"
    path.rmdir()
    path.symlink_to("nowhere")
    told = "cannot be read: No such file or directory (it is a link, which leads nowhere)"
    assert place.problem() == f".env file ./.env {told}"
    assert place.problem("--env-file=.env") == f".env file .env {told}"


def test_a_dotenv_line_that_cannot_be_read_is_named_and_not_shown(place: Place) -> None:
    place.write(".env", "A=1\n\n\nFUMAGE_PROXY_SCOPE='hunter2\nFUMAGE_PROXY_PATIENT=p\n")
    assert place.problem() == ".env file ./.env, line 4: is not NAME=value"


def test_a_file_that_is_no_text_is_named_with_the_line(place: Place) -> None:
    place.write(".env", b"A=1\nB=\xff\n")
    place.write("x.toml", b"\n\na = '\xff'\n")
    assert place.problems("--config=x.toml") == [
        ".env file ./.env is not UTF-8 (line 2)",
        "flag --config: x.toml is not UTF-8 (line 3)",
    ]


@pytest.mark.parametrize(
    "text", ["a = 1\nb = hunter2\n", "a = 1\nclient_secret = 'hunter2\n", "a=1\nb=2\nhunter2\n"]
)
def test_a_toml_syntax_error_is_named_with_the_line_and_shows_no_value(place: Place, text: str) -> None:
    place.write("x.toml", text)
    problem = place.problem("--config=x.toml")
    assert problem.startswith("flag --config: x.toml is not TOML: ")
    assert "line " in problem or problem.endswith("(at end of document)")
    assert "hunter2" not in problem


def test_flags_may_stand_before_and_behind_a_subcommand() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    add_arguments(parser.add_subparsers().add_parser("serve", allow_abbrev=False))
    args = parser.parse_args(["--scope=a", "serve", "--patient=b"])
    assert (args.scope, args.patient) == ("a", "b")


def test_help_names_every_flag_and_its_default() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    text = parser.format_help()
    for key in KEYS.values():
        assert (f"--{key.name.replace('_', '-')} " in text) is (key.flag is not None)
    assert "--env-file FILE" in text
    assert "--config FILE" in text
