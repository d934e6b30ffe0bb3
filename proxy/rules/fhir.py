"""Reads method and request target as a FHIR R4 interaction (http://hl7.org/fhir/R4/http.html).

What comes out consists of words of closed lists and placeholders alone, so that it may be logged and counted:
no id, value or fragment of a path can pass. Nothing is normalised: a target that a server might read as FHIR
only after decoding or cleaning up is `other`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from proxy.rules.fhir_lists import (
    ATTACHMENTS,
    COMPARTMENTS,
    MODIFIERS,
    OPERATIONS,
    PARAMETERS,
    RESOURCE_TYPES,
    WELL_KNOWN,
)

OTHER: Final = "other"

# More would make a log line a place to write in; what follows is one `other`.
MAX_PARAMETERS = 32
MAX_NAME = 255  # bytes of one name, which also bounds the depth of a chain


class Route(NamedTuple):
    """What a request asks for, in words of closed lists."""

    template: str  # `Patient/{id}/_history/{vid}`, `/` for the base itself, `other` if it is no FHIR form
    resource: str  # the type that is read, written or searched; `other` if it is none or all
    interaction: str  # a code of R4's restful-interaction (batch: also transaction), or `other`

    @property
    def is_attachment(self) -> bool:
        """The path is `[type]/{id}/files/…`, Canvas's bytes beside a resource; the method is any."""
        return "/{id}/files/" in self.template


NO_ROUTE: Final = Route(OTHER, OTHER, OTHER)

# Shape of the path -> method -> interaction; a method that is not here is `other`.
# PUT, PATCH and DELETE on a type are the conditional ones (criteria in the query).
_INTERACTIONS: dict[str, dict[bytes, str]] = {
    "base": {b"GET": "search", b"POST": "batch"},
    "capabilities": {b"GET": "capabilities"},
    "type": {b"GET": "search", b"POST": "create", b"PUT": "update", b"PATCH": "patch", b"DELETE": "delete"},
    "instance": {b"GET": "read", b"PUT": "update", b"PATCH": "patch", b"DELETE": "delete"},
    "version": {b"GET": "vread"},
    "history": {b"GET": "history"},
    "search": {b"POST": "search"},  # GET …/_search would be a read of the id `_search`, which cannot exist
    "compartment": {b"GET": "search"},
    "operation": {b"GET": "operation", b"POST": "operation"},
    "attachment": {},  # not an interaction of FHIR
}


def _by_bytes(words: frozenset[str], prefix: str = "") -> Mapping[bytes, str]:
    return {f"{prefix}{word}".encode(): f"{prefix}{word}" for word in words}


_TYPES = _by_bytes(RESOURCE_TYPES)
_OPERATIONS = _by_bytes(OPERATIONS, "$")
_ATTACHMENTS = _by_bytes(ATTACHMENTS)
_WELL_KNOWN = _by_bytes(WELL_KNOWN)
_PARAMETERS = _by_bytes(PARAMETERS)
_CHAINABLE = MODIFIERS | RESOURCE_TYPES

# http://hl7.org/fhir/R4/datatypes.html#id, less those of dots alone: a server may resolve `.` and `..`
# (RFC 3986), and Windows drops dots at the end of a name.
_ID = rb"(?!\.+(?:/|\Z))[A-Za-z0-9.-]{1,64}"
_is_id = re.compile(_ID).fullmatch
_is_operation = re.compile(rb"\$[A-Za-z][A-Za-z0-9_-]{0,63}").fullmatch

# Most requests differ from an earlier one in an id alone, so its answer serves them all.
_names_instance = re.compile(rb"(/?[A-Za-z]++/)%b(?=/|\Z)" % _ID).match
_KEPT = 1024
_LONGEST: Final = 256  # bytes of a path whose answer is kept, so that long ones take no memory


def route(method: bytes, path: bytes) -> Route:
    """Names the interaction of a request; `path` is relative to the FHIR base, without query.

    A leading slash may be missing, as in the `request.url` of a Bundle's entry. Never raises.
    """
    if found := _names_instance(path):
        path = found[1] + b"1" + path[found.end() :]
    return _known(method, path) if len(path) <= _LONGEST else _read(method, path)


def _read(method: bytes, path: bytes) -> Route:
    if method == b"HEAD":  # what GET would answer, less the body (RFC 9110 section 9.3.2)
        method = b"GET"
    segments = (path[1:] if path[:1] == b"/" else path).split(b"/", 5)  # no form of FHIR has more than five
    resource = _TYPES.get(segments[0])
    if resource is None:
        template, shape = _at_system(segments)
        resource = OTHER
    elif len(segments) == 1:
        template, shape = resource, "type"
    elif len(segments) == 2:
        template, shape = _on_type(resource, segments[1])
    elif _is_id(segments[1]):
        template, shape = _below_instance(resource, segments)
        if shape == "compartment":
            resource = _TYPES.get(segments[2], OTHER)
    else:
        return NO_ROUTE
    if not shape:
        return NO_ROUTE
    return Route(template, resource, _INTERACTIONS[shape].get(method, OTHER))


_known = lru_cache(maxsize=_KEPT)(_read)


# The three below give the template and the shape of a path, which is empty for no FHIR form.


def _at_system(segments: list[bytes]) -> tuple[str, str]:
    match segments:
        case [b""]:
            return "/", "base"
        case [b"metadata"]:
            return "metadata", "capabilities"
        case [b"_search"]:
            return "_search", "search"
        case [b"_history"]:
            return "_history", "history"
        case [b".well-known", name] if _is_id(name):
            return f".well-known/{_WELL_KNOWN.get(name, OTHER)}", "capabilities"
        case [name] if operation := _operation(name):
            return operation, "operation"
    return "", ""


def _on_type(resource: str, last: bytes) -> tuple[str, str]:
    if _is_id(last):
        return f"{resource}/{{id}}", "instance"
    if last == b"_search":
        return f"{resource}/_search", "search"
    if last == b"_history":
        return f"{resource}/_history", "history"
    if operation := _operation(last):
        return f"{resource}/{operation}", "operation"
    return "", ""


def _below_instance(resource: str, segments: list[bytes]) -> tuple[str, str]:
    match segments[2:]:
        case [b"_history"]:
            return f"{resource}/{{id}}/_history", "history"
        case [b"_history", vid] if _is_id(vid):
            return f"{resource}/{{id}}/_history/{{vid}}", "version"
        case [b"_history", vid, last] if _is_id(vid) and (operation := _operation(last)):
            return f"{resource}/{{id}}/_history/{{vid}}/{operation}", "operation"
        case [b"files", last] if word := _ATTACHMENTS.get(last):
            return f"{resource}/{{id}}/files/{word}", "attachment"
        case [b"*"] if resource in COMPARTMENTS:
            return f"{resource}/{{id}}/*", "compartment"
        case [last] if resource in COMPARTMENTS and (member := _TYPES.get(last)):
            return f"{resource}/{{id}}/{member}", "compartment"
        case [last] if operation := _operation(last):
            return f"{resource}/{{id}}/{operation}", "operation"
    return "", ""


def _operation(segment: bytes) -> str:
    """The name with its `$`, `$other` for one that is not on the list, empty for what is no operation."""
    return _OPERATIONS.get(segment) or ("$other" if _is_operation(segment) else "")


def parameter_names(query: bytes) -> tuple[str, ...]:
    """The names of a query's (or a form's) parameters that FHIR R4 or Canvas knows, in order and each once.

    A name with a modifier or a chain is kept whole if each part is known. All else, and what follows the
    first MAX_PARAMETERS, is one `other`. Never raises.
    """
    pairs = query.split(b"&", MAX_PARAMETERS)
    names = {_parameter(pair.partition(b"=")[0]): None for pair in pairs[:MAX_PARAMETERS] if pair}
    if len(pairs) > MAX_PARAMETERS:
        names[OTHER] = None
    return tuple(names)


def _parameter(name: bytes) -> str:
    if known := _PARAMETERS.get(name):
        return known
    if b"%" in name:  # most clients send the colon of a modifier as %3A
        name = unquote_to_bytes(name)
    if len(name) > MAX_NAME or not name.isascii():
        return OTHER
    text = name.decode("ascii")
    return text if _is_known(text) else OTHER


def _is_known(name: str) -> bool:
    """`code`, `name:exact`, `subject:Patient.name`, `_has:Observation:patient:code`, and these combined."""
    if name in PARAMETERS:
        return True
    if name.startswith("_has:"):
        _, _, reverse = name.partition(":")
        resource, _, rest = reverse.partition(":")
        reference, _, criterion = rest.partition(":")
        return resource in RESOURCE_TYPES and reference in PARAMETERS and _is_known(criterion)
    link, dot, rest = name.partition(".")
    code, colon, modifier = link.partition(":")
    if code not in PARAMETERS or (colon and modifier not in (RESOURCE_TYPES if dot else _CHAINABLE)):
        return False
    return not dot or _is_known(rest)
