"""What new settings change in a running proxy."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.settings import CREDENTIALS, KEYS, LIVE, compare
from tests.settings.conftest import Place

OTHER = object()  # equal to no value


def test_the_same_settings_change_nothing(place: Place) -> None:
    running = place.load().settings
    change = compare(running, place.load().settings)
    assert (change.settings, change.live, change.restart) == (running, (), ())


@pytest.mark.parametrize("key", KEYS)
def test_each_key_either_changes_or_needs_a_restart(place: Place, key: str) -> None:
    running = place.load().settings
    change = compare(running, replace(running, **{key: OTHER}))
    assert change.live + change.restart == (key,)
    assert bool(change.live) is (key in LIVE)
    assert (getattr(change.settings, key) is OTHER) is (key in LIVE)


def test_keys_are_told_in_the_order_of_the_table(place: Place) -> None:
    running = place.load().settings
    change = compare(running, replace(running, **dict.fromkeys(KEYS, OTHER)))
    order = list(KEYS)
    for names in (change.live, change.restart):
        assert sorted(names, key=order.index) == list(names)


@pytest.mark.parametrize("where", ["base_url", "token_url"])
def test_credentials_wait_for_the_restart_that_leads_to_their_emr(place: Place, where: str) -> None:
    running = place.load().settings
    change = compare(running, replace(running, **{where: OTHER, "client_secret": "new", "allow": "*.rs"}))
    assert change.live == ("allow",)
    assert set(change.restart) == {where, "client_secret"}
    assert change.settings == replace(running, allow="*.rs")
    assert CREDENTIALS < LIVE


def test_the_files_that_were_read_are_known(place: Place) -> None:
    secret = place.write("secret", "hush")
    config = place.write("x.toml", "")
    loaded = place.load(
        "--config=x.toml", CANVAS_API_CLIENT_SECRET="", CANVAS_API_CLIENT_SECRET_FILE="secret"
    )
    assert loaded.files == (place.cwd / ".env", config, secret)
    env_file = place.write("other.env", "FUMAGE_PROXY_CONFIG=x.toml\n")
    assert place.load("--env-file=other.env").files == (env_file, config)


def test_the_readme_names_what_can_change() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r"^### While it runs\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert found
    named = re.findall(r"`([a-z]+_?[a-z_]*)`", "".join(re.findall(r"^(?:- |  ).*$", found[1], re.MULTILINE)))
    assert sorted(named) == sorted(LIVE)
