"""What a step found, and the line that tells it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TextIO

OK, FAILED, UNREACHABLE, REFUSED = 0, 1, 69, 77  # exit codes (sysexits.h)


class Mark(IntEnum):
    """How a step went; of several findings the highest is the step's."""

    SKIPPED = 0
    GOOD = 1
    WARNING = 2
    BAD = 3


_SIGNS = {Mark.GOOD: "✓", Mark.BAD: "✗", Mark.SKIPPED: "-", Mark.WARNING: "!"}
_PLAIN = {Mark.GOOD: "[ok]  ", Mark.BAD: "[FAIL]", Mark.SKIPPED: "[skip]", Mark.WARNING: "[warn]"}


@dataclass(frozen=True)
class Finding:
    """`text` has no full stop, `advice` is whole sentences; neither holds a secret, or PHI."""

    mark: Mark
    text: str
    advice: str = ""
    code: int = OK

    @property
    def bad(self) -> bool:
        return self.mark is Mark.BAD


def good(text: str) -> Finding:
    return Finding(Mark.GOOD, text)


def warning(text: str, advice: str) -> Finding:
    return Finding(Mark.WARNING, text, advice)


def skipped(reason: str) -> Finding:
    return Finding(Mark.SKIPPED, f"skipped: {reason}")


def bad(code: int, text: str, advice: str) -> Finding:
    return Finding(Mark.BAD, text, advice, code)


class Report:
    """Writes each line as soon as its step is over. `code` is what the first failure asks for, or 0."""

    def __init__(self, out: TextIO):
        self.code = OK
        self._out = out
        self._encoding = out.encoding or "utf-8"  # None of a StringIO, which takes anything
        self._signs = _SIGNS if self._can("".join(_SIGNS.values())) else _PLAIN

    def tell(self, step: str, *findings: Finding) -> None:
        """One line, whatever the number of findings."""
        findings = tuple(sorted(findings, key=lambda finding: -finding.mark))
        mark = findings[0].mark
        self.code = self.code or next((finding.code for finding in findings if finding.bad), OK)
        line = f"{self._signs[mark]} {step}: {_joined('; ', (finding.text for finding in findings))}"
        if advice := _joined(" ", (finding.advice for finding in findings)):
            line += f". {advice}"
        # A file's name may hold what this stdout cannot show.
        line = line.encode(self._encoding, "backslashreplace").decode(self._encoding)
        print(line, file=self._out, flush=True)

    def _can(self, text: str) -> bool:
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return False
        return True


def _joined(separator: str, texts: Iterable[str]) -> str:
    # What holds for both hosts is said once.
    return separator.join(dict.fromkeys(text for text in texts if text))
