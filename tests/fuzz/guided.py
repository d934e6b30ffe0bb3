"""The same checks, led by coverage: `python -m tests.fuzz.guided callers --seconds 300`, or `fumage`.

Needs atheris (`pip install atheris`; Linux), which CI does without: its tests run on Hypothesis. What it
keeps lies in a folder, and the next run begins there. A finding is printed, and becomes a case.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["proxy.forward", "proxy.rules"]):
    from tests.fuzz import test_callers, test_fumage

_LONGEST = 2000  # bytes of a message


def _cuts(how: int) -> list[float]:
    """Up to seven cuts, at equal distances."""
    return [at / (how % 8 + 1) for at in range(1, how % 8 + 1)]


def callers(drawn: bytes) -> None:
    if data := drawn[1:]:
        test_callers.check_cuts(data, _cuts(drawn[0]))
        test_callers.check_against_h11(data)


def fumage(drawn: bytes) -> None:
    if data := drawn[1:]:
        how = drawn[0]
        test_fumage.check_cuts(data, _cuts(how), head_only=bool(how & 8), fin=bool(how & 16))
        test_fumage.check_against_h11(data, head_only=bool(how & 8))


SIDES: dict[str, tuple[Callable[[bytes], None], Any]] = {
    "callers": (callers, test_callers),
    "fumage": (fumage, test_fumage),
}


def _prepare(folder: Path, messages: list[bytes], words: list[bytes]) -> None:
    """A corpus to begin with, and a dictionary."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, message in enumerate(messages):
        (corpus / f"seed-{number}").write_bytes(bytes([number % 32]) + message)
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in words if len(word) < 64]
    (folder / "words").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fumage-proxy-fuzz")
    given = parser.parse_args()
    check, side = SIDES[given.side]
    folder: Path = given.folder / given.side
    _prepare(folder, [*side.GOOD, *side.BAD], side.WORDS)
    options = {
        "-dict": folder / "words",
        "-artifact_prefix": f"{folder}/found-",
        "-max_total_time": given.seconds,
        "-max_len": _LONGEST,
        "-print_final_stats": 1,
    }
    atheris.Setup(
        [sys.argv[0], *(f"{name}={value}" for name, value in options.items()), str(folder / "corpus")], check
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
