"""Whether a party does its job: injects the token, and changes no byte."""

import http.client
import json

from tests.bench.upstream import BODY, MEGABYTE

PATIENT = "/Patient/5deece66-d000-4000-8000-000000000000"
_OBSERVATION = json.dumps({"resourceType": "Observation", "note": "z" * 2000}).encode()

# What is asked, and what has to come back. The upstream answers nothing of it without the right bearer.
_QUESTIONS: tuple[tuple[str, str, bytes | None, int, bytes], ...] = (
    ("GET", PATIENT, None, 200, BODY),
    ("GET", "/megabyte", None, 200, MEGABYTE),
    ("POST", "/echo", _OBSERVATION, 200, _OBSERVATION),
    ("POST", "/Observation", _OBSERVATION, 201, b""),
)


class WrongAnswer(Exception):
    """What was asked, and what came back instead."""


def verify(port: int) -> None:
    """Ask a party everything. Raises WrongAnswer."""
    for method, path, body, status, expected in _QUESTIONS:
        got = _ask(port, method, path, body)
        if got != (status, expected):
            raise WrongAnswer(f"{method} {path}: {got[0]} with {len(got[1])} bytes: {got[1][:80]!r}")


def verify_upstream(port: int) -> None:
    """The upstream has to refuse who brings no bearer. Raises WrongAnswer."""
    for method, path, body, _, _ in _QUESTIONS:
        status, _ = _ask(port, method, path, body)
        if status != 401:
            raise WrongAnswer(f"{method} {path} without a bearer: {status}")


def _ask(port: int, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/fhir+json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise WrongAnswer(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()
