"""The CapabilityStatement."""

from typing import Any

from .data import EPOCH
from .kinds import KINDS, SEARCH_COMMON, Kind
from .scopes import LAB_REPORT

_INTERACTIONS = {"c": "create", "r": "read", "u": "update", "s": "search-type"}
_REFERENCES = {"patient", "subject", "practitioner", "owner", "requester"}
_STRINGS = {"name", "family", "given"}
_DATES = {"birthdate", "birthDate", "date"}


def capability_statement(base_url: str) -> dict[str, Any]:
    """What `GET /metadata` answers, made from the table of resource types."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": EPOCH.isoformat(),
        "kind": "instance",
        "implementation": {
            "description": "The sandbox of fumage-proxy, not a Canvas instance",
            "url": base_url,
        },
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [{"mode": "server", "resource": [_resource(name, KINDS[name]) for name in sorted(KINDS)]}],
    }


def _resource(name: str, kind: Kind) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": name,
        "interaction": [{"code": _INTERACTIONS[letter]} for letter in kind.interactions],
        "searchParam": [
            {"name": param, "type": _type(param)} for param in sorted(kind.search | SEARCH_COMMON)
        ],
    }
    if name == "DiagnosticReport":
        definition = f"https://docs.canvasmedical.com/api/diagnosticreport-operations/#{LAB_REPORT}"
        described["operation"] = [{"name": LAB_REPORT, "definition": definition}]
    return described


def _type(param: str) -> str:
    for fhir_type, params in (("reference", _REFERENCES), ("string", _STRINGS), ("date", _DATES)):
        if param in params:
            return fhir_type
    return "token"
