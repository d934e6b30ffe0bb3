import dataclasses

from proxy.settings import KEYS, Settings, describe, markdown_table
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
