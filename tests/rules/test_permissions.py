"""`allow` permits what it names, and nothing that a server could read as something else."""

import re

import pytest

from proxy.rules.errors import CallerRefused
from proxy.rules.fhir_lists import RESOURCE_TYPES
from proxy.rules.headers import OVERRIDES
from proxy.rules.permissions import MAX_FORM, MAX_PARAMETERS, Permissions
from proxy.rules.references import targets
from tests.rules.permitting import LETTERS, said, verdict

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
