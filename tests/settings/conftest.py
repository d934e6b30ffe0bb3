import argparse
from pathlib import Path

import pytest

from proxy.settings import Address, Loaded, Rule, SettingsError, add_arguments, load, load_admin_listen

REQUIRED = {
    "FUMAGE_BASE_URL": "https://fumage-example.canvasmedical.com",
    "CANVAS_API_CLIENT_ID": "id",
    "CANVAS_API_CLIENT_SECRET": "s3cret-value",
}


class Place:
    """A working directory with its files, an environment with the required three, and a command line."""

    def __init__(self, cwd: Path):
        self.cwd = cwd
        self.env = dict(REQUIRED)
        self.rules: tuple[Rule, ...] = ()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.cwd / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def without(self, *names: str) -> "Place":
        for name in names:
            del self.env[name]
        return self

    def load(self, *flags: str, **env: str) -> Loaded:
        return load(_parse(flags), self.env | env, cwd=self.cwd, rules=self.rules)

    def problems(self, *flags: str, **env: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            self.load(*flags, **env)
        assert str(caught.value) == "\n".join(caught.value.problems)
        return caught.value.problems

    def problem(self, *flags: str, **env: str) -> str:
        problems = self.problems(*flags, **env)
        assert len(problems) == 1, problems
        return problems[0]

    def admin_listen(self, *flags: str, **env: str) -> tuple[Address, ...]:
        return load_admin_listen(_parse(flags), env, cwd=self.cwd)


def _parse(flags: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(flags)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
