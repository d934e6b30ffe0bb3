"""The product as its users have it: a wheel, whose data path is compiled where there is a C compiler."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.machine import ROOT

_LIKE_PYTHON = """#!/bin/sh
PYTHONSAFEPATH=1 PYTHONPATH='{site}:{root}' exec '{python}' "$@"
"""


@contextmanager
def installed(python: str) -> Iterator[str]:
    """Build and install the product for that interpreter, which has its dependencies already; a command that
    runs the interpreter with it, and not with the checkout's files."""
    with tempfile.TemporaryDirectory() as folder:
        site, command = Path(folder, "site"), Path(folder, "python")
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        subprocess.run([*pip, "--target", str(site), str(ROOT)], check=True)
        command.write_text(_LIKE_PYTHON.format(site=site, root=ROOT, python=python))
        command.chmod(0o755)
        yield str(command)
