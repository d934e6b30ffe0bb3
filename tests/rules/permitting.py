"""What tests of `allow` ask, and what is said to it."""

import json
from collections.abc import Callable

from proxy.rules.errors import CallerRefused
from proxy.rules.permissions import Permissions

FORM = b"application/x-www-form-urlencoded"
JSON = b"application/fhir+json"
LETTERS = "cruds"


def verdict(allow: str, method: str, target: str, **noted: str) -> str:
    """What is said against the request, empty if nothing is."""
    fields = {name.replace("_", "-").encode(): value.encode() for name, value in noted.items()}
    return said(lambda: Permissions.parse(allow).check(method.encode(), target.encode("latin-1"), fields))


def said(check: Callable[[], None]) -> str:
    try:
        check()
    except CallerRefused as error:
        return str(error)
    return ""


def bundle(*entries: object, **more: object) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": "batch", "entry": list(entries), **more}).encode()


def ask(method: str, url: str, resource: object = None, **more: str) -> dict[str, object]:
    entry: dict[str, object] = {"request": {"method": method, "url": url, **more}}
    return entry if resource is None else {**entry, "resource": resource}


def on_bundle(allow: str, body: bytes) -> str:
    return said(lambda: Permissions.parse(allow).check_bundle(body))
