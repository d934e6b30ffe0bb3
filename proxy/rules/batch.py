"""A batch or transaction Bundle, read to be judged (http://hl7.org/fhir/R4/http.html#transaction).

What two parsers could read differently is refused.
"""

import json
from typing import NamedTuple, NoReturn

from proxy.rules.refusals import unclear


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What may stand in the Bundle, in its entries and in their requests. Not modifierExtension or implicitRules,
# which would change the meaning of what we read.
_BUNDLE = _words("resourceType id meta language identifier type timestamp total link entry signature")
_ENTRY = _words("id extension link fullUrl resource search request response")
_REQUEST = _words("id extension method url ifNoneMatch ifModifiedSince ifMatch ifNoneExist")
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))


class Batch(NamedTuple):
    entries: list[object]  # for `read_entry`, one by one
    references: list[str]  # the conditional ones (`Patient?identifier=…`), wherever they stand


class Entry(NamedTuple):
    """The request that an entry asks for; `condition` is its ifNoneExist."""

    method: str
    path: bytes
    condition: bytes | None


def read_batch(body: bytes) -> Batch:
    """Read the Bundle. Raises CallerRefused."""
    references: list[str] = []

    def read_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
        read = dict(pairs)
        if len(read) != len(pairs):
            raise ValueError("a key comes twice")
        reference = read.get("reference")
        if isinstance(reference, str) and "?" in reference:
            references.append(reference)
        return read

    try:
        bundle = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=read_object,
            parse_int=_ignore,
            parse_float=_ignore,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        raise unclear("The body is no JSON that all read alike") from None
    found = _members(bundle, _BUNDLE)
    if found.get("resourceType") != "Bundle" or found.get("type") not in ("batch", "transaction"):
        raise unclear("The body is no batch or transaction Bundle")
    entries = found.get("entry", [])
    if not isinstance(entries, list):
        raise unclear("The Bundle's entry is no list")
    return Batch(entries, references)


def read_entry(entry: object) -> Entry:
    """Read the entry's request. Raises CallerRefused."""
    request = _members(entry, _ENTRY).get("request")
    asked = _members(request, _REQUEST)
    method, url, condition = asked.get("method"), asked.get("url"), asked.get("ifNoneExist", "")
    if not (isinstance(method, str) and isinstance(url, str) and isinstance(condition, str)):
        raise unclear("It has no request with a method and a url")
    if method not in _METHODS or not url.isascii() or not condition.isascii():
        raise unclear("Its request has a method or a url that FHIR does not know")
    path = b"/" + url.removeprefix("/").encode()
    return Entry(method, path, condition.encode() if "ifNoneExist" in asked else None)


def _members(value: object, known: frozenset[str]) -> dict[str, object]:
    """An object of a Bundle whose every key is known: one in another case might be read as the known one."""
    if not isinstance(value, dict):
        raise unclear("The Bundle has not the form that FHIR gives it")
    if not known.issuperset(value):
        raise unclear("The Bundle has an element that a batch or transaction does not need")
    return value


def _ignore(number: str) -> None:
    """No number is looked at; reading long ones would cost time (and Python refuses some)."""


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")
