"""The house has floors, and imports go downwards only (DESIGN; CONTRIBUTING has the picture)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "proxy"
FLOORS: tuple[tuple[str, ...], ...] = (
    ("clock", "loop", "notify", "rules", "sandbox", "tasks"),
    ("settings",),  # which checks `allow` by the rule that reads it
    ("listen", "network", "parts"),
    ("watch",),  # records are told in the words of rules
    ("token",),
    ("admin", "check"),
    ("forward",),
    ("app",),
    ("run",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
KNOW_SETTINGS = {"listen", "network", "parts", "check", "app", "run", "cli"}  # listen: forms of addresses
ALONE = ("sandbox", "rules", "clock", "loop", "notify", "tasks")  # import no other room
EVENT_LOOP = ("asyncio", "aiohttp", "http.client")  # not for what `fumage-proxy health` imports

FILES = sorted(HOUSE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Absolute names of what the file imports, wherever in it."""
    package = ("proxy", *path.relative_to(HOUSE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*up, *((node.module,) if node.module else ())))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_used(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "proxy" and len(parts) > 1} - {
        room(path),
        "__version__",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_a_file_imports_from_below_alone(path: Path) -> None:
    if path == HOUSE / "__init__.py":
        assert not rooms_used(path)
        return
    mine, used = room(path), rooms_used(path)
    assert mine in HEIGHT, f"{mine} has no floor yet"
    assert not used - HEIGHT.keys()
    assert not {other for other in used if HEIGHT[other] >= HEIGHT[mine]}
    assert "settings" not in used or mine in KNOW_SETTINGS
    assert not (mine in ALONE and used)


def test_the_files_of_a_probe_import_no_event_loop() -> None:
    """At least not at once; tests/product looks at the process itself."""
    for path in (
        HOUSE / "admin" / "health.py",
        HOUSE / "admin" / "__init__.py",
        *(HOUSE / "settings").glob("*.py"),
        HOUSE / "rules" / "allow_words.py",
        HOUSE / "rules" / "fhir_lists.py",
        HOUSE / "rules" / "hosts.py",
    ):
        assert not [name for name in imports(path) if name.startswith(EVENT_LOOP)]
