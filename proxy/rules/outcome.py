"""The body and fields of an answer that the proxy makes itself."""

import json
import math

from proxy.rules.errors import ProxyError
from proxy.rules.guard import METHODS

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


def outcome_lines(error: ProxyError) -> list[bytes]:
    """The fields of that answer that speak of the error; pieces of lines."""
    status = f"Proxy-Status: fumage-proxy; error={error.error}"
    if error.details is not None:
        status += f'; details="{error.details}"'
    lines = [status.encode(), b"\r\nContent-Type: application/fhir+json\r\nCache-Control: no-store\r\n"]
    if error.retry_after is not None:
        lines.append(b"Retry-After: %d\r\n" % max(1, math.ceil(error.retry_after)))
    if error.status == 405:
        lines += (b"Allow: ", METHODS, b"\r\n")
    return lines
