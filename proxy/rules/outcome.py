"""The body and fields of an answer that the proxy makes itself."""

import json
import math

from proxy.rules.errors import ProxyError
from proxy.rules.guard import METHODS
from proxy.rules.headers import Fields

# The reason phrases of the proxy's own answers.
REASONS = {
    204: b"No Content",
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    508: b"Loop Detected",
}


def outcome(error: ProxyError, request_id: str) -> bytes:
    """A FHIR OperationOutcome: what happened, whose fault it is, what to do, and the request id.

    https://hl7.org/fhir/R4/operationoutcome.html
    """
    diagnostics = f"{error} Cause: {error.culprit}. What to do: {error.advice} Request id: {request_id}."
    issue = {
        "severity": "error",
        "code": error.issue,
        "details": {"text": str(error)},
        "diagnostics": diagnostics,
    }
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def outcome_fields(error: ProxyError) -> Fields:
    """The fields of that answer that speak of the error."""
    status = f"fumage-proxy; error={error.error}"
    if error.details is not None:
        status += f'; details="{error.details}"'
    fields: Fields = [
        (b"Proxy-Status", status.encode()),
        (b"Content-Type", b"application/fhir+json"),
        (b"Cache-Control", b"no-store"),
    ]
    if error.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % max(1, math.ceil(error.retry_after))))
    if error.status == 405:
        fields.append((b"Allow", METHODS))
    return fields
