"""What the wheel's build compiles is the same program: mypyc is kept from what it gets wrong."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _compiled() -> list[str]:
    """The paths in setup.py, which cannot be imported where there are no setuptools."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "DATA_PATH":
            folders = ast.literal_eval(statement.value)
            return [f"{folder}/{name}.py" for folder, names in folders.items() for name in names.split()]
    raise AssertionError("setup.py has no DATA_PATH")


def _waits(statements: list[ast.stmt]) -> Iterator[int]:
    for statement in statements:
        for node in ast.walk(statement):
            if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom):
                yield node.lineno


def _waits_while_handling(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncWith | ast.AsyncFor):
            yield node.lineno
        elif isinstance(node, ast.Try):
            for handler in node.handlers:
                yield from _waits(handler.body)
            yield from _waits(node.finalbody)


@pytest.mark.parametrize("path", _compiled())
def test_what_is_compiled_never_waits_while_it_handles_an_exception(path: str) -> None:
    assert list(_waits_while_handling(ast.parse((ROOT / path).read_text()))) == []


def test_a_wait_in_a_handler_would_be_seen() -> None:
    code = """async def f():
    try:
        await a()
    except E:
        await b()
    finally:
        if x:
            await c()
    async with d: pass
"""
    assert sorted(_waits_while_handling(ast.parse(code))) == [5, 8, 9]
