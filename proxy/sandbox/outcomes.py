"""Fumage's way of saying no: an OperationOutcome."""

from typing import Any

from aiohttp import web

from . import decimals

MEDIA_TYPE = "application/fhir+json"


class Refused(Exception):
    """Ends a request with a status, a FHIR issue code and a text."""

    def __init__(self, status: int, code: str, text: str):
        super().__init__(text)
        self.status = status
        self.code = code

    def response(self) -> web.Response:
        issue = {"severity": "error", "code": self.code, "details": {"text": str(self)}}
        return fhir({"resourceType": "OperationOutcome", "issue": [issue]}, self.status)


def fhir(resource: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=decimals.dumps(resource), content_type=MEDIA_TYPE, headers=headers
    )


# The texts for 401, 403 and 404 are those that Canvas documents (https://docs.canvasmedical.com/api/errors/).


def unauthenticated() -> Refused:
    # No WWW-Authenticate, although RFC 9110 section 11.6.1 asks for one: Fumage sends none.
    return Refused(401, "unknown", "Authentication failed")


def unauthorized() -> Refused:
    return Refused(403, "forbidden", "Authorization failed")


def unknown(resource_type: str, key: str) -> Refused:
    return Refused(404, "not-found", f"Unknown {resource_type} resource '{key}'")
