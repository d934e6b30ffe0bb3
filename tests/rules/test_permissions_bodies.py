"""What a Bundle or a search form asks for is looked at by `allow` as well."""

import re

import pytest

from proxy.rules.permissions import Permissions
from tests.rules.permitting import ask, bundle, on_bundle


def test_a_body_is_looked_into_only_where_it_asks_for_something():
    permissions = Permissions.parse("Patient.cruds")
    assert permissions.needs_body(b"POST", b"/") == "bundle"
    assert permissions.needs_body(b"POST", b"/?_format=json") == "bundle"
    assert permissions.needs_body(b"POST", b"/Patient/_search?name=x") == "search form"
    assert permissions.needs_body(b"POST", b"/Patient") is None
    assert permissions.needs_body(b"GET", b"/Patient") is None
    assert permissions.needs_body(b"POST", b"/Patient/$match") is None
    assert Permissions.parse("*.cruds").needs_body(b"POST", b"/") is None


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
