"""What the documents and examples say is what the program does."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest

from proxy.settings import load, markdown_table

ROOT = Path(__file__).parent.parent


def test_the_readme_has_the_table_of_settings_as_it_is_generated() -> None:
    readme = (ROOT / "README.md").read_text()
    table = re.search(r"<!-- settings: .*?-->\n(.*?)<!-- /settings -->", readme, re.DOTALL)
    assert table is not None
    assert table[1].strip() == markdown_table().strip(), (
        "put there what python -c 'from proxy.settings import markdown_table; print(markdown_table())' prints"
    )


def test_the_readme_opens_with_the_two_lines() -> None:
    lines = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert lines[0] == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/fumage-proxy demo"
    assert lines[1] == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


def test_the_example_env_file_is_a_working_configuration() -> None:
    args = argparse.Namespace(env_file=str(ROOT / "config" / "example.env"))
    settings = load(args, {}, cwd=ROOT).settings
    assert str(settings.token_url) == "https://example.canvasmedical.com/auth/token/"


def test_the_commented_lines_of_the_example_env_file_are_settings_too(tmp_path: Path) -> None:
    text = (ROOT / "config" / "example.env").read_text()
    secret = tmp_path / "secret"
    secret.write_text("s")
    lines = [
        line.removeprefix("# ").replace("/run/secrets/canvas-client-secret", str(secret))
        for line in text.splitlines()
        if re.match(r"(# )?[A-Z_]+=", line) and not line.startswith("CANVAS_API_CLIENT_SECRET=")
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    settings = load(argparse.Namespace(), {}, cwd=tmp_path).settings
    assert settings.client_secret == "s"
    assert settings.log_level == "warning"


def test_the_example_toml_file_is_a_working_configuration(tmp_path: Path) -> None:
    text = (ROOT / "config" / "example.toml").read_text()
    secret = tmp_path / "secret"
    secret.write_text("s\n")
    (tmp_path / "example.toml").write_text(text.replace("/run/secrets/canvas-client-secret", str(secret)))
    loaded = load(argparse.Namespace(config="example.toml"), {}, cwd=tmp_path)
    assert loaded.settings.client_secret == "s"
    assert loaded.settings.response_timeout == 60


def test_the_lock_file_names_no_host_and_pins_everything_that_runs() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    runs = lock.split("# Tests and checks", maxsplit=1)[0]
    pinned = set(re.findall(r"^([a-z0-9-]+)==", runs, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[a-z0-9-]+", each)[0] for each in project["dependencies"]}  # type: ignore[index]
    assert needed <= pinned


def test_the_image_installs_nothing_that_the_lock_file_does_not_pin() -> None:
    steps = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for install in re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", steps):
        assert "--require-hashes" in install or "--no-deps" in install, install
        assert "--no-build-isolation" in install or " wheel " not in install, install
    lock = (ROOT / "requirements.lock").read_text()
    for marker in re.findall(r"/\^(# [A-Z][a-z ]+)/", steps):
        assert lock.count(f"\n{marker}") == 1
    built_with = lock.split("# Builds the wheel", maxsplit=1)[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mypy, setuptools = project["build-system"]["requires"]
    assert f"\n{mypy} " in built_with
    assert mypy in project["project"]["optional-dependencies"]["lint"]
    assert f"\n{setuptools.split('>=')[0]}==" in built_with


def test_no_line_of_the_readme_writes_over_an_env_file() -> None:
    assert "> .env" not in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "document", ["README.md", "config/systemd/fumage-proxy.service", "proxy/token/extra.py"]
)
def test_nobody_is_told_to_install_it_by_a_name_that_was_not_published(document: str) -> None:
    assert not re.search(r"pip install ['\"]?fumage-proxy", (ROOT / document).read_text())


@pytest.mark.parametrize("package", sorted(p.parent for p in (ROOT / "proxy").rglob("__init__.py")))
def test_every_package_is_installed(package: Path) -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert ".".join(package.relative_to(ROOT).parts) in tool["packages"]
