"""What a request asks for is told in words of closed lists alone."""

import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.rules import fhir_lists
from proxy.rules.fhir import MAX_NAME, MAX_PARAMETERS, NO_ROUTE, Route, _read, parameter_names, route

UUID = "b9f82cd0-6644-4b3f-a9d1-7585c3e71498"
METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]

FORMS = [
    # the base
    ("GET", "/", "/", "other", "search"),
    ("GET", "", "/", "other", "search"),
    ("POST", "/", "/", "other", "batch"),
    ("PUT", "/", "/", "other", "other"),
    ("POST", "/_search", "_search", "other", "search"),
    ("GET", "/_search", "_search", "other", "other"),
    ("GET", "/_history", "_history", "other", "history"),
    ("GET", "/metadata", "metadata", "other", "capabilities"),
    ("POST", "/metadata", "metadata", "other", "other"),
    ("GET", "/.well-known/smart-configuration", ".well-known/smart-configuration", "other", "capabilities"),
    ("GET", "/.well-known/acme-thing", ".well-known/other", "other", "capabilities"),
    ("POST", "/$export", "$export", "other", "operation"),
    ("GET", "/$graphql", "$graphql", "other", "operation"),
    ("POST", "/$my-own", "$other", "other", "operation"),
    # a type
    ("GET", "/Patient", "Patient", "Patient", "search"),
    ("HEAD", "/Patient", "Patient", "Patient", "search"),
    ("POST", "/Patient", "Patient", "Patient", "create"),
    ("PUT", "/Patient", "Patient", "Patient", "update"),
    ("PATCH", "/Patient", "Patient", "Patient", "patch"),
    ("DELETE", "/Patient", "Patient", "Patient", "delete"),
    ("OPTIONS", "/Patient", "Patient", "Patient", "other"),
    ("POST", "/Patient/_search", "Patient/_search", "Patient", "search"),
    ("GET", "/Patient/_search", "Patient/_search", "Patient", "other"),
    ("GET", "/Patient/_history", "Patient/_history", "Patient", "history"),
    ("POST", "/Patient/$match", "Patient/$match", "Patient", "operation"),
    ("GET", "/Observation/$lastn", "Observation/$lastn", "Observation", "operation"),
    ("DELETE", "/Patient/$match", "Patient/$match", "Patient", "other"),
    ("POST", "/Patient/$JohnDoe", "Patient/$other", "Patient", "operation"),
    (
        "POST",
        "/DiagnosticReport/$create-lab-report",
        "DiagnosticReport/$create-lab-report",
        "DiagnosticReport",
        "operation",
    ),
    ("GET", "/Allergen", "Allergen", "Allergen", "search"),
    # an instance
    ("GET", "/Patient/123", "Patient/{id}", "Patient", "read"),
    ("HEAD", "/Patient/123", "Patient/{id}", "Patient", "read"),
    ("PUT", "/Patient/123", "Patient/{id}", "Patient", "update"),
    ("PATCH", "/Patient/123", "Patient/{id}", "Patient", "patch"),
    ("DELETE", "/Patient/123", "Patient/{id}", "Patient", "delete"),
    ("POST", "/Patient/123", "Patient/{id}", "Patient", "other"),
    ("GET", f"/Binary/{UUID}", "Binary/{id}", "Binary", "read"),
    ("GET", "/Patient/.a", "Patient/{id}", "Patient", "read"),
    ("GET", "/Patient/metadata", "Patient/{id}", "Patient", "read"),
    ("GET", "/Patient/Patient", "Patient/{id}", "Patient", "read"),
    ("GET", "/Patient/" + "a" * 64, "Patient/{id}", "Patient", "read"),
    ("GET", "/Patient/1/_history", "Patient/{id}/_history", "Patient", "history"),
    ("GET", "/Patient/1/_history/2", "Patient/{id}/_history/{vid}", "Patient", "vread"),
    ("PUT", "/Patient/1/_history/2", "Patient/{id}/_history/{vid}", "Patient", "other"),
    (
        "POST",
        "/Patient/1/_history/2/$meta-add",
        "Patient/{id}/_history/{vid}/$meta-add",
        "Patient",
        "operation",
    ),
    ("GET", "/Patient/1/$everything", "Patient/{id}/$everything", "Patient", "operation"),
    ("GET", "/Patient/1/$export", "Patient/{id}/$export", "Patient", "operation"),
    ("POST", "/Claim/1/$add-activity-log-item", "Claim/{id}/$add-activity-log-item", "Claim", "operation"),
    ("GET", "/Patient/1/Observation", "Patient/{id}/Observation", "Observation", "search"),
    ("GET", "/Patient/1/*", "Patient/{id}/*", "other", "search"),
    ("POST", "/Patient/1/Observation", "Patient/{id}/Observation", "Observation", "other"),
    (
        "GET",
        f"/DocumentReference/{UUID}/files/content",
        "DocumentReference/{id}/files/content",
        "DocumentReference",
        "other",
    ),
    ("GET", "/Patient/1/files/photo", "Patient/{id}/files/photo", "Patient", "other"),
    # as a Bundle's entry has it
    ("GET", "Patient/123", "Patient/{id}", "Patient", "read"),
    ("POST", "Patient", "Patient", "Patient", "create"),
]


@pytest.mark.parametrize(
    ("method", "path", "template", "resource", "interaction"), FORMS, ids=[f"{f[0]} {f[1]}" for f in FORMS]
)
def test_a_form_of_fhir_is_named(
    method: str, path: str, template: str, resource: str, interaction: str
) -> None:
    assert route(method.encode(), path.encode()) == Route(template, resource, interaction)


NOT_PLAIN = {
    "unknown type": b"/Person2/1",
    "abstract type": b"/DomainResource/1",
    "type of another release": b"/SubscriptionStatus",
    "wrong case": b"/patient/1",
    "upper case": b"/PATIENT",
    "trailing slash after type": b"/Patient/",
    "trailing slash after id": b"/Patient/1/",
    "two slashes": b"//Patient/1",
    "two slashes inside": b"/Patient//1",
    "dot segment": b"/./Patient",
    "dot as id": b"/Patient/.",
    "dot dot as id": b"/Patient/..",
    "three dots as id": b"/Patient/...",
    "dot dot as version": b"/Patient/1/_history/..",
    "dot dot above": b"/Patient/../Observation",
    "dot dot well-known": b"/.well-known/..",
    "encoded letter in type": b"/%50atient/1",
    "encoded id": b"/Patient/a%20b",
    "encoded dollar": b"/Patient/1/%24everything",
    "encoded slash": b"/Patient%2F1",
    "id with underscore": b"/Patient/a_b",
    "id too long": b"/Patient/" + b"a" * 65,
    "id with line feed": b"/Patient/1\n",
    "id not ASCII": b"/Patient/\xc3\xa9",
    "id outside ASCII digits": "/Patient/\u0661".encode(),
    "query left in": b"/Patient?name=x",
    "fragment": b"/Patient/1#x",
    "matrix parameter": b"/Patient;v=1/1",
    "absolute form": b"https://fumage-x.canvasmedical.com/Patient/1",
    "asterisk": b"*",
    "star without compartment": b"/Observation/1/*",
    "no compartment": b"/Observation/1/Patient",
    "no such file": b"/DocumentReference/1/files/secret",
    "files alone": b"/DocumentReference/1/files",
    "operation without name": b"/Patient/$",
    "operation with odd name": b"/Patient/$a%62",
    "below an operation": b"/Patient/$match/1",
    "below metadata": b"/metadata/1",
    "well-known alone": b"/.well-known",
    "below well-known": b"/.well-known/a/b",
    "too deep": b"/Patient/1/_history/2/$meta/x",
    "not FHIR": b"/auth/token/",
    "one slash too many": b"/" * 60_000,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plainly_a_form_of_fhir_is_other(method: bytes, path: bytes) -> None:
    assert route(method, path) == NO_ROUTE == ("other", "other", "other")


@pytest.mark.parametrize("method", [b"get", b"QUERY", b"TRACE", b"", b"GET ", b"\xff"])
def test_an_unknown_method_is_interaction_other(method: bytes) -> None:
    assert route(method, b"/Patient/1") == ("Patient/{id}", "Patient", "other")


@pytest.mark.parametrize("word", sorted(fhir_lists.ATTACHMENTS))
def test_an_attachment_can_be_told_from_other_unknowns(word: str) -> None:
    assert route(b"GET", f"/Media/1/files/{word}".encode()).is_attachment
    assert not route(b"GET", b"/Media/1").is_attachment
    assert not route(b"GET", f"/files/{word}".encode()).is_attachment


QUERIES = {
    "nothing": ("", ()),
    "no value": ("patient", ("patient",)),
    "in order": (
        "patient=Patient/1&category=a&_count=10&_offset=0",
        ("patient", "category", "_count", "_offset"),
    ),
    "each once": ("date=ge2020&date=le2021&foo=1&bar=2", ("date", "other")),
    "empty pairs": ("&&patient=1&", ("patient",)),
    "no name": ("=Smith", ("other",)),
    "a value alone": ("4cc6fd69f81042a0b6d123e2080a7c1a", ("other",)),
    "equals in value": ("_id=a=b", ("_id",)),
    "both cases of birthdate": ("birthdate=1&birthDate=2", ("birthdate", "birthDate")),
    "wrong case": ("Patient=1&PATIENT=2", ("other",)),
    "modifier": ("name:exact=x", ("name:exact",)),
    "modifier, encoded": ("name%3Aexact=x&name%3aexact=y", ("name:exact",)),
    "encoded twice": ("name%253Aexact=x", ("other",)),
    "encoded name": ("p%61tient=1", ("patient",)),
    "bad escape": ("name%3=x&%=y&name%zz=z", ("other",)),
    "of-type": ("identifier:of-type=a|b|c", ("identifier:of-type",)),
    "type as modifier": ("subject:Patient=1", ("subject:Patient",)),
    "unknown modifier": ("name:Smith=1", ("other",)),
    "empty modifier": ("name:=1", ("other",)),
    "two modifiers": ("name:exact:missing=1", ("other",)),
    "chain": ("subject:Patient.name=x", ("subject:Patient.name",)),
    "chain without type": ("patient.identifier:exact=x", ("patient.identifier:exact",)),
    "long chain": (
        "encounter:Encounter.subject:Patient.name=x",
        ("encounter:Encounter.subject:Patient.name",),
    ),
    "chain with unknown part": ("subject:Patient.smith=x&subject:Smith.name=y", ("other",)),
    "chain over a modifier": ("subject:exact.name=x", ("other",)),
    "chain without end": ("subject.=x&.name=y", ("other",)),
    "Canvas's chains": (
        "questionnaire.code=x&questionnaire.item.code=y",
        ("questionnaire.code", "questionnaire.item.code"),
    ),
    "reverse chain": ("_has:CareTeam:participant:member=x", ("_has:CareTeam:participant:member",)),
    "nested reverse chain": (
        "_has:Observation:patient:_has:AuditEvent:entity:agent=x",
        ("_has:Observation:patient:_has:AuditEvent:entity:agent",),
    ),
    "reverse chain in a chain": ("patient._has:Group:member:_id=x", ("patient._has:Group:member:_id",)),
    "reverse chain cut off": ("_has:Observation:patient=x&_has:Observation=y&_has:=z", ("other",)),
    "reverse chain, unknown type": ("_has:Smith:patient:code=x", ("other",)),
    "include": (
        "_include:iterate=Task:owner&_revinclude=Provenance:target",
        ("_include:iterate", "_revinclude"),
    ),
    "bulk data": ("_type=Patient&_since=2020&_outputFormat=ndjson", ("_type", "_since", "_outputFormat")),
    "an operation's": ("activeOnly=true&onlyCertainMatches=true", ("activeOnly", "onlyCertainMatches")),
    "semicolon is no separator": ("patient=1;secret=2", ("patient",)),
}


@pytest.mark.parametrize(("query", "names"), QUERIES.values(), ids=QUERIES)
def test_names_of_parameters(query: str, names: tuple[str, ...]) -> None:
    assert parameter_names(query.encode()) == names


def test_bytes_outside_ascii_are_other() -> None:
    assert parameter_names(b"\xff=1&name:\xff=1&%ff%00=1&name%3A%C3%A9=1") == ("other",)


def test_the_number_of_names_is_bounded() -> None:
    known = sorted(fhir_lists.SEARCH_PARAMETERS)
    exactly = "&".join(known[:MAX_PARAMETERS]).encode()
    assert parameter_names(exactly) == tuple(known[:MAX_PARAMETERS])
    assert parameter_names(exactly + b"&zz=1") == (*known[:MAX_PARAMETERS], "other")
    assert len(parameter_names("&".join(known).encode())) == MAX_PARAMETERS + 1


def test_a_name_that_is_too_long_is_other() -> None:
    longest = b"subject." * 31 + b"subject"
    assert len(longest) == MAX_NAME
    assert parameter_names(longest) == (longest.decode(),)
    assert parameter_names(b"subject." + longest) == ("other",)


# --- privacy: whatever comes in, only words of the lists and placeholders come out ---

SEGMENTS = (
    {"{id}", "{vid}", "*", "_search", "_history", "metadata", ".well-known", "files", "other", "$other"}
    | fhir_lists.RESOURCE_TYPES
    | fhir_lists.ATTACHMENTS
    | fhir_lists.WELL_KNOWN
    | {f"${name}" for name in fhir_lists.OPERATIONS}
)
INTERACTIONS = {
    *("read", "vread", "search", "create", "update", "patch", "delete", "history", "capabilities", "batch"),
    *("operation", "other"),
}
NAME_PARTS = fhir_lists.PARAMETERS | fhir_lists.MODIFIERS | fhir_lists.RESOURCE_TYPES | {"_has"}

segment = st.one_of(
    st.sampled_from(sorted(SEGMENTS)).map(str.encode),
    st.from_regex(rb"[A-Za-z0-9.-]{1,66}", fullmatch=True),
    st.binary(max_size=8),
    st.sampled_from([b"", b".", b"..", b"%2e", b"$x", b"$", b"_id"]),
)
paths = st.one_of(st.binary(), st.lists(segment, max_size=7).map(lambda parts: b"/" + b"/".join(parts)))
methods = st.one_of(st.sampled_from(METHODS), st.binary(max_size=8))


@given(methods, paths)
@example(b"GET", b"/Patient/..")
def test_a_route_has_only_words_of_closed_lists(method: bytes, path: bytes) -> None:
    template, resource, interaction = route(method, path)
    assert template == "/" or set(template.split("/")) <= SEGMENTS
    assert resource in fhir_lists.RESOURCE_TYPES | {"other"}
    assert interaction in INTERACTIONS


identities = st.from_regex(r"[A-Za-z0-9-]{1,64}", fullmatch=True).map(str.encode)
tails = st.lists(segment, max_size=4).map(lambda parts: b"".join(b"/" + part for part in parts))


@given(methods, st.sampled_from(sorted(fhir_lists.RESOURCE_TYPES)), identities, identities, tails)
def test_a_route_does_not_depend_on_the_id(
    method: bytes, resource: str, one: bytes, another: bytes, tail: bytes
) -> None:
    base = f"/{resource}/".encode()
    assert route(method, base + one + tail) == route(method, base + another + tail)


@given(methods, paths | st.builds(bytes.__add__, st.sampled_from([b"/Patient/", b"Task/", b"/x/"]), paths))
@example(b"GET", b"/.well-known/a")
@example(b"GET", b"/Patient/" + b"a" * 65)
def test_a_route_that_is_remembered_is_that_of_the_very_path(method: bytes, path: bytes) -> None:
    assert route(method, path) == route(method, path) == _read(method, path)


name = st.lists(
    st.one_of(
        st.sampled_from(sorted(NAME_PARTS)).map(str.encode),
        st.sampled_from([b":", b".", b"%3A"]),
        st.binary(max_size=4),
    ),
    max_size=8,
).map(b"".join)
queries = st.one_of(
    st.binary(), st.lists(st.tuples(name, st.binary()).map(b"=".join), max_size=40).map(b"&".join)
)


@given(queries)
def test_names_are_words_of_closed_lists(query: bytes) -> None:
    names = parameter_names(query)
    assert len(names) == len(set(names)) <= MAX_PARAMETERS + 1
    for found in names:
        assert len(found) <= MAX_NAME
        assert found in fhir_lists.PARAMETERS | {"other"} or set(re.split("[:.]", found)) <= NAME_PARTS


# --- the lists ---


def test_the_types_are_those_of_r4() -> None:
    """fhirclient's models are generated from the same definitions, by other people."""
    spec = importlib.util.find_spec("fhirclient")
    assert spec
    assert spec.origin
    models = Path(spec.origin).parent / "models"
    derived = re.compile(
        r"^class (\w+)\((?:domainresource\.DomainResource|resource\.Resource)\):", re.MULTILINE
    )
    found = {name for file in models.glob("*.py") for name in derived.findall(file.read_text("utf-8"))}
    assert found - {"DomainResource"} == fhir_lists.R4_TYPES
    assert len(fhir_lists.R4_TYPES) == 146


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (fhir_lists.RESOURCE_TYPES, r"[A-Z][A-Za-z]+"),
        (fhir_lists.OPERATIONS, r"[a-z]+(-[a-z]+)*"),
        (fhir_lists.PARAMETERS, r"_?[a-z]+([A-Z][a-z]*)*([-.][a-z]+)*"),
        (fhir_lists.MODIFIERS, r"[a-z]+(-[a-z]+)?|ofType"),
    ],
    ids=["types", "operations", "parameters", "modifiers"],
)
def test_the_lists_hold_plain_words(words: frozenset[str], pattern: str) -> None:
    assert {word for word in words if not re.fullmatch(pattern, word)} == set()


def test_the_lists_are_complete() -> None:
    assert len(fhir_lists.SEARCH_PARAMETERS) == 439
    assert len(fhir_lists.R4_OPERATIONS) == 36
    assert fhir_lists.COMPARTMENTS < fhir_lists.R4_TYPES
