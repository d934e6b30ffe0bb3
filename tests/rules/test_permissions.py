"""`allow` permits what it names, and nothing that a server could read as something else."""

import json
import posixpath
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.errors import CallerRefused
from proxy.rules.fhir_lists import RESOURCE_TYPES
from proxy.rules.headers import OVERRIDES
from proxy.rules.permissions import MAX_FORM, MAX_PARAMETERS, Permissions
from proxy.rules.references import targets

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


# --- interactions: the letter that each needs, as SMART App Launch v2 gives it ---

NEEDS = [
    ("r", "GET", "/Observation/1"),
    ("r", "HEAD", "/Observation/1"),
    ("r", "GET", "/Observation/1/_history"),
    ("r", "GET", "/Observation/1/_history/2"),
    ("s", "GET", "/Observation"),
    ("s", "HEAD", "/Observation"),
    ("s", "GET", "/Observation?code=http%3A%2F%2Floinc.org%7C1234-5&date=ge2020-01-01,lt2021"),
    ("s", "POST", "/Observation/_search"),
    ("s", "GET", "/Observation/_history"),
    ("s", "GET", "/Patient/1/Observation"),
    ("c", "POST", "/Observation"),
    ("u", "PUT", "/Observation/1"),
    ("u", "PATCH", "/Observation/1"),
    ("d", "DELETE", "/Observation/1"),
    ("us", "PUT", "/Observation?identifier=a%7Cb"),
    ("us", "PATCH", "/Observation?identifier=a%7Cb"),
    ("ds", "DELETE", "/Observation?identifier=a%7Cb"),
    ("ds", "DELETE", "/Observation"),
    ("r", "GET", "/Observation/1/files/content"),
]


@pytest.mark.parametrize(("needed", "method", "target"), NEEDS, ids=lambda value: str(value)[:40])
def test_an_interaction_needs_its_letters_on_its_type_and_no_others(needed, method, target):
    assert verdict(f"Observation.{needed}", method, target) == ""
    assert verdict(f"*.{needed}", method, target) == ""
    for letter in needed:
        rest = "".join(sorted(set(LETTERS) - {letter}, key=LETTERS.index))
        assert f"Observation.{letter}" in verdict(f"Observation.{rest} Patient.cruds", method, target)


def test_a_type_that_is_not_named_is_refused():
    permissions = Permissions.parse("Patient.cruds")
    for resource in sorted(RESOURCE_TYPES - {"Patient"}):
        for letter, method, target in NEEDS:
            path = target.replace("Observation", resource).encode()
            assert f"{resource}.{letter[0]}" in said(lambda: permissions.check(method.encode(), path, {}))  # noqa: B023


PERMITTED = [
    # always
    ("Patient.r", "GET", "/metadata"),
    ("Patient.r", "GET", "/metadata?_format=json&mode=full"),
    ("Patient.r", "GET", "/metadata?_unknown=1"),
    ("Patient.r", "HEAD", "/metadata"),
    ("Patient.r", "OPTIONS", "/metadata"),
    ("Patient.r", "GET", "/.well-known/smart-configuration"),
    ("Patient.r", "GET", "/.well-known/oauth-authorization-server/tenant_1"),
    # words add up
    ("Patient.r Patient.s", "GET", "/Patient"),
    ("*.rs Patient.c", "POST", "/Patient"),
    ("*.rs Patient.c", "GET", "/Observation"),
    # system level
    ("*.s", "GET", "/"),
    ("*.s", "GET", "/?_type=Patient,Observation"),
    ("*.s", "POST", "/_search"),
    ("*.s", "GET", "/_history"),
    ("*.s", "GET", "/Patient/1/*"),
    # operations
    ("Patient.cruds", "GET", "/Patient/1/$everything?_type=Observation&_since=2020"),
    ("Patient.cruds", "POST", "/Patient/$match"),
    ("Patient.cruds", "POST", "/Patient/1/$some-own_thing"),
    ("Patient.$everything", "GET", "/Patient/1/$everything"),
    ("Patient.$*", "POST", "/Patient/1/$some-own_thing"),
    ("Patient.$graphql", "GET", "/Patient/1/$graphql?query=%7Bname%7D"),
    ("DiagnosticReport.$create-lab-report", "POST", "/DiagnosticReport/$create-lab-report"),
    ("*.$validate", "POST", "/Patient/$validate"),
    ("*.$export", "GET", "/$export?_type=Patient&_typeFilter=Patient%3Factive%3Dtrue"),
    ("Patient.$export", "GET", "/Patient/$export?_typeFilter=Patient?active=true"),
    # `*.cruds` restricts nothing
    ("*.cruds", "GET", "/anything/../%2e%2e//x?_include=*"),
    ("Patient.r *.cruds", "BREW", "/$graphql"),
    # a body is still to come
    ("Patient.r", "POST", "/"),
]


@pytest.mark.parametrize(("allow", "method", "target"), PERMITTED)
def test_what_is_named_is_permitted(allow, method, target):
    assert verdict(allow, method, target) == ""


REFUSED = [
    # operations with less than cruds, or that are no type's
    ("Patient.crud", "POST", "/Patient/$match", r"Patient\.\$match"),
    ("*.rs Patient.cud", "POST", "/Patient/$match", r"Patient\.\$match"),
    ("Patient.$match", "GET", "/Patient/1/$everything", r"Patient\.\$everything"),
    ("Patient.$match", "GET", "/Patient/1", r"Patient\.r"),
    ("Patient.cruds", "GET", "/$export", r"\*\.\$export"),
    ("Patient.cruds", "POST", "/$graphql", r"\*\.\$graphql"),
    ("Patient.cruds", "GET", "/Patient/1/$graphql?query=%7Bx%7D", r"Patient\.\$graphql"),
    ("Patient.cruds", "GET", "/Patient/1/$GraphQL?query=%7Bx%7D", r"Patient\.\$…"),
    ("Patient.$match", "POST", "/Patient/$Match", r"Patient\.\$…"),
    ("Patient.cruds", "POST", "/Observation/1/$x", r"Observation\.\$…"),
    ("Patient.cruds", "DELETE", "/Patient/$match", "no such method"),
    # system level
    ("Patient.rs", "GET", "/", r"\*\.s"),
    ("Patient.rs", "GET", "/?_type=Patient", r"\*\.s"),
    ("Patient.rs", "POST", "/_search", r"\*\.s"),
    ("Patient.rs", "GET", "/_history", r"\*\.s"),
    ("Patient.rs", "GET", "/Patient/1/*", r"\*\.s"),
    ("Patient.rs", "GET", "/Patient/1/Observation", r"Observation\.s"),
    # no FHIR, or another method
    ("*.rs", "GET", "/Patient/", "form"),
    ("*.rs", "GET", "//Patient", "form"),
    ("*.rs", "GET", "/Patient//1", "form"),
    ("*.rs", "GET", "/./Patient", "form"),
    ("*.rs", "GET", "/Patient/..", "form"),
    ("*.rs", "GET", "/Patient/1/../2", "form"),
    ("*.rs", "GET", "/patient", "form"),
    ("*.rs", "GET", "/P%61tient", "form"),
    ("*.rs", "GET", "/Patient/%31", "form"),
    ("*.rs", "GET", "/Patient;a=b", "form"),
    ("*.rs", "GET", "/Patient/1;a=b", "form"),
    ("*.rs", "GET", "/Patient\\1", "form"),
    ("*.rs", "GET", "/Patient#", "form"),
    ("*.rs", "GET", "/Patient/\xe9", "form"),
    ("*.rs", "GET", "/Patient/1\t", "form"),
    ("*.rs", "GET", "/docs", "form"),
    ("*.rs", "GET", "/fhir/Patient", "form"),
    ("*.rs", "GET", "/Metadata", "form"),
    ("*.rs", "GET", "/metadata/", "form"),
    ("*.rs", "GET", "/.well-known/../Patient", "form"),
    ("*.rs", "GET", "/.well-known/%2e%2e/Patient", "form"),
    ("*.rs", "GET", "/.well-known/..", "form"),
    ("*.rs", "GET", "/.well-known/a/..", "form"),
    ("*.rs", "GET", "/.well-known/a/...", "form"),
    ("*.rs", "GET", "/.well-known", "form"),
    ("*.rs", "GET", "http://elsewhere/Patient", "form"),
    ("*.rs", "OPTIONS", "*", "form"),
    ("*.rs", "OPTIONS", "/Patient", "no such method"),
    ("*.rs", "GET", "/Patient/_search", "no such method"),
    ("*.rs", "get", "/Patient", "no such method"),
    ("*.crud", "POST", "/Patient/1", "no such method"),
    ("*.crud", "PUT", "/Patient/1/files/content", "no such method"),
    ("*.crud", "POST", "/metadata", "no such method"),
    ("*.rs", "BREW", "/Patient/1", "no such method"),
]


@pytest.mark.parametrize(("allow", "method", "target", "message"), REFUSED)
def test_what_is_not_clearly_permitted_is_refused(allow, method, target, message):
    assert re.search(message, verdict(allow, method, target))


# --- fields ---


@pytest.mark.parametrize("name", sorted(OVERRIDES))
def test_a_field_that_asks_for_another_method_or_path_is_refused(name):
    noted = {name: b"GET"}
    assert "header field" in said(lambda: Permissions.parse("*.rs").check(b"GET", b"/metadata", noted))
    Permissions.parse("*.cruds").check(b"GET", b"/metadata", noted)


def test_a_conditional_create_needs_search_as_well():
    plain = "identifier=http://x|1"
    assert "Patient.s" in verdict("Patient.c", "POST", "/Patient", if_none_exist=plain)
    assert verdict("Patient.cs", "POST", "/Patient", if_none_exist=plain) == ""
    assert verdict("Patient.cs", "POST", "/Patient", if_none_exist="?" + plain) == ""
    assert "name" in verdict("Patient.cs", "POST", "/Patient", if_none_exist="n%E9=x")
    chained = "general-practitioner:Practitioner.name=x"
    assert "Practitioner.s" in verdict("Patient.cs", "POST", "/Patient", if_none_exist=chained)
    assert "Practitioner.s" in verdict("Patient.cs", "POST", "/Patient", if_none_exist=f"{plain}, {chained}")


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_body_where_the_method_has_none_is_refused(method):
    assert "body" in verdict("Patient.crud", method, "/Patient/1", content_length="2")
    assert "body" in verdict("Patient.crud", method, "/Patient/1", transfer_encoding="chunked")
    assert verdict("Patient.crud", method, "/Patient/1", content_length="0") == ""


@pytest.mark.parametrize(
    ("target", "content_type", "permitted"),
    [
        ("/Patient/_search", "application/x-www-form-urlencoded", True),
        ("/Patient/_search", "Application/X-WWW-Form-URLencoded; charset=UTF-8", True),
        ("/Patient/_search", "application/x-www-form-urlencoded; charset=utf-7", False),
        ("/Patient/_search", "application/x-www-form-urlencoded, application/json", False),
        ("/Patient/_search", "application/json", False),
        ("/Patient/_search", "multipart/form-data; boundary=x", False),
        ("/", "application/fhir+json; fhirVersion=4.0; charset=utf-8", True),
        ("/", "application/json", True),
        ("/", "application/fhir+xml", False),
        ("/", "application/json; charset=utf-16", False),
        ("/Patient", "application/fhir+json", True),
        ("/Patient", "application/x-www-form-urlencoded", False),
        ("/Patient", "Application/X-WWW-FORM-URLENCODED", False),
        ("/Patient/$match", "multipart/form-data; boundary=x", False),
    ],
)
def test_a_body_has_the_type_that_its_request_needs(target, content_type, permitted):
    assert (verdict("Patient.cruds", "POST", target, content_type=content_type) == "") is permitted


@pytest.mark.parametrize("target", ["/", "/Patient/_search"])
def test_a_body_that_has_to_be_looked_into_is_not_compressed(target):
    assert "compressed" in verdict("Patient.cruds", "POST", target, content_encoding="gzip")
    assert verdict("Patient.cruds", "POST", target, content_encoding="identity") == ""


# --- parameters ---

NEEDED_BY_PARAMETER = [
    ("_include=Observation:patient", "Patient.r"),
    ("_include=Observation:subject:Patient", "Patient.r"),
    ("_include=Observation:subject", "Device.r"),  # and Group, Location, Patient: the first is named
    ("_include:iterate=Patient:general-practitioner:Organization", "Organization.r"),
    ("_include=Observation%3Apatient", "Patient.r"),
    ("_include=Observation:encounter,Observation:patient", "Encounter.r"),
    ("_include=Observation:code:Observation,Observation:encounter", "Encounter.r"),
    ("_include=Provenance:target", "*.r"),
    ("_include=Observation:no-such", "*.r"),
    ("_revinclude=Provenance:target", "Provenance.r"),
    ("_revinclude:iterate=Provenance:target:Observation", "Provenance.r"),
    ("_has:Encounter:subject:status=finished", "Encounter.s"),
    ("_HAS:Encounter:subject:status=finished", "Encounter.s"),
    ("_has%3AEncounter%3Asubject%3Astatus=finished", "Encounter.s"),
    ("_has:Encounter:subject:_has:Condition:encounter:code=x", "Encounter.s"),
    ("_has:Observation:subject:encounter.status=x", "Encounter.s"),
    ("_has:Observation:subject:_include=Observation:patient", "Patient.r"),
    ("patient.name=x", "Patient.s"),
    ("patient%2Ename=x", "Patient.s"),
    ("subject:Patient.name:exact=x", "Patient.s"),
    ("subject.name=x", "Device.s"),
    ("encounter.patient.name=x", "Encounter.s"),
    ("encounter:Encounter.service-provider.name=x", "Encounter.s"),
    ("focus.code=x", "*.s"),
    ("no-such.code=x", "*.s"),
    ("_list=42", "List.s"),
    ("_type=Encounter", "Encounter.s"),
    ("code:in=http://x", "ValueSet.s"),
    ("_sort=-date,patient.name", "Patient.s"),
]


@pytest.mark.parametrize(("query", "needed"), NEEDED_BY_PARAMETER)
def test_a_parameter_that_reads_another_type_needs_that_type(query, needed):
    permissions = Permissions.parse("Observation.rs")
    target = b"/Observation?code=x&" + query.encode()
    form = said(lambda: permissions.check_search_form(b"/Observation/_search", query.encode()))
    assert needed in form
    assert form == said(lambda: permissions.check(b"GET", target, {}))
    Permissions.parse("*.rs").check(b"GET", target, {})


def test_a_chain_needs_each_type_on_its_way():
    chain = "encounter:Encounter.service-provider.name=x"
    assert "Organization.s" in verdict("Observation.s Encounter.s", "GET", f"/Observation?{chain}")
    assert verdict("Observation.s Encounter.s Organization.s", "GET", f"/Observation?{chain}") == ""
    reverse = "_has:Encounter:subject:_has:Condition:encounter:code=x"
    assert "Condition.s" in verdict("Patient.s Encounter.s", "GET", f"/Patient?{reverse}")
    assert verdict("Patient.s Encounter.s Condition.s", "GET", f"/Patient?{reverse}") == ""


def test_a_chain_through_a_reference_of_several_types_needs_all_of_them():
    chain = "/Media?based-on.based-on.status=x"  # CarePlan or ServiceRequest, and on from both
    assert "MedicationRequest.s" in verdict("Media.s CarePlan.s ServiceRequest.s", "GET", chain)
    assert verdict("Media.s CarePlan.s ServiceRequest.s MedicationRequest.s", "GET", chain) == ""


def test_a_sort_by_a_chain_needs_its_types_alone():
    assert verdict("Observation.s Patient.s", "GET", "/Observation?_sort=-patient.name") == ""
    assert "_sort" in verdict("*.s", "GET", "/Observation?_sort=" + "a." * 200)


def test_a_typed_include_needs_the_one_type_alone():
    assert (
        verdict("Observation.s Patient.r", "GET", "/Observation?_include=Observation:subject:Patient") == ""
    )
    assert verdict("Observation.s Patient.r", "GET", "/Observation?_include=Observation:patient") == ""


UNCLEAR = [
    "_include=*",
    "_include=%2A",
    "_include=Observation:*",
    "_include",
    "_include=",
    "_include=Observation.subject",
    "_include=observation:subject",
    "_include=Observation:subject:patient",
    "_include[]=Observation:subject",
    "_include%00=x",
    "_revinclude=*",
    "_has=Encounter:subject:status",
    "_has:encounter:subject:status=x",
    "_has:Encounter:subject=x",
    "subject:patient.name=x",
    "_contained=true",
    "_filter=name%20eq%20x",
    "_query=everything",
    "_graph=x",
    "_method=DELETE",
    "_Method=DELETE",
    "X-HTTP-Method-Override=DELETE",
    "_cascade=delete",
    "_typeFilter=Patient",
    "_type=patient",
    "name:nonsense=x",
    "=x",
    "n%E9=x",
    "na me=x",
    "%5F%69nclude=*",
    "%255Finclude=*",
    "+_include=*",
    "a=b;_include=*",
    "a=b%26_include=*",
    "a=b%3B_include%3D*",
    "a=b%2526_include%253D*",
    "a=b%2526_include%255B%255D%253D*",
    "a=b%252526_include%25253D*",
    "a=b?_include=*",
    "a=b;X-HTTP-Method-Override=DELETE",
    "a=b%u0026_include=*",
    "a=b%",
    "a%zz=b",
    "_INCLUDE=*",
    "_include=*&_include=Observation:patient",
    "name=\xe9",
    "name=\x01",
]


@pytest.mark.parametrize("query", UNCLEAR)
def test_a_parameter_that_is_not_clear_is_refused(query):
    permissions = Permissions.parse("*.rs Patient.c")
    raw = query.encode("latin-1")
    assert said(lambda: permissions.check(b"GET", b"/Observation?" + raw, {}))
    assert said(lambda: permissions.check(b"GET", b"/Observation?code=x&" + raw, {}))
    assert said(lambda: permissions.check(b"POST", b"/Patient?" + raw, {}))
    assert said(lambda: permissions.check_search_form(b"/Observation/_search", raw))


ORDINARY = [
    "",
    "&",
    "name=x&name=y",
    "name=J%C3%B6rg+M",
    "name:exact=AT%26T",
    "name=a;b",
    "code=http://loinc.org|1234-5,http://loinc.org|2",
    "url=http%3A%2F%2Fx.org%2Fy%3Fz%3D1",
    "subject:Patient=1&patient=Patient/1",
    "_id=1&_lastUpdated=gt2020-01-01T00:00:00%2B01:00&_count=10&_offset=20&_sort=-date,code&_format=json",
    "_summary=true&_elements=id&_total=none&_tag=a|b&_profile=x&_security=y&_pretty=true&_contained=false",
    "context-type-value=a$b",
    "gender:missing=true&code:not=x&_id:not=1",
    "subject:identifier=a|b",
]


@pytest.mark.parametrize("query", ORDINARY)
def test_ordinary_parameters_pass(query):
    assert verdict("Observation.s", "GET", "/Observation?" + query) == ""
    Permissions.parse("Observation.s").check_search_form(b"/Observation/_search", query.encode())


def test_a_form_that_is_no_search_any_more_is_refused():
    permissions = Permissions.parse("Patient.s")
    permissions.check_search_form(b"/Patient/_search", b"&".join([b"_id=1"] * MAX_PARAMETERS))
    with pytest.raises(CallerRefused, match="more parameters"):
        permissions.check_search_form(b"/Patient/_search", b"&".join([b"_id=1"] * (MAX_PARAMETERS + 1)))
    with pytest.raises(CallerRefused, match="too long"):
        permissions.check_search_form(b"/Patient/_search", b"a" * (MAX_FORM + 1))
    with pytest.raises(CallerRefused):
        permissions.check_search_form(b"/Patient/_search", b"a." * (MAX_FORM // 2))
    with pytest.raises(CallerRefused):
        permissions.check_search_form(b"/Patient/_search", b"_sort=" + b"a." * (MAX_FORM // 3))


def test_reference_parameters_lead_where_r4_says():
    assert targets("Observation", "patient") == {"Patient"}
    assert targets("Observation", "subject") == {"Device", "Group", "Location", "Patient"}
    assert targets("Coverage", "payor") == {"Organization", "Patient", "RelatedPerson"}
    assert targets("Provenance", "target") is None
    assert targets("Patient", "subject") is None
    assert all(
        found <= RESOURCE_TYPES
        for resource in RESOURCE_TYPES
        for name in ("subject", "patient", "author", "source", "performer", "part-of", "target")
        if (found := targets(resource, name))
    )


# --- bodies ---


def test_a_body_is_looked_into_only_where_it_asks_for_something():
    permissions = Permissions.parse("Patient.cruds")
    assert permissions.needs_body(b"POST", b"/") == "bundle"
    assert permissions.needs_body(b"POST", b"/?_format=json") == "bundle"
    assert permissions.needs_body(b"POST", b"/Patient/_search?name=x") == "search form"
    assert permissions.needs_body(b"POST", b"/Patient") is None
    assert permissions.needs_body(b"GET", b"/Patient") is None
    assert permissions.needs_body(b"POST", b"/Patient/$match") is None
    assert Permissions.parse("*.cruds").needs_body(b"POST", b"/") is None


def bundle(*entries: object, **more: object) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": "batch", "entry": list(entries), **more}).encode()


def ask(method: str, url: str, resource: object = None, **more: str) -> dict[str, object]:
    entry: dict[str, object] = {"request": {"method": method, "url": url, **more}}
    return entry if resource is None else {**entry, "resource": resource}


def on_bundle(allow: str, body: bytes) -> str:
    return said(lambda: Permissions.parse(allow).check_bundle(body))


@pytest.mark.parametrize(
    ("allow", "entry"),
    [
        ("Patient.r", ask("GET", "Patient/1")),
        ("Patient.r", ask("GET", "/Patient/1")),
        ("Patient.r", ask("HEAD", "Patient/1")),
        ("Patient.s", ask("GET", "Patient?name=x&_count=5")),
        ("Patient.c", {**ask("POST", "Patient", {"resourceType": "Patient"}), "fullUrl": "urn:uuid:x"}),
        ("Patient.cs", ask("POST", "Patient", ifNoneExist="identifier=a|b")),
        ("Patient.us", ask("PUT", "Patient?identifier=1")),
        ("Patient.u", ask("PATCH", "Patient/1", {"resourceType": "Binary", "data": "W10="})),
        ("Patient.d", ask("DELETE", "Patient/1", ifMatch='W/"1"')),
        ("Patient.cruds", ask("POST", "Patient/1/$x", {"resourceType": "Parameters"})),
        ("Patient.r", ask("GET", "metadata")),
        ("Observation.c Patient.s", ask("POST", "Observation", {"subject": {"reference": "Patient?a=b"}})),
        ("Observation.c", ask("POST", "Observation", {"x": {"reference": "https://elsewhere/doc?id=1"}})),
        ("Bundle.c", ask("POST", "Bundle", {"resourceType": "Bundle", "type": "document", "entry": []})),
    ],
)
def test_a_bundle_passes_if_every_entry_is_permitted(allow, entry):
    assert on_bundle(allow, bundle(entry)) == ""
    assert on_bundle(allow, bundle(ask("GET", "metadata"), entry, type="transaction")) == ""


@pytest.mark.parametrize(
    ("allow", "entry", "message"),
    [
        ("Patient.rs", ask("GET", "Observation/1"), r"Observation\.r"),
        ("Patient.rs", ask("DELETE", "Patient/1"), r"Patient\.d"),
        ("Patient.c", ask("POST", "Patient", ifNoneExist="identifier=a|b"), r"Patient\.s"),
        ("Patient.cs", ask("POST", "Patient", ifNoneExist="organization.name=b"), r"Organization\.s"),
        ("Patient.cs", {"request": {"method": "POST", "url": "Patient", "ifNoneExist": None}}, "no request"),
        ("Patient.u", ask("PUT", "Patient?identifier=1"), r"Patient\.s"),
        ("*.rs", ask("GET", "Patient?_include=*"), "wildcard"),
        ("Patient.rs", ask("GET", "Patient?_revinclude=Provenance:target"), r"Provenance\.r"),
        ("Patient.rs", ask("GET", ""), r"\*\.s"),
        ("*.rs", ask("POST", ""), "inside a Bundle"),
        ("*.rs", ask("POST", "Patient/_search"), "inside a Bundle"),
        ("*.rs", ask("GET", "https://elsewhere/Patient/1"), "form"),
        ("*.rs", ask("GET", "//Patient/1"), "form"),
        ("*.rs", ask("GET", "../Patient/1"), "form"),
        ("*.rs", ask("GET", "Patient/\u0661"), "does not know"),
        ("*.rs", ask("GET", "Patient/\ud800"), "does not know"),
        ("*.rs", ask("GET", " Patient/1"), "form"),
        ("*.rs", ask("get", "Patient/1"), "does not know"),
        ("*.rs", ask("OPTIONS", "Patient/1"), "does not know"),
        ("*.rs", {"request": {"method": "GET", "url": 1}}, "no request"),
        ("*.rs", {"request": {"method": "GET"}}, "no request"),
        ("*.rs", {"request": None}, "form"),
        ("*.rs", {"request": []}, "form"),
        ("*.rs", {"resource": {"resourceType": "Patient"}}, "form"),
        ("*.rs", None, "form"),
        ("*.rs", [ask("GET", "Patient/1")], "form"),
        ("*.rs", {**ask("GET", "Patient/1"), "Request": {}}, "element"),
        ("*.rs", {"request": {"method": "GET", "url": "Patient/1", "URL": "x"}}, "element"),
        ("*.rs", {"request": {"method": "GET", "url": "Patient/1", "modifierExtension": []}}, "element"),
        ("*.rs", {**ask("GET", "Patient/1"), "reque\u017ft": {}}, "element"),
        ("Observation.c", ask("POST", "Observation", {"s": {"reference": "Patient?a=b"}}), r"Patient\.s"),
        (
            "Observation.c Patient.s",
            ask("POST", "Observation", {"s": {"reference": "Patient?organization.name=b"}}),
            r"Organization\.s",
        ),
        ("Observation.c", ask("POST", "Observation", {"s": {"reference": "patient?a=b"}}), "reference"),
        ("*.cs", ask("POST", "Observation", {"s": {"reference": "Patient?a=\ud800"}}), "reference"),
    ],
)
def test_one_entry_that_is_not_permitted_refuses_the_bundle(allow, entry, message):
    assert re.search(message, on_bundle(allow, bundle(entry)))
    assert re.search(message, on_bundle(allow, bundle(ask("GET", "metadata"), entry, ask("GET", "metadata"))))


GOOD = bundle(ask("GET", "Patient/1")).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"<Bundle/>",
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.encode("utf-16"),
        GOOD.encode("utf-16-le"),
        GOOD.replace("Patient", "Pati\xe9nt").encode("latin-1"),
        GOOD.encode() + b"{}",
        GOOD.encode() + b"\0",
        GOOD.replace('"type": "batch"', '"type": "document"').encode(),
        GOOD.replace('"type": "batch"', '"type": "Batch"').encode(),
        GOOD.replace('"type": "batch"', '"type": "batch", "type": "batch"').encode(),
        GOOD.replace('"Bundle"', '"Patient"').encode(),
        GOOD.replace('"entry"', '"Entry"').encode(),
        GOOD.replace('"entry"', '"implicitRules": "x", "entry"').encode(),
        GOOD.replace('"entry"', '"entry": [], "entry"').encode(),
        GOOD.replace('"entry"', '"entry": [], "\\u0065ntry"').encode(),
        GOOD.replace('"url"', '"url": "Patient/2", "url"').encode(),
        GOOD.replace('"request"', '"request": {}, "request"').encode(),
        GOOD.replace('"url"', "'url'").encode(),
        GOOD.replace("}]", "},]").encode(),
        GOOD.replace('"entry"', '"total": NaN, "entry"').encode(),
        GOOD.replace('"entry"', '/* */ "entry"').encode(),
        GOOD.replace("[", '{"0":').replace("]", "}").encode(),
        b'{"resourceType": "Bundle", "type": "batch", "entry": null}',
        b'{"resourceType": "Bundle", "type": "batch", "entry": ' + b"[" * 200_000,
        b'{"resourceType": "Bundle", "type": "batch", "meta": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    ],
)
def test_a_bundle_that_two_parsers_could_read_differently_is_refused(body):
    assert on_bundle("*.rs", body)


def test_a_bundle_may_hold_any_number_and_any_text_in_its_resources():
    resource = '{"resourceType":"Observation","a":1.00,"b":1E-22,"c":' + "9" * 5000 + ',"d":"\u2028\\ud800"}'
    body = f'{{"resourceType":"Bundle","type":"batch","total":1,"entry":[{{"resource":{resource},'
    body += '"request":{"method":"POST","url":"Observation"}}]}'
    assert on_bundle("Observation.c", body.encode()) == ""
    assert on_bundle("Observation.c", b'{"resourceType": "Bundle", "type": "transaction"}') == ""


# --- the words of `allow` ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no permission"),
        (" , ", "no permission"),
        ("Pateint.rs", r"Pateint is no FHIR resource type \(did you mean Patient\?\)"),
        ("patient.rs", "did you mean Patient"),
        (".rs", "nothing is no FHIR resource type"),
        ("Patient", r"such as Patient\.rs"),
        ("Patient.", r"such as Patient\.rs"),
        ("*", r"such as \*\.rs"),
        ("Patient.sr", r"in this order .*Patient\.rs"),
        ("Patient.rr", r"each once, such as Patient\.r$"),
        ("Patient.RS", r"Patient\.rs"),
        ("Patient.rsx", r"Patient\.rs"),
        ("Patient.read", r"Patient\.rs"),
        ("Patient.write", r"Patient\.cud"),
        ("Patient.*", r"Patient\.cruds"),
        ("Patient.rs?name=x", "refinements .* not supported"),
        ("Patient.rs?_security=x/y", "refinements .* not supported"),
        ("patient/Patient.rs", r"write Patient\.rs, without patient/"),
        ("system/*.cruds", r"write \*\.cruds, without system/"),
        ("Patient.$", "no name of an operation"),
        ("Patient.$a.b", "no name of an operation"),
        ("$export", "resource type"),
        ("Patient.rs Nothing.rs Patient.x", r"Nothing.*; Patient\.x"),
    ],
)
def test_a_word_that_is_wrong_is_told_with_what_is_meant(text, message):
    with pytest.raises(ValueError, match=message):
        Permissions.parse(text)


@pytest.mark.parametrize(
    "text", ["Patient.rs Observation.c", "Patient.rs,Observation.c", " Patient.rs,\n\tObservation.c ,"]
)
def test_words_stand_between_white_space_or_commas(text):
    assert verdict(text, "GET", "/Patient") == verdict(text, "POST", "/Observation") == ""
    assert not Permissions.parse(text).unrestricted


def test_only_the_word_for_everything_restricts_nothing():
    assert Permissions.parse("*.cruds").unrestricted
    assert Permissions.parse("Patient.r *.cruds").unrestricted
    assert not Permissions.parse("*.crud *.rs *.$*").unrestricted


def test_a_type_that_may_be_searched_is_found():
    assert Permissions.parse("*.cruds").searchable() == "Patient"
    assert Permissions.parse("Task.s Observation.rs Patient.r").searchable() == "Observation"
    assert Permissions.parse("Patient.cr Task.$*").searchable() is None


# --- properties ---

WORDS = st.lists(
    st.builds(
        "{}.{}".format,
        st.sampled_from(["*", "Patient", "Observation", "Binary", "List"]),
        st.sampled_from(["c", "r", "u", "d", "s", "rs", "cud", "$match", "$*"]),
    ),
    min_size=1,
    max_size=4,
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
PATH_PIECES = "/ Patient Observation 1 _search _history $match $everything metadata .well-known files content"
OTHER_PIECES = ".. . ? & = ; : , _include _has _list name patient * %2F %5F %25 + # \\ \t \xe9 s3cret"
PIECES = st.sampled_from([*PATH_PIECES.split(" "), *OTHER_PIECES.split(" ")])
TARGETS = st.lists(PIECES, max_size=12).map(lambda pieces: "/" + "".join(pieces)) | st.text(
    st.characters(max_codepoint=255), max_size=30
)


@given(WORDS, METHODS, TARGETS)
def test_whatever_is_asked_the_answer_is_yes_or_a_refusal_without_the_callers_words(words, method, target):
    message = verdict(" ".join(words), method, target)
    assert "s3cret" not in message
    assert message.isascii() or "…" in message


@given(WORDS, WORDS, METHODS, TARGETS)
def test_a_further_word_never_refuses_what_was_permitted(words, more, method, target):
    if verdict(" ".join(words), method, target) == "":
        assert verdict(" ".join(words + more), method, target) == ""


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_body_is_permitted_or_refused(body):
    permissions = Permissions.parse("Patient.rs")
    said(lambda: permissions.check_bundle(body))
    said(lambda: permissions.check_search_form(b"/Patient/_search", body))


def escape(text: str, choose: Callable[[int], int], depth: int) -> str:
    """Some of the characters percent-encoded, in either case of the digits, up to `depth` times over."""
    out = []
    for char in text:
        for _ in range(choose(depth + 1)):
            char = "".join(("%%%02x" if choose(2) else "%%%02X") % ord(each) for each in char)
        out.append(char)
    return "".join(out)


@st.composite
def disguised_paths(draw: st.DrawFn) -> str:
    """`/Observation/1`, as a lenient server might still find it."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    kind = draw(st.sampled_from(["Observation", "observation", "OBSERVATION", "Observation "]))
    kind = "".join(char.swapcase() if choose(8) == 0 else char for char in kind)
    before = draw(
        st.lists(st.sampled_from(["", ".", "Patient/..", "x/..", "Patient/1/../..", ";a=b"]), max_size=3)
    )
    after = draw(
        st.sampled_from(
            ["", "/1", "/1/", "/", "//", "/.", "/1/_history", ";a", "?name=x", "#", "\0", ".json"]
        )
    )
    separator = draw(st.sampled_from(["/", "//", "\\", "/./"]))
    path = separator.join((*before, kind))
    return (
        "/" + escape(path, choose, draw(st.integers(0, 2))) + escape(after, choose, draw(st.integers(0, 1)))
    )


@settings(max_examples=200)
@given(METHODS, disguised_paths())
def test_no_disguise_of_a_path_slips_past(method, target):
    assert verdict("Patient.cruds Patient.$*", method, target)


@st.composite
def disguised_parameters(draw: st.DrawFn) -> str:
    """A query with a parameter that is refused, as a lenient server might still find it."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    name, value = draw(
        st.sampled_from(
            [
                ("_include", "Patient:organization"),
                ("_include", "*"),
                ("_include:iterate", "Patient:organization"),
                ("_revinclude", "Observation:patient"),
                ("_has:Observation:patient:code", "x"),
                ("organization.name", "x"),
                ("organization:Organization.name", "x"),
                ("_list", "1"),
                ("_filter", "x"),
                ("_method", "DELETE"),
            ]
        )
    )
    name = "".join(char.swapcase() if choose(10) == 0 else char for char in name)
    name = (
        draw(st.sampled_from(["", "", " ", "+", "%20"]))
        + name
        + draw(st.sampled_from(["", "", "[]", "[0]", "+"]))
    )
    piece = escape(name, choose, draw(st.integers(0, 2))) + draw(st.sampled_from(["=", "=", "%3D"])) + value
    separator = draw(st.sampled_from(["&", "&", ";", "%26", "%3B", "%3b", "%2526", "&&", "?"]))
    before = draw(st.sampled_from(["name=x", "name=x", "_count=10", "name:exact=a%20b"]))
    after = draw(st.sampled_from(["", "&_id=1", ";a=b", "&name"]))
    return separator.join((before, piece)) + after


@settings(max_examples=250)
@given(disguised_parameters())
def test_no_disguise_of_a_parameter_slips_past(query):
    permissions = Permissions.parse("Patient.cruds")
    # `name%3Dvalue` alone is a parameter without a value to all but those who decode before they split.
    assert said(lambda: permissions.check(b"GET", b"/Patient?" + query.encode(), {}))
    assert said(lambda: permissions.check_search_form(b"/Patient/_search", query.encode()))
    assert on_bundle("Patient.cruds", bundle(ask("GET", "Patient?" + query)))


# How servers and what stands before them change a path before they look at it.
CLEANINGS: list[Callable[[bytes], bytes]] = [
    unquote_to_bytes,
    posixpath.normpath,
    lambda path: re.sub(rb"[/\\\\]+", b"/", path),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: re.split(rb"[#\0]", path)[0],
    lambda path: path.strip(),
    lambda path: re.sub(rb"(?<=/)\.+(?=/|$)", b"", path),
]


@settings(max_examples=500)
@given(METHODS, TARGETS | disguised_paths())
def test_a_path_that_passes_reads_the_same_however_it_is_cleaned(method, target):
    path = target.partition("?")[0].encode("latin-1") or b"/"
    if verdict("*.crud *.s *.$*", method, path.decode("latin-1")) == "":
        assert [clean(path) for clean in CLEANINGS] == [path] * len(CLEANINGS)


def readings(query: bytes) -> set[tuple[str, str]]:
    """Names and values as any server might read them: decoded up to three times, at any moment."""
    texts = [query]
    for _ in range(3):
        texts.append(unquote_to_bytes(texts[-1].replace(b"+", b" ")))
    found = set()
    for text in texts:
        for separators in (rb"[&]", rb"[&;]", rb"[&;?]"):
            for piece in re.split(separators, text):
                name, _, value = piece.partition(b"=")
                for _ in range(3):
                    found.add((name.decode("latin-1"), value.decode("latin-1")))
                    name = unquote_to_bytes(name.replace(b"+", b" "))
    return found


PARAMETERS = """
    name _id _count _lastUpdated _sort name:exact subject:Patient _include _INCLUDE _revinclude _list
    _has:Observation:patient:code organization.name organization:Organization.name _filter _method x-a
    """
QUERY_VALUES = """
    x -date 1,2 Observation:subject:Group http://x|1 * a=b a%26_list=1 a;_list=1 a%3B_list%3D1 a?_list=1
    a%2526_list=1 a%2526_list%253D1 %u0026_list=1 %zz J%C3%B6rg 'x' a%20b
    """


@st.composite
def queries(draw: st.DrawFn) -> str:
    """A query of parameters that are harmless, and of some that are not, in any spelling."""

    def choose(count: int) -> int:
        return draw(st.integers(0, count - 1))

    pieces = []
    for _ in range(draw(st.integers(0, 3))):
        name = escape(draw(st.sampled_from(PARAMETERS.split())), choose, draw(st.sampled_from([0, 0, 1, 2])))
        equals = draw(st.sampled_from(["=", "=", "=", "%3D"]))
        pieces.append(name + equals + draw(st.sampled_from(QUERY_VALUES.split())))
    return draw(st.sampled_from(["&", "&", ";", "%26", "?", "&&"])).join(pieces)


@settings(max_examples=500)
@given(queries())
def test_no_reading_of_a_query_that_passes_reads_another_type(query):
    if verdict("Patient.cruds", "GET", f"/Patient?{query}") == "":
        for name, value in readings(query.encode()):
            first, _, rest = name.strip().lower().partition(":")
            assert (
                first not in ("_include", "_revinclude", "_has", "_list", "_filter", "_method") or not value
            )
            assert not value or "." not in first + rest.partition("=")[0]


@settings(max_examples=300)
@given(st.lists(queries().filter(lambda query: "&" not in query), max_size=3))
def test_a_query_passes_if_each_of_its_parameters_does(parts):
    apart = [verdict("Patient.cruds", "GET", f"/Patient?{part}") for part in parts]
    assert verdict("Patient.cruds", "GET", "/Patient?" + "&".join(parts)) == next(filter(None, apart), "")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.just(ask("GET", "Patient/1")) | st.just(ask("POST", "Patient", {"a": 1})), max_size=3),
    st.sampled_from([ask("GET", "Observation/1"), ask("DELETE", "Patient/1"), ask("POST", "")]),
    st.integers(0, 3),
    JSON_VALUES,
    st.booleans(),
)
def test_a_refused_entry_is_found_wherever_it_stands(others, refused, at, noise, ascii_only):
    entries = [{**entry, "resource": noise} for entry in others]
    entries.insert(at, {"resource": noise, **refused})
    whole = {"resourceType": "Bundle", "type": "batch", "meta": noise, "entry": entries}
    text = json.dumps(whole, ensure_ascii=ascii_only, indent=at)
    assert on_bundle("Patient.cr", text.encode("utf-8", "surrogatepass"))
