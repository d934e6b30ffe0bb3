"""The resource types that the sandbox offers: what may be done with them, and how they are searched."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Resource = dict[str, Any]
Matcher = Callable[[Resource, str], bool]


def at(resource: Any, path: str) -> Iterator[Any]:
    """The values at a dotted path; lists on the way are walked through."""
    if isinstance(resource, list):
        for item in resource:
            yield from at(item, path)
    elif not path:
        yield resource
    elif isinstance(resource, dict):
        name, _, rest = path.partition(".")
        if name in resource:
            yield from at(resource[name], rest)


def _text(*paths: str) -> Matcher:
    # FHIR's string search: any part of the name that begins with the value, case aside.
    def matches(resource: Resource, wanted: str) -> bool:
        return any(
            str(value).casefold().startswith(wanted.casefold())
            for path in paths
            for value in at(resource, path)
        )

    return matches


def _code(path: str) -> Matcher:
    def matches(resource: Resource, wanted: str) -> bool:
        system, bar, code = wanted.rpartition("|")
        for value in at(resource, path):
            found = value if isinstance(value, dict) else {"code": value}
            right_code = not code or code == found.get("code", found.get("value"))
            if right_code and (not bar or system == found.get("system", "")):
                return True
        return False

    return matches


def _reference(path: str, resource_type: str) -> Matcher:
    def matches(resource: Resource, wanted: str) -> bool:
        full = wanted if "/" in wanted else f"{resource_type}/{wanted}"
        return full in at(resource, f"{path}.reference")

    return matches


def _date(path: str) -> Matcher:
    def matches(resource: Resource, wanted: str) -> bool:
        prefix, day = (wanted[:2], wanted[2:]) if wanted[:2].isalpha() else ("eq", wanted)
        # ISO 8601 sorts as text, once both have the precision of what is wanted.
        return any(
            _COMPARED[prefix](str(value)[: len(day)], day)
            for value in at(resource, path)
            if prefix in _COMPARED
        )

    return matches


_COMPARED: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda found, wanted: found == wanted,
    "ne": lambda found, wanted: found != wanted,
    "gt": lambda found, wanted: found > wanted,
    "ge": lambda found, wanted: found >= wanted,
    "lt": lambda found, wanted: found < wanted,
    "le": lambda found, wanted: found <= wanted,
}


@dataclass(frozen=True)
class Kind:
    """One resource type."""

    interactions: str  # letters of SMART v2; what Canvas does not offer for a type is not offered here
    location: str  # how a create names the new resource: "http", "https", or "path" alone
    required: tuple[str, ...]  # elements; of Canvas's required extensions none is asked for
    search: dict[str, Matcher]
    patient: str | None = None  # where the patient's reference is


_PATIENT, _SUBJECT = _reference("participant.actor", "Patient"), _reference("subject", "Patient")

KINDS: dict[str, Kind] = {
    "Patient": Kind(
        "crus",
        "path",
        ("name", "gender", "birthDate"),
        {
            "name": _text("name.family", "name.given", "name.text"),
            "family": _text("name.family"),
            "given": _text("name.given"),
            "birthdate": _date("birthDate"),
            "birthDate": _date("birthDate"),  # as Canvas's documentation spells it
            "gender": _code("gender"),
            "identifier": _code("identifier"),
            "email": _code("telecom"),
            "phone": _code("telecom"),
        },
    ),
    "Practitioner": Kind("rs", "http", (), {"name": _text("name.family", "name.given", "name.text")}),
    "Appointment": Kind(
        "crus",
        "https",
        ("status", "start", "end", "participant"),
        {
            "patient": _PATIENT,
            "practitioner": _reference("participant.actor", "Practitioner"),
            "date": _date("start"),
            "status": _code("status"),
        },
        patient="participant.actor",
    ),
    "Observation": Kind(
        "crs",
        "http",
        ("status", "code", "subject"),
        {
            "patient": _SUBJECT,
            "subject": _SUBJECT,
            "category": _code("category.coding"),
            "code": _code("code.coding"),
            "date": _date("effectiveDateTime"),
            "status": _code("status"),
        },
        patient="subject",
    ),
    "DocumentReference": Kind(
        "crs",
        "https",
        ("status", "type", "subject", "content"),
        {
            "patient": _SUBJECT,
            "subject": _SUBJECT,
            "category": _code("category.coding"),
            "type": _code("type.coding"),
            "date": _date("date"),
            "status": _code("status"),
        },
        patient="subject",
    ),
    "DiagnosticReport": Kind(
        "rs",
        "http",
        ("status", "code", "subject"),
        {
            "patient": _SUBJECT,
            "category": _code("category.coding"),
            "code": _code("code.coding"),
            "date": _date("effectiveDateTime"),
            "status": _code("status"),
        },
        patient="subject",
    ),
    "Task": Kind(
        "crus",
        "http",
        ("status", "intent", "description", "requester"),
        {
            "patient": _reference("for", "Patient"),
            "owner": _reference("owner", "Practitioner"),
            "requester": _reference("requester", "Practitioner"),
            "status": _code("status"),
        },
        patient="for",
    ),
}
SEARCH_COMMON: dict[str, Matcher] = {"_id": _code("id")}


def patient_of(resource: Resource) -> str | None:
    """The id of the patient whom a resource is about; of a Patient, its own."""
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    path = KINDS[resource["resourceType"]].patient
    for reference in at(resource, f"{path}.reference") if path else ():
        resource_type, _, name = str(reference).partition("/")
        if resource_type == "Patient":
            return name
    return None


def fault_in(resource: Any, resource_type: str) -> tuple[str, str] | None:
    """Why Canvas would not take a resource of this type: an issue code and a text. None if it would."""
    if not isinstance(resource, dict) or resource.get("resourceType") != resource_type:
        return "invalid", f"The body is not a {resource_type} resource."
    for name in KINDS[resource_type].required:
        if resource.get(name) in (None, "", [], {}):
            return "required", f"{resource_type}.{name} is required."
    if any(value == "" for value in _leaves(resource)):
        return "value", "Strings must not be empty."  # https://hl7.org/fhir/R4/datatypes.html#string
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value
