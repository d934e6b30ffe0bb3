import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import KEYS, TCP, URL, Settings, SettingsError, Unix, describe, read_secret
from tests.settings.conftest import Place

PLACES = ["flag", "environment", ".env", "TOML"]

# Of each key two valid values, as text and as TOML writes them, and what they mean.
KEY = "0123456789abcdef" * 2
EXAMPLES: dict[str, list[tuple[str, object, object]]] = {
    "base_url": [
        ("https://fumage-a.example", "https://fumage-a.example", URL("https", "fumage-a.example", 443, "")),
        (
            "https://fumage-b.example/x",
            "https://fumage-b.example/x",
            URL("https", "fumage-b.example", 443, "/x"),
        ),
    ],
    "client_id": [("one", "one", "one"), ("two", "two", "two")],
    "client_secret": [("one", "one", "one"), ("two", "two", "two")],
    "token_url": [
        ("https://a/t", "https://a/t", URL("https", "a", 443, "/t")),
        ("http://[::1]:1/t", "http://[::1]:1/t", URL("http", "::1", 1, "/t")),
    ],
    "scope": [("system/*.read", "system/*.read", "system/*.read"), ("a b", "a b", "a b")],
    "patient": [("p1", "p1", "p1"), ("p2", "p2", "p2")],
    "client_auth": [("basic", "basic", "basic"), ("POST", "post", "post")],
    "listen": [
        ("localhost:1", ["localhost:1"], (TCP("localhost", 1),)),
        ("unix:/a,mode=0660,[::1]:1", ["unix:/a,mode=0660", "[::1]:1"], (Unix("/a", 0o660), TCP("::1", 1))),
    ],
    "admin_listen": [("off", "off", ()), (":1", [":1"], (TCP("", 1),))],
    "unsafe_listen": [("true", True, True), ("off", False, False)],
    "allowed_hosts": [
        ("a,B", ["a", "b"], ("localhost", "127.0.0.1", "::1", "a", "b")),
        ("c", "c", ("localhost", "127.0.0.1", "::1", "c")),
    ],
    "allowed_origins": [
        ("https://a", ["https://a"], ("https://a",)),
        ("http://b:1", "http://b:1", ("http://b:1",)),
    ],
    "allow": [
        ("Patient.rs Task.cu", "Patient.rs Task.cu", "Patient.rs Task.cu"),
        ("*.r,Patient.$*", ["*.r", "Patient.$*"], "*.r,Patient.$*"),
    ],
    "links": [("off", "off", "off"), ("All, Absolute", ["all", "absolute"], "all,absolute")],
    "connect_timeout": [("250ms", 0.25, 0.25), ("7", 7, 7.0)],
    "max_connections": [("7", 7, 7), ("8", "8", 8)],
    "max_head": [("1KiB", 1024, 1024), ("2048", "2KiB", 2048)],
    "token_store": [("redis://h/1", "redis://h/1", "redis://h/1"), ("unix:/r", "unix:/r", "unix:/r")],
    "token_store_password": [("one", "one", "one"), ("two", "two", "two")],
    "token_store_key": [("k" * 32, "k" * 32, ("k" * 32,)), (f"{KEY}, {KEY}", f"{KEY}, {KEY}", (KEY, KEY))],
    "log_level": [("debug", "debug", "debug"), ("ERROR", "error", "error")],
    "log_format": [("json", "json", "json"), ("text", "text", "text")],
    "quit_endpoint": [("false", False, False), ("0", "no", False)],
}
EXAMPLES |= {
    key.name: EXAMPLES[like]
    for like in ("connect_timeout", "max_connections", "max_head")
    for key in KEYS.values()
    if key.kind.form == KEYS[like].kind.form
}
FILES = (
    "client_secret_file",
    "ca_file",
    "client_cert",
    "client_key",
    "token_store_password_file",
    "token_store_key_file",
)


def put(place: Place, where: str, name: str, text: str, native: object) -> list[str]:
    """Give the value in this place; returns the flags."""
    if where == "flag":
        return [f"{KEYS[name].flag}={text}"]
    if where == "environment":
        place.env[KEYS[name].environment] = text
    elif where == ".env":
        place.write(".env", f"{KEYS[name].environment}='{text}'\n")
    else:
        place.write("proxy.toml", f"{name} = {json.dumps(native)}\n")
        place.env["FUMAGE_PROXY_CONFIG"] = "proxy.toml"
    return []


def prepared(place: Place, name: str) -> Place:
    place.env.pop(KEYS[name].environment, None)
    if name == "client_secret_file":
        place.without("CANVAS_API_CLIENT_SECRET")
    if name == "token_store":
        place.env["FUMAGE_PROXY_TOKEN_STORE_KEY"] = KEY
    if name == "client_key":
        put(place, "environment", "client_cert", str(place.write("cert.pem", "")), "")
    return place


def source(where: str, name: str) -> str:
    return {
        "flag": f"flag {KEYS[name].flag}",
        "environment": f"environment {KEYS[name].environment}",
        ".env": ".env file ./.env",
        "TOML": "TOML file proxy.toml",
    }[where]


def ways(name: str) -> list[str]:
    return PLACES if KEYS[name].flag else PLACES[1:]


def test_every_key_has_an_example_here() -> None:
    assert {*EXAMPLES, *FILES} == set(KEYS)


@pytest.mark.parametrize(("name", "where"), [(name, where) for name in EXAMPLES for where in ways(name)])
def test_every_key_is_reached_through_each_place(place: Place, name: str, where: str) -> None:
    prepared(place, name)
    for text, native, expected in EXAMPLES[name]:
        loaded = place.load(*put(place, where, name, text, native))
        assert getattr(loaded.settings, name) == expected
        assert type(getattr(loaded.settings, name)) is type(expected)
        assert loaded.sources[name] == source(where, name)


@pytest.mark.parametrize(("name", "where"), [(name, where) for name in FILES for where in ways(name)])
def test_every_file_is_reached_through_each_place(place: Place, name: str, where: str) -> None:
    prepared(place, name)
    place.write("some.pem", f"{KEY}\n")
    loaded = place.load(*put(place, where, name, "some.pem", "some.pem"))
    assert getattr(loaded.settings, name) == place.cwd / "some.pem"
    assert loaded.sources[name] == source(where, name)


@pytest.mark.parametrize(
    ("name", "higher", "lower"),
    [
        (name, higher, lower)
        for name in EXAMPLES
        for higher in ways(name)
        for lower in ways(name)[ways(name).index(higher) + 1 :]
    ],
)
def test_the_higher_place_wins(place: Place, name: str, higher: str, lower: str) -> None:
    prepared(place, name)
    wanted, other = EXAMPLES[name]
    flags = put(place, lower, name, *other[:2]) + put(place, higher, name, *wanted[:2])
    loaded = place.load(*flags)
    assert getattr(loaded.settings, name) == wanted[2]
    assert loaded.sources[name] == source(higher, name)


def test_the_defaults_are_those_of_the_contract(place: Place) -> None:
    loaded = place.load()
    secret = "s3cret-value"
    assert loaded.settings == Settings(
        base_url=URL("https", "fumage-example.canvasmedical.com", 443, ""),
        client_id="id",
        client_secret=secret,
        client_secret_file=None,
        token_url=URL("https", "example.canvasmedical.com", 443, "/auth/token/"),
        scope=None,
        patient=None,
        client_auth="post",
        listen=(TCP("127.0.0.1", 3447), TCP("::1", 3447)),
        admin_listen=(TCP("127.0.0.1", 3448), TCP("::1", 3448)),
        unsafe_listen=False,
        allowed_hosts=("localhost", "127.0.0.1", "::1"),
        allowed_origins=(),
        allow="*.cruds",
        links="location",
        connect_timeout=10.0,
        response_timeout=60.0,
        idle_timeout=60.0,
        client_timeout=30.0,
        client_keepalive=75.0,
        max_connections=100,
        max_clients=1000,
        upstream_keepalive=15.0,
        upstream_max_age=300.0,
        max_head=64 * 1024,
        replay_limit=4 * 1024**2,
        replay_memory=64 * 1024**2,
        max_body=0,
        drain_delay=0.0,
        drain_timeout=25.0,
        token_timeout=10.0,
        refresh_margin=60.0,
        ca_file=None,
        client_cert=None,
        client_key=None,
        log_level="info",
        log_format="auto",
        quit_endpoint=False,
        token_store="memory",
        token_store_password=None,
        token_store_password_file=None,
        token_store_key=None,
        token_store_key_file=None,
    )
    assert loaded.sources["listen"] == "default"
    assert loaded.sources["token_url"] == "derived from base_url"


def test_the_environment_is_left_as_it_is(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(".env", "FUMAGE_PROXY_SCOPE=x\nOTHER=y\n")
    before = dict(os.environ)
    env = dict(place.env)
    place.load()
    assert (dict(os.environ), place.env) == (before, env)


def test_all_problems_come_at_once_and_name_what_to_change(place: Place) -> None:
    place.env.clear()
    place.write(".env", "\nFUMAGE_PROXY_IDLE_TIMEOUT=never\n")
    place.write("x.toml", 'max_head = 1.5\nmax_clients = true\nscop = "a"\nlisten = [1]\n')
    problems = place.problems(
        "--config=x.toml", "--connect-timeout", "10x", FUMAGE_PROXY_LOG_LEVEL="loud", FUMAGE_PROXY_LISTN=":1"
    )
    expected = [
        "environment FUMAGE_PROXY_LISTN is not a setting; did you mean FUMAGE_PROXY_LISTEN?",
        "TOML file x.toml, scop is not a setting; did you mean scope?",
        "base_url is missing: set FUMAGE_BASE_URL",
        "client_id is missing: set CANVAS_API_CLIENT_ID",
        "client_secret is missing: set CANVAS_API_CLIENT_SECRET or CANVAS_API_CLIENT_SECRET_FILE",
        "TOML file x.toml, listen: must be a string, or an array of strings",
        'flag --connect-timeout: "10x" is not a duration; write 250ms, 10s',
        '.env file ./.env, FUMAGE_PROXY_IDLE_TIMEOUT: "never" is not a duration',
        "TOML file x.toml, max_clients: must be a string, or an integer",
        "TOML file x.toml, max_head: must be a string, or an integer",
        'environment FUMAGE_PROXY_LOG_LEVEL: "loud" is none of debug, info, warning, error',
    ]
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(beginning)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "-0.5", "1979-05-27", "true", "[1]"])
def test_toml_numbers_that_are_no_durations_are_refused(place: Place, value: str) -> None:
    place.write("x.toml", f"connect_timeout = {value}\n")
    assert place.problem("--config", "x.toml").startswith("TOML file x.toml, connect_timeout: ")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_value_counts_as_not_given(place: Place, empty: str) -> None:
    place.write("x.toml", 'scope = "low"\nallowed_hosts = []\npatient = ""\n')
    loaded = place.load("--config", "x.toml", "--client-auth=", FUMAGE_PROXY_SCOPE=empty)
    assert loaded.settings.scope == "low"
    assert loaded.settings.patient is None
    assert loaded.sources["client_auth"] == loaded.sources["allowed_hosts"] == "default"


@pytest.mark.parametrize("toml", ["allow = []", 'allow = ""', 'allow = ["", " "]'])
def test_an_empty_allow_does_not_permit_everything_but_is_an_error(place: Place, toml: str) -> None:
    place.write("x.toml", f"{toml}\n")
    told = ": names no permission; leave it out to permit everything (*.cruds), or name some: Patient.rs"
    assert place.problem("--config=x.toml") == f"TOML file x.toml, allow{told}"
    for empty in ("", "  ", ","):
        assert place.problem(FUMAGE_PROXY_ALLOW=empty) == f"environment FUMAGE_PROXY_ALLOW{told}"
    assert place.problem("--allow=") == f"flag --allow{told}"


def test_a_required_value_that_is_empty_is_said_to_be_empty(place: Place) -> None:
    assert place.problem(FUMAGE_BASE_URL="").endswith("; environment FUMAGE_BASE_URL is empty")


def test_surrounding_spaces_do_not_count(place: Place) -> None:
    loaded = place.load(FUMAGE_BASE_URL=" https://fumage-x.example\n", FUMAGE_PROXY_CONNECT_TIMEOUT=" 1s ")
    assert (loaded.settings.base_url.host, loaded.settings.connect_timeout) == ("fumage-x.example", 1)


@pytest.mark.parametrize("name", ["CANVAS_API_CLIENT_ID", "CANVAS_API_CLIENT_SECRET", "FUMAGE_PROXY_SCOPE"])
@pytest.mark.parametrize(
    ("bad", "complaint"), [("hunter\r2", "control character"), ("hunter\udcff", "UTF-8")]
)
def test_unusable_characters_are_refused_without_showing_the_value(
    place: Place, name: str, bad: str, complaint: str
) -> None:
    problem = place.problem(**{name: bad})
    assert problem.startswith(f"environment {name}: ")
    assert complaint in problem
    assert "hunter" not in problem


# The secret


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_of_a_secret_is_stripped(place: Place, end: str) -> None:
    assert place.load(CANVAS_API_CLIENT_SECRET="a b " + end).settings.client_secret == "a b "
    path = place.write("secret", "a b " + end)
    loaded = place.without("CANVAS_API_CLIENT_SECRET").load(CANVAS_API_CLIENT_SECRET_FILE="secret")
    assert loaded.settings.client_secret == "a b "
    assert loaded.settings.client_secret_file == path
    assert loaded.sources["client_secret"] == f"file {path}"
    assert loaded.sources["client_secret_file"] == "environment CANVAS_API_CLIENT_SECRET_FILE"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"hunter\n2", "more than one line"),
        (b"hunter\xff", "not UTF-8"),
    ],
)
def test_a_secret_file_that_holds_no_secret_is_refused(place: Place, content: bytes, complaint: str) -> None:
    path = place.write("secret", content)
    problem = place.without("CANVAS_API_CLIENT_SECRET").problem(CANVAS_API_CLIENT_SECRET_FILE="secret")
    assert problem.startswith(f"environment CANVAS_API_CLIENT_SECRET_FILE: {path} ")
    assert complaint in problem
    assert "hunter" not in problem
    with pytest.raises(ValueError, match=complaint):
        read_secret(path)


def test_the_byte_order_mark_of_a_windows_editor_is_no_part_of_a_secret(place: Place) -> None:
    path = place.write("secret", b"\xef\xbb\xbfhush\r\n")
    loaded = place.without("CANVAS_API_CLIENT_SECRET").load(CANVAS_API_CLIENT_SECRET_FILE="secret")
    assert loaded.settings.client_secret == read_secret(path) == "hush"


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_secret_file_that_cannot_be_read_is_refused(place: Place, name: str) -> None:
    problem = place.without("CANVAS_API_CLIENT_SECRET").problem(CANVAS_API_CLIENT_SECRET_FILE=name)
    assert "cannot be read" in problem


def test_a_secret_and_a_secret_file_from_the_same_place_contradict_each_other(place: Place) -> None:
    place.write("secret", "x")
    problem = place.problem(CANVAS_API_CLIENT_SECRET_FILE="secret")
    assert "CANVAS_API_CLIENT_SECRET: stands beside environment CANVAS_API_CLIENT_SECRET_FILE" in problem


def test_of_a_secret_and_a_secret_file_the_higher_place_wins(place: Place) -> None:
    place.write("secret", "from the file")
    place.write(".env", "CANVAS_API_CLIENT_SECRET_FILE=secret\nCANVAS_API_CLIENT_ID=id\n")
    loaded = place.load()
    assert (loaded.settings.client_secret, loaded.settings.client_secret_file) == ("s3cret-value", None)
    place.write(".env", "CANVAS_API_CLIENT_SECRET=from .env\n")
    place.without("CANVAS_API_CLIENT_SECRET")
    assert place.load(CANVAS_API_CLIENT_SECRET_FILE="secret").settings.client_secret == "from the file"


def test_the_secret_is_not_in_the_settings_repr(place: Place) -> None:
    assert "s3cret-value" not in repr(place.load())


@pytest.mark.parametrize("flag", ["--client-secret", "--client-secret-file", "--client-secre"])
def test_a_secret_has_no_flag(place: Place, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        place.load(f"{flag}=x")
    assert "unrecognized arguments" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--base-url", "--token-url", "--allowed-origins", "--scope"])
def test_a_url_with_a_password_is_not_taken_from_a_flag(place: Place, flag: str) -> None:
    problem = place.problem(f"{flag}=https://user:hunter2@fumage-x.example")
    assert problem.startswith(f"flag {flag}: the URL carries a password")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url", ["redis://h/0?password=hunter2", "redis:/u:hunter2@h", "u:hunter2@h", "unix:/r?password=hunter2"]
)
def test_neither_is_one_in_its_query_or_of_a_url_that_is_badly_written(place: Place, url: str) -> None:
    place.env["FUMAGE_PROXY_TOKEN_STORE_KEY"] = KEY
    problem = place.problem("--token-store", url)
    assert problem.startswith("flag --token-store: the URL carries a password")
    assert "hunter2" not in problem
    assert "hunter2" not in describe(place.load(FUMAGE_PROXY_TOKEN_STORE=url))


def test_an_id_that_resembles_a_url_may_be_a_flag(place: Place) -> None:
    assert place.load("--client-id=app:one@clinic").settings.client_id == "app:one@clinic"


# What keys ask of each other


def test_a_base_url_that_derives_no_emr_needs_a_token_url(place: Place) -> None:
    problem = place.problem(FUMAGE_BASE_URL="https://fhir.example")
    assert "does not begin with fumage-" in problem
    assert "FUMAGE_PROXY_TOKEN_URL" in problem
    place.load(
        FUMAGE_BASE_URL="https://fhir.example", FUMAGE_PROXY_TOKEN_URL="https://emr.example/auth/token/"
    )


def test_a_wrong_base_url_is_one_problem_not_two(place: Place) -> None:
    assert "http is accepted" in place.problem(FUMAGE_BASE_URL="http://fhir.example")


@pytest.mark.parametrize(
    "listen", [":3447", "0.0.0.0:3447", "[::]:3447", "10.0.0.1:1", "proxy.internal:1", "127.1:1"]
)
def test_listening_for_other_hosts_has_to_be_meant(place: Place, listen: str) -> None:
    problem = place.problem("--listen", listen)
    assert problem.startswith(f"flag --listen: {listen} can be reached from other hosts")
    assert "FUMAGE_PROXY_UNSAFE_LISTEN" in problem
    place.load("--listen", listen, "--unsafe-listen")
    place.load("--admin-listen", listen, "--listen", ":0", FUMAGE_PROXY_UNSAFE_LISTEN="yes")


@pytest.mark.parametrize("listen", ["localhost:1", "127.0.0.9:1", "[::1]:0", "unix:/run/x,mode=0666"])
def test_loopback_and_unix_sockets_are_always_fine(place: Place, listen: str) -> None:
    place.load("--listen", listen, "--unsafe-listen=false")


def test_one_address_is_not_listened_on_twice(place: Place) -> None:
    problem = place.problem("--listen=:1,localhost:2", "--admin-listen=:1", "--unsafe-listen")
    assert problem == "flag --admin-listen: :1 is in listen too"
    place.load("--listen=localhost:0", "--admin-listen=localhost:0")


def test_a_client_key_alone_is_of_no_use(place: Place) -> None:
    path = place.write("key.pem", "")
    assert "without client_cert" in place.problem("--client-key", str(path))
    place.load("--client-cert", str(path))


def test_all_that_is_wrong_with_allow_is_told_with_the_other_problems(place: Place) -> None:
    place.without("CANVAS_API_CLIENT_ID")
    problems = place.problems("--allow", "patient/Observation.rs Pateint.rs", "--links=bundel")
    assert len(problems) == 3
    for told in (
        "flag --allow: patient/Observation.rs: write Observation.rs",
        "; Pateint.rs: Pateint is no FHIR resource type (did you mean Patient?)",
        'flag --links: "bundel" is none of off, location, bundle, all',
        "client_id is missing",
    ):
        assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize(
    "text", ["location,absolute", "off,absolute", "bundle,", "all,relative", "bundle,absolute,all"]
)
def test_absolute_belongs_to_links_in_bodies(place: Place, text: str) -> None:
    assert place.problem("--links", text).endswith("only bundle,absolute and all,absolute have a comma")


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--drain-delay=0", True),
        ("--drain-timeout=0s", True),
        ("--max-body=0", True),
        ("--replay-limit=0", True),
        ("--connect-timeout=0", False),
        ("--refresh-margin=0s", False),
        ("--max-connections=0", False),
        ("--max-clients=0", False),
        ("--max-head=1023", False),
    ],
)
def test_zero_is_allowed_where_it_means_something(place: Place, flag: str, allowed: bool) -> None:
    if allowed:
        place.load(flag)
    else:
        place.problem(flag)


def test_a_lists_flag_may_be_repeated(place: Place) -> None:
    loaded = place.load("--listen=unix:/a,mode=0660", "--listen", "localhost:1,localhost:2")
    assert loaded.settings.listen == (Unix("/a", 0o660), TCP("localhost", 1), TCP("localhost", 2))


# The admin listener alone


def test_the_admin_listener_is_found_without_credentials_and_beside_other_mistakes(place: Place) -> None:
    place.write("x.toml", 'admin_listen = ":1"\nlisten = "nonsense"\nunknown = 1\n')
    assert place.admin_listen() == (TCP("127.0.0.1", 3448), TCP("::1", 3448))
    assert place.admin_listen("--config=x.toml", FUMAGE_PROXY_TYPO="1") == (TCP("", 1),)
    assert place.admin_listen(FUMAGE_PROXY_CONFIG="x.toml", FUMAGE_PROXY_ADMIN_LISTEN="off") == ()
    place.write(".env", "FUMAGE_PROXY_ADMIN_LISTEN=:2\n")
    assert place.admin_listen("--config=x.toml") == (TCP("", 2),)


def test_a_wrong_admin_listener_is_an_error(place: Place) -> None:
    with pytest.raises(SettingsError, match=r"flag --admin-listen: .*no port"):
        place.admin_listen("--admin-listen=localhost")
    with pytest.raises(SettingsError, match=r"nope\.toml cannot be read"):
        place.admin_listen("--config=nope.toml")


def test_importing_settings_is_cheap() -> None:
    code = "import sys; before = set(sys.modules); import proxy.settings; print(*(set(sys.modules) - before))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}
    run: Any = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    dear = {"asyncio", "aiohttp", "ssl", "dotenv", "tomllib", "difflib", "proxy.rules.headers"}
    assert not dear & set(run.stdout.split())
