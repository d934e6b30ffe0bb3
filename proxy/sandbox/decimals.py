"""JSON whose decimals keep their digits: FHIR gives `1.00` a meaning that `1.0` does not have
(https://hl7.org/fhir/R4/datatypes.html#decimal)."""

import json
import re
from typing import Any

# json has no hook for writing numbers digit by digit. So a decimal travels as a string that starts with NUL,
# which FHIR forbids in strings, and loses its quotes when it is written.
_MARK = "\0"
_MARKED = re.compile(r'"\\u0000(-?[0-9][0-9.eE+-]*)"')


def decimal(digits: str) -> str:
    """A number that is written with exactly these digits."""
    return _MARK + digits


def loads(data: bytes) -> Any:
    """Raises ValueError for what is not JSON in UTF-8."""
    return json.loads(data.decode(), parse_float=decimal, parse_constant=_refuse)


def dumps(value: Any) -> bytes:
    return _MARKED.sub(r"\1", json.dumps(value, ensure_ascii=True, separators=(",", ":"))).encode()


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")
