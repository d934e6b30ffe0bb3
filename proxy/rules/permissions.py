"""What `allow` permits, in the words of SMART App Launch v2 (`Patient.rs Appointment.cruds`).

The letters mean what the specification says: c create; r read, vread and the history of an instance; u update
and patch; d delete; s search and the history of a type (and, with `*`, of the whole server).
https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html

The request itself goes on untouched; what is decoded here is decoded to be judged. Where servers differ in
what they read, each reading has to be permitted.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote_to_bytes

from proxy.rules.allow_words import LETTERS, read_words
from proxy.rules.batch import Entry, read_batch, read_entry
from proxy.rules.errors import CallerRefused
from proxy.rules.fhir import MAX_NAME, NO_ROUTE, OTHER, Route, route
from proxy.rules.fhir_lists import MODIFIERS, OPERATIONS, RESOURCE_TYPES
from proxy.rules.headers import OVERRIDES
from proxy.rules.references import targets
from proxy.rules.refusals import missing, unclear

# What a parameter leads to, in order; OTHER alone stands for any type, and needs a word for `*`.
Types = tuple[str, ...]
_ANY: Types = (OTHER,)

# More is no search, and judging it would hold up the other callers.
MAX_FORM = 256 * 1024  # bytes
MAX_PARAMETERS = 1000


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LETTER_OF = {
    "read": "r",
    "vread": "r",
    "create": "c",
    "update": "u",
    "patch": "u",
    "delete": "d",
    "search": "s",
}
_BODIES: dict[str, Literal["search form", "bundle"]] = {"search": "search form", "batch": "bundle"}
_WITHOUT_BODY = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))
_READING = frozenset((b"GET", b"HEAD"))
_ASKING = _READING | {b"OPTIONS"}

_is_well_known = re.compile(rb"/\.well-known(?:/(?!\.+(?:/|\Z))[A-Za-z0-9._~-]+)+").fullmatch
_is_encoded = re.compile(rb"[ -$&-~]*+(?:%[0-9A-Fa-f]{2}[ -$&-~]*+)*").fullmatch  # IIS reads %u0026 as &
_is_name = re.compile(rf"[A-Za-z0-9_.:-]{{1,{MAX_NAME}}}").fullmatch
# What most searches consist of, known at one glance: it reads no other type and has no other reading, since
# its values hold neither a separator nor what decoding (once or twice) could make one.
_LITERAL = rb"[A-Za-z0-9_.,:|/+~!*'()@$-]*+"
_ENCODED = rb"%(?:2[0-247-9A-Fa-f]|3[0-9AaCcEe]|[4-68-9A-Fa-f][0-9A-Fa-f]|7[0-9A-Ea-e])"
_ORDINARY = (
    rb"(?:(?:(?![Xx]-)[A-Za-z][A-Za-z0-9-]*+"
    rb"|_(?:count|elements|format|id|lastUpdated|offset|pretty|profile|security|since|summary|tag|total))"
    rb"(?:(?::|%%3[Aa])(?:above|below|contains|exact|identifier|missing|not|text))?=%b(?:%b%b)*"
    rb"|_sort=[A-Za-z0-9_,-]*+)" % (_LITERAL, _ENCODED, _LITERAL)
)
_is_ordinary = re.compile(rb"%b(?:&%b)*" % (_ORDINARY, _ORDINARY)).fullmatch
_is_include = re.compile(r"([A-Za-z]+):([A-Za-z0-9_-]{1,64})(?::([A-Za-z]+))?").fullmatch
_has_other_readings = re.compile(rb"[;%?]").search
_first_name = re.compile(rf"[^A-Za-z0-9_]*([A-Za-z0-9_.:-]{{1,{MAX_NAME}}})").match

# A charset that hides quotes or ampersands (UTF-7, UTF-16) would let Fumage read another body than we do.
_PARAMETERS = rb'(?:[ \t]*;[ \t]*(?:charset="?utf-8"?|fhirversion="?[0-9.]+"?))*[ \t]*'
_MEDIA_TYPES = {
    "search form": re.compile(rb"application/x-www-form-urlencoded" + _PARAMETERS, re.IGNORECASE).fullmatch,
    "bundle": re.compile(
        rb"(?:application/(?:fhir\+json|json\+fhir|json)|text/json)" + _PARAMETERS, re.IGNORECASE
    ).fullmatch,
}

# Parameters of every type that neither read another one nor change what the request does, lower-cased because
# some servers compare so. One that begins with an underscore and is not here is refused, unless it is below.
_HARMLESS = _words(
    """
    _at _content _count _elements _format _id _language _lastupdated _offset _outputformat _pretty _profile
    _security _since _source _summary _tag _text _total
    """
)

# The one operation that is a language: it reads whatever it is asked for, so `Type.cruds` is not enough.
_GRAPHQL = "$graphql"


class Permissions:
    """What one `allow` permits; see `parse`."""

    def __init__(self, words: Mapping[str, set[str]]):
        """`words` by resource type or `*`: letters such as `rs`, and operations such as `$match` or `$*`."""
        everywhere = words.get("*", set())
        self.unrestricted = LETTERS in everywhere
        self._letters: dict[str, frozenset[str]] = {}
        self._operations: dict[str, frozenset[str]] = {}
        for resource in (*RESOURCE_TYPES, OTHER):  # OTHER: no type, or all of them
            given = everywhere | words.get(resource, set())
            self._letters[resource] = frozenset("".join(word for word in given if word[0] != "$"))
            self._operations[resource] = frozenset(
                word for word in given if word[0] == "$" or word == LETTERS
            )

    @classmethod
    def parse(cls, text: str) -> "Permissions":
        """Read `allow`; ValueError tells all that is wrong. See `allow_words`."""
        return cls(read_words(text))

    def searchable(self) -> str | None:
        """A type that may be searched, for a request that proves the way; Patient if it may be."""
        types = sorted(RESOURCE_TYPES, key=lambda resource: (resource != "Patient", resource))
        return next((resource for resource in types if "s" in self._letters[resource]), None)

    # --- the request's head ---

    def check(self, method: bytes, target: bytes, noted: Mapping[bytes, bytes]) -> None:
        """Raise CallerRefused unless `allow` permits this, as far as the head shows; see `needs_body`.

        `target` is path and query in relation to the FHIR base; `noted` as `headers.note_request` gives it.
        """
        if self.unrestricted:
            return
        if not OVERRIDES.isdisjoint(noted):
            raise unclear("A header field of the request asks for another method or path")
        found = self._permit(method, target)
        if method == b"POST":
            _check_media_type(found, noted)
        elif method in _WITHOUT_BODY and (
            noted.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in noted
        ):
            raise unclear("The request has a body that its method has no use for")
        if b"if-none-exist" in noted:
            self._check_condition(found.resource, noted[b"if-none-exist"])

    def _permit(self, method: bytes, target: bytes) -> Route:
        path, mark, query = target.partition(b"?")
        found = route(method, path)
        letter = _LETTER_OF.get(found.interaction)
        if letter is None:
            self._permit_special(method, path, found)
        else:
            if letter not in self._letters[found.resource]:
                raise missing(f"{_shown(found.resource)}.{letter}")
            if letter in "ud" and found.template == found.resource:  # conditional: it tells what it finds
                self._need(found.resource, "s")
        if mark and found.interaction != "capabilities":
            self._check_query(found, query)
        return found

    def _permit_special(self, method: bytes, path: bytes, found: Route) -> None:
        match found.interaction:
            case "capabilities" | "batch":
                return
            case "history":
                self._need(found.resource, "r" if "{id}" in found.template else "s")
            case "operation":
                self._need_operation(found.resource, path.rpartition(b"/")[2].decode("ascii"))
            case _ if found.is_attachment and method in _READING:
                self._need(found.resource, "r")
            case _ if method in _ASKING and (path == b"/metadata" or _is_well_known(path)):
                return
            case _ if found is NO_ROUTE:
                raise unclear("The path has not the form of a FHIR request")
            case _:
                raise unclear("FHIR has no such method on this path")

    def _need(self, resource: str, letter: str) -> None:
        if letter not in self._letters[resource]:
            raise missing(f"{_shown(resource)}.{letter}")

    def _need_operation(self, resource: str, name: str) -> None:
        given = self._operations[resource]
        if name in given or "$*" in given or (LETTERS in given and name.lower() != _GRAPHQL):
            return
        if name[1:] in OPERATIONS:
            raise missing(f"{_shown(resource)}.{name}")
        raise unclear(f"The request calls an operation that allow does not name ({_shown(resource)}.$…)")

    # --- parameters, of a query, a form or a condition ---

    def _check_query(self, found: Route, query: bytes) -> None:
        if query.count(b"&") >= MAX_PARAMETERS:
            raise unclear("There are more parameters than a search has")
        if _is_ordinary(query):
            return
        for piece in query.split(b"&"):
            if piece and not _is_ordinary(piece):
                self._check_piece(found, piece)

    def _check_piece(self, found: Route, piece: bytes) -> None:
        if not _is_encoded(piece):
            raise unclear(
                "The parameters hold bytes that have to be percent-encoded, or a % that encodes none"
            )
        raw_name, _, raw_value = piece.partition(b"=")
        name = _decoded(raw_name)
        if not _is_name(name):
            raise unclear("A parameter has a name that FHIR does not know")
        self._check_parameter(found, name, _decoded(raw_value))
        if _has_other_readings(piece):
            for name, value in _other_readings(piece):
                self._check_parameter(found, name, value)

    def _check_condition(self, resource: str, criteria: bytes) -> None:
        """The criteria of a conditional create: of several fields, each is judged, and their list."""
        self._need(resource, "s")
        found = Route(resource, resource, "search")
        self._check_query(found, criteria.removeprefix(b"?"))
        for name, value in _other_readings(criteria):
            self._check_parameter(found, name, value)

    def _check_parameter(self, found: Route, name: str, value: str) -> None:
        """Follow a name through its chain; each type on the way has to be searchable."""
        bases: Types = (found.resource,)
        while True:
            if name[:5].lower() == "_has:":
                resource, _, name = name[5:].partition(":")
                _, _, name = name.partition(":")
                bases = (_type(resource),)
            elif "." in name:
                link, _, name = name.partition(".")
                code, _, resource = link.partition(":")
                bases = (_type(resource),) if resource else _reached(bases, code)
            else:
                break
            for resource in bases:
                self._need(resource, "s")
        code, _, modifier = name.partition(":")
        self._check_code(found, code.lower(), modifier, value)

    def _check_code(self, found: Route, code: str, modifier: str, value: str) -> None:
        match code:
            case "_include" | "_revinclude":
                for path in value.split(","):
                    self._check_include(path, reverse=code == "_revinclude")
                return  # its modifiers are of no matter
            case "_list":
                self._need("List", "s")
            case "_type" if found.interaction != "operation":
                for resource in value.split(","):
                    self._need(_type(resource), "s")
            case "_sort":
                for key in value.split(","):
                    if len(key) > MAX_NAME:
                        raise unclear("A key of _sort is longer than any that FHIR knows")
                    if "." in key or ":" in key:  # some servers sort by chains
                        self._check_parameter(found, key.removeprefix("-"), "")
            case "_type" | "_typefilter" if found.interaction == "operation":
                pass  # they narrow what the operation reads (Bulk Data Access)
            case "_contained" if value == "false":
                pass
            case "_containedtype":
                pass  # nothing without _contained
            case "" | "x-http-method-override" | "x-http-method" | "x-method-override":
                raise unclear("A parameter asks for another method, or has no name")
            case _ if code[0] == "_" and code not in _HARMLESS:
                raise unclear("A parameter that begins with an underscore may read other types")
        if modifier in ("in", "not-in"):
            self._need("ValueSet", "s")
        elif modifier and modifier not in MODIFIERS and modifier not in RESOURCE_TYPES:
            raise unclear("A parameter has a modifier that FHIR R4 does not know")

    def _check_include(self, path: str, *, reverse: bool) -> None:
        for resource in _brought(path, reverse):
            self._need(resource, "r")

    # --- bodies ---

    def needs_body(self, method: bytes, target: bytes) -> Literal["search form", "bundle"] | None:
        """What the body of a request that passed `check` is, if it has to be looked into as well."""
        if self.unrestricted or method != b"POST":
            return None
        return _BODIES.get(route(method, target.partition(b"?")[0]).interaction)

    def check_search_form(self, target: bytes, body: bytes) -> None:
        """Raise CallerRefused unless the parameters in the body of a POST …/_search are permitted."""
        if len(body) > MAX_FORM:
            raise unclear("The search form is too long to be looked into")
        self._check_query(route(b"POST", target.partition(b"?")[0]), body)

    def check_bundle(self, body: bytes) -> None:
        """Raise CallerRefused unless every entry of a batch or transaction Bundle is permitted."""
        batch = read_batch(body)
        for number, entry in enumerate(batch.entries, 1):
            try:
                self._check_entry(read_entry(entry))
            except CallerRefused as error:
                raise CallerRefused(f"Entry {number} of the Bundle: {error}", error.advice) from None
        for reference in batch.references:
            self._check_reference(reference)

    def _check_entry(self, entry: Entry) -> None:
        found = self._permit(entry.method.encode(), entry.path)
        if entry.method == "POST" and found.interaction in _BODIES:
            raise unclear("A Bundle or a search form inside a Bundle")
        if entry.condition is not None:
            self._check_condition(found.resource, entry.condition)

    def _check_reference(self, reference: str) -> None:
        """A conditional reference (`Patient?identifier=…`): the server searches for what it leads to.

        http://hl7.org/fhir/R4/http.html#trules
        """
        head, _, criteria = reference.partition("?")
        resource = head.rpartition("/")[2]
        if resource in RESOURCE_TYPES and criteria.isascii():
            self._need(resource, "s")
            self._check_query(Route(resource, resource, "search"), criteria.encode())
        elif ":" not in head or resource in RESOURCE_TYPES:
            raise unclear("A reference in the Bundle is a search that FHIR does not know")


def _shown(resource: str) -> str:
    return "*" if resource == OTHER else resource


def _type(word: str) -> str:
    if word not in RESOURCE_TYPES:
        raise unclear("A parameter names what is no resource type")
    return word


@lru_cache(maxsize=1024)
def _reached(bases: Types, code: str) -> Types:
    """The types that a reference parameter of these types may lead to."""
    reached: set[str] = set()
    for base in bases:
        found = targets(base, code)
        if found is None:
            return _ANY
        reached |= found
    return tuple(sorted(reached))


@lru_cache(maxsize=1024)
def _brought(path: str, reverse: bool) -> Types:
    """The types that an _include (or _revinclude) of this path brings in. Raises CallerRefused."""
    parts = _is_include(path)
    if not parts:
        raise unclear("_include or _revinclude with a wildcard, or not as type:parameter:type")
    source, target = _type(parts[1]), parts[3]
    if reverse:
        return (source,)
    return (_type(target),) if target else _reached((source,), parts[2])


def _decoded(text: bytes) -> str:
    if text.find(b"%") >= 0 or text.find(b"+") >= 0:  # `in` costs five times as much for bytes
        text = unquote_to_bytes(text.replace(b"+", b" "))
    return text.decode("latin-1")


def _other_readings(query: bytes) -> Iterator[tuple[str, str]]:
    """The parameters that could matter to a server that splits at `;`, decodes before it splits, or twice."""
    text = _decoded(query)
    for _ in range(2):
        if "%" not in text:
            break
        text = _decoded(text.encode("latin-1"))
    for piece in re.split("[&;,?]", text):
        name, equals, value = piece.partition("=")
        if equals and (found := _first_name(name)):
            yield found[1], value


def _check_media_type(found: Route, noted: Mapping[bytes, bytes]) -> None:
    kind = _BODIES.get(found.interaction)
    media_type = noted.get(b"content-type")
    if kind is None:
        # FHIR's only form is the search's; elsewhere one may carry a `_method` (Rails, Laravel, Symfony).
        if media_type is not None and media_type.lower().find(b"form") >= 0:
            raise unclear("The body is a form where FHIR has none")
    elif media_type is not None and not _MEDIA_TYPES[kind](media_type):
        raise unclear(f"The Content-Type is not that of a {kind} in UTF-8")
    elif noted.get(b"content-encoding", b"identity").lower() != b"identity":
        raise unclear("The body is compressed, so that it cannot be looked into")
