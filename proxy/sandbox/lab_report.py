"""`DiagnosticReport/$create-lab-report`: https://docs.canvasmedical.com/api/diagnosticreport-operations/"""

from collections.abc import Iterator
from typing import Any

from .decimals import decimal
from .kinds import Resource, at
from .outcomes import Refused

_LABORATORY = {
    "system": "http://terminology.hl7.org/CodeSystem/observation-category",
    "code": "laboratory",
    "display": "Laboratory",
}


def read_lab_report(parameters: Any) -> tuple[Resource, list[Resource]]:
    """The report and its values, as resources to be created. The tests that group the values are dropped
    (they cannot be read in Canvas either), and so is the report's file."""
    if not isinstance(parameters, dict) or parameters.get("resourceType") != "Parameters":
        raise Refused(422, "invalid", "The body is not a Parameters resource.")
    report = next(_resources(at(parameters, "parameter"), "labReport"), None)
    if report is None:
        raise Refused(422, "required", "The parameter labReport with a DiagnosticReport is required.")
    collections = (item for item in at(parameters, "parameter") if _named(item, "labTestCollection"))
    values = _resources((part for item in collections for part in at(item, "part")), "labValue")
    subject = report.get("subject")
    kept = {name: value for name, value in report.items() if name not in ("id", "presentedForm")}
    return kept, [_completed(value, subject) for value in values]


def _named(item: Any, name: str) -> bool:
    return isinstance(item, dict) and item.get("name") == name


def _resources(items: Iterator[Any], name: str) -> Iterator[Resource]:
    return (
        item["resource"] for item in items if _named(item, name) and isinstance(item.get("resource"), dict)
    )


def _completed(value: Resource, subject: Any) -> Resource:
    # Canvas's examples give numbers as strings here; where they are read, they have to be numbers.
    numbered: Resource = _with_numbers(value)
    return {**numbered, "category": [{"coding": [_LABORATORY]}], "subject": subject}


def _with_numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _number(item) if name == "value" and isinstance(item, str) else _with_numbers(item)
        for name, item in value.items()
    }


def _number(text: str) -> str:
    digits = text.removeprefix("-").replace(".", "", 1)
    return decimal(text) if digits.isascii() and digits.isdigit() and text[-1].isdigit() else text
