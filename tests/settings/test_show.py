import dataclasses

from proxy.settings import KEYS, Settings, defaults, describe, given, markdown_table, told
from tests.settings.conftest import Place


def test_the_description_has_a_line_a_key_with_its_source(place: Place) -> None:
    place.write("x.toml", "drain_delay = 0.25\nmax_body = 1048576\n")
    text = describe(place.load("--listen=unix:/a,mode=0660", "--admin-listen=off", "--config=x.toml"))
    lines = text.splitlines()
    assert [line.split(" = ")[0] for line in lines] == list(KEYS)
    for line in (
        "base_url = https://fumage-example.canvasmedical.com  (environment FUMAGE_BASE_URL)",
        "client_secret = ********  (environment CANVAS_API_CLIENT_SECRET)",
        "token_url = https://example.canvasmedical.com/auth/token/  (derived from base_url)",
        "scope =   (not set)",
        "listen = unix:/a,mode=0660  (flag --listen)",
        "admin_listen = off  (flag --admin-listen)",
        "unsafe_listen = false  (default)",
        "allowed_origins =   (not set)",
        "drain_delay = 250ms  (TOML file x.toml)",
        "upstream_max_age = 5m  (default)",
        "max_body = 1MiB  (TOML file x.toml)",
    ):
        assert line in lines


def test_the_description_shows_no_secret(place: Place) -> None:
    assert "s3cret" not in describe(place.load())


def test_what_is_logged_has_no_id_of_a_patient(place: Place) -> None:
    loaded = place.load("--patient=b9f82cd0", "--scope=patient/*.read")
    assert "patient = b9f82cd0  (flag --patient)" in describe(loaded)
    assert "b9f82cd0" not in given(loaded) + told(loaded, KEYS)
    assert "patient = ******** (flag --patient)" in given(loaded)


def test_what_was_given_and_what_was_not_are_told_on_a_line_each(place: Place) -> None:
    store = "redis://user:hush@redis.example/0"
    loaded = place.load(
        "--max-body=1024", FUMAGE_PROXY_TOKEN_STORE=store, FUMAGE_PROXY_TOKEN_STORE_KEY="k" * 32
    )
    assert given(loaded) == (
        "base_url = https://fumage-example.canvasmedical.com (environment FUMAGE_BASE_URL); "
        "client_id = id (environment CANVAS_API_CLIENT_ID); "
        "client_secret = ******** (environment CANVAS_API_CLIENT_SECRET); "
        "token_url = https://example.canvasmedical.com/auth/token/ (derived from base_url); "
        "max_body = 1KiB (flag --max-body); "
        "token_store = redis://user:********@redis.example/0 (environment FUMAGE_PROXY_TOKEN_STORE); "
        "token_store_key = ******** (environment FUMAGE_PROXY_TOKEN_STORE_KEY)"
    )
    rest = defaults(loaded).split("; ")
    assert "listen = 127.0.0.1:3447,[::1]:3447" in rest
    assert not [line for line in rest if line.startswith(("max_body", "scope", "client_id"))]
    assert len(rest) + given(loaded).count("; ") + 1 == sum(
        getattr(loaded.settings, name) not in (None, ()) for name in KEYS
    )
    assert told(loaded, ["max_body", "client_secret"]) == (
        "client_secret = ******** (environment CANVAS_API_CLIENT_SECRET); max_body = 1KiB (flag --max-body)"
    )


def test_the_table_has_a_row_a_key() -> None:
    rows = [
        [cell.strip() for cell in row.strip("|").split(" | ")] for row in markdown_table().splitlines()[2:]
    ]
    assert [row[0] for row in rows] == [key.name for key in KEYS.values()]
    assert all(len(row) == 4 for row in rows)
    assert rows[0][:3] == ["base_url", "`FUMAGE_BASE_URL`", "required"]
    assert ["connect_timeout", "`FUMAGE_PROXY_CONNECT_TIMEOUT`", "`10s`"] in [row[:3] for row in rows]


def test_every_default_is_valid_and_shown_as_it_is_written() -> None:
    for field in dataclasses.fields(Settings):
        key = KEYS[field.name]
        if key.default is not None:
            assert key.kind.show(key.kind.parse(key.default)) == key.default
