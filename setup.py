"""The wheel's build: mypyc compiles the data path where there is a C compiler. pyproject.toml has the rest.

Without one, or without Python's headers, the wheel holds the same code as Python alone, which takes a third
more CPU for a GET. An editable installation is never compiled: its modules would hide what is edited.
"""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# What runs for every request. No `await` may stand in an `except` or `finally` here, nor `async with`: mypyc
# 2.4 mixes up the exceptions that are being handled then (tests/test_compiled.py sees to it).
DATA_PATH = {
    "proxy/forward": "answer callers deadlines delivery exchange inbound outbound pool reader replay request "
    "strand tls",
    "proxy/rules": "fhir guard headers",
    "proxy/token": "answer held source",
    "proxy/watch": "batch log metrics recent record",
}


class OptionalBuild(build_ext):
    """Does without the modules that cannot be compiled here."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            self.warn(f"The data path stays Python, for it cannot be compiled here: {error}")
            for path in self.get_outputs():
                Path(path).unlink(missing_ok=True)
            self.extensions = []


def _compiled() -> list[Extension]:
    from mypyc.build import mypycify

    sources = [f"{folder}/{name}.py" for folder, names in DATA_PATH.items() for name in names.split()]
    options = ["--config-file=", "--ignore-missing-imports"]
    return mypycify([*options, *sources], opt_level="3", debug_level="0", group_name="fumage_proxy")


if __name__ == "__main__":
    setup(
        ext_modules=_compiled() if "bdist_wheel" in sys.argv else [],
        cmdclass={"build_ext": OptionalBuild},
    )
