import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from proxy.sandbox import Sandbox

from .conftest import Clock, FhirAs

PERSON = {
    "resourceType": "Patient",
    "name": [{"family": "Vasquez", "given": ["Lena"]}],
    "gender": "female",
    "birthDate": "1990-05-17",
}


def issue(answer: httpx.Response) -> tuple[str, str]:
    """The code and the text of an OperationOutcome."""
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.json()["resourceType"] == "OperationOutcome"
    return answer.json()["issue"][0]["code"], answer.json()["issue"][0]["details"]["text"]


async def first(fhir: httpx.AsyncClient, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = (await fhir.get(f"/{kind}?_count=1")).json()["entry"][0]["resource"]
    return found


def task(requester: str, patient: str) -> dict[str, Any]:
    return {
        "resourceType": "Task",
        "status": "requested",
        "intent": "unknown",
        "description": "Call back",
        "requester": {"reference": f"Practitioner/{requester}"},
        "for": {"reference": f"Patient/{patient}"},
    }


# --- who may ask ---


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer wrong", "Basic c2FuZGJveDp4", "wrong"])
async def test_no_valid_bearer_is_a_401_without_www_authenticate(
    sandbox: Sandbox, http: httpx.AsyncClient, value: str | None
) -> None:
    headers = {} if value is None else {"Authorization": value}
    answer = await http.get(f"{sandbox.fumage_url}/Patient", headers=headers)
    assert answer.status_code == 401
    assert issue(answer) == ("unknown", "Authentication failed")
    assert "www-authenticate" not in answer.headers


async def test_a_token_is_good_up_to_its_expiry_and_not_a_tick_longer(
    fhir: httpx.AsyncClient, clock: Clock
) -> None:
    clock.now += 36_000 - 0.001
    assert (await fhir.get("/Patient")).status_code == 200
    clock.now += 0.001
    assert (await fhir.get("/Patient")).status_code == 401


async def test_a_revoked_token_is_worth_nothing(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    assert sandbox.tokens.revoke() == 1
    assert (await fhir.get("/Patient")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/Medication", "/Patient/", "/Patient/1/x", "/fhir/Patient", "/Patient/$x"]
)
async def test_an_unknown_route_is_a_404_whoever_asks(
    sandbox: Sandbox, http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.get(sandbox.fumage_url + path)
    assert (answer.status_code, issue(answer)[0]) == (404, "processing")


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH", "DELETE", "PUT"])
async def test_other_methods_are_a_405_whoever_asks(
    sandbox: Sandbox, http: httpx.AsyncClient, method: str
) -> None:
    assert (await http.request(method, f"{sandbox.fumage_url}/Patient")).status_code == 405


async def test_the_capability_statement_needs_no_token(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{sandbox.fumage_url}/metadata")
    assert answer.status_code == 200
    assert answer.json()["fhirVersion"] == "4.0.1"
    offered = {entry["type"]: entry for entry in answer.json()["rest"][0]["resource"]}
    assert {"code": "update"} in offered["Patient"]["interaction"]
    assert {"code": "update"} not in offered["Observation"]["interaction"]


@pytest.mark.parametrize("path", ["/metadata", "/Patient", "/Patient?_count=x", "/Patient/none", "/none"])
async def test_every_answer_has_a_correlation_id_of_its_own(fhir: httpx.AsyncClient, path: str) -> None:
    ids = {uuid.UUID((await fhir.get(path)).headers["fumage-correlation-id"]) for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("scope", "method", "path", "status"),
    [
        ("user/Patient.read", "GET", "/Patient", 200),
        ("user/Patient.read", "GET", "/Patient/none", 404),
        ("user/Patient.read", "POST", "/Patient", 403),
        ("user/Patient.read", "GET", "/Task", 403),
        ("user/Patient.write", "GET", "/Patient", 403),
        ("user/Patient.write", "PUT", "/Patient/none", 404),
        ("user/*.read", "GET", "/Task", 200),
        ("user/Patient.s", "GET", "/Patient", 200),
        ("user/Patient.s", "GET", "/Patient/none", 403),
        ("user/Patient.r", "POST", "/Patient/_search", 403),
        ("user/Patient.cruds", "POST", "/Patient", 400),
        ("system/Task.rs system/Patient.r", "GET", "/Patient/none", 404),
        ("system/DiagnosticReport.cruds", "POST", "/DiagnosticReport/$create-lab-report", 403),
        ("system/DiagnosticReport.create-lab-report", "POST", "/DiagnosticReport/$create-lab-report", 400),
        ("system/DiagnosticReport.create-lab-report", "GET", "/DiagnosticReport", 403),
        ("openid", "GET", "/Patient", 403),
    ],
)
async def test_the_scope_that_was_asked_for_limits_what_a_token_may(
    fhir_as: FhirAs, scope: str, method: str, path: str, status: int
) -> None:
    answer = await (await fhir_as(scope=scope)).request(method, path)
    assert answer.status_code == status
    if status == 403:
        assert issue(answer) == ("forbidden", "Authorization failed")


async def test_a_patients_token_shows_that_patient_alone(fhir: httpx.AsyncClient, fhir_as: FhirAs) -> None:
    own, other = (entry["resource"] for entry in (await fhir.get("/Patient?_count=2")).json()["entry"])
    theirs = await fhir_as(scope="patient/*.*", patient=own["id"])
    assert (await theirs.get("/Patient")).json()["total"] == 1
    assert (await theirs.get("/Observation")).json()["total"] < (await fhir.get("/Observation")).json()[
        "total"
    ]
    assert (await theirs.get(f"/Patient/{own['id']}")).status_code == 200
    assert (await theirs.get(f"/Patient/{other['id']}")).status_code == 403
    assert (await theirs.get("/Practitioner")).json()["total"] == 3
    requester = (await first(fhir, "Practitioner"))["id"]
    assert (await theirs.post("/Task", json=task(requester, own["id"]))).status_code == 201
    assert (await theirs.post("/Task", json=task(requester, other["id"]))).status_code == 403


# --- read and search ---


async def test_a_read_is_dated(fhir: httpx.AsyncClient) -> None:
    patient = await first(fhir, "Patient")
    answer = await fhir.get(f"/Patient/{patient['id']}")
    assert answer.json() == patient
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.headers["last-modified"] == "Mon, 03 Mar 2025 09:00:00 GMT"


async def test_an_unknown_id_is_named_in_the_404(fhir: httpx.AsyncClient) -> None:
    answer = await fhir.get("/Patient/a47c")
    assert answer.status_code == 404
    assert issue(answer) == ("not-found", "Unknown Patient resource 'a47c'")


async def test_there_is_one_briddle(fhir: httpx.AsyncClient) -> None:
    bundle = (await fhir.get("/Patient?name=Briddle")).json()
    assert (bundle["type"], bundle["total"], len(bundle["entry"])) == ("searchset", 1, 1)
    assert bundle["entry"][0]["resource"]["name"][0]["family"] == "Briddle"


def links(bundle: dict[str, Any]) -> dict[str, str]:
    return {link["relation"]: link["url"] for link in bundle["link"]}


async def test_pages_are_ten_long_and_their_links_are_relative(fhir: httpx.AsyncClient) -> None:
    bundle = (await fhir.get("/Patient")).json()
    assert (bundle["total"], len(bundle["entry"])) == (25, 10)
    assert links(bundle) == {
        "self": "/Patient?_count=10&_offset=0",
        "first": "/Patient?_count=10&_offset=0",
        "next": "/Patient?_count=10&_offset=10",
        "last": "/Patient?_count=10&_offset=20",
    }


async def test_links_carry_the_search_along(fhir: httpx.AsyncClient) -> None:
    bundle = (await fhir.get("/Observation?category=a%7Cb,vital-signs&_count=7&_offset=7")).json()
    assert links(bundle)["next"] == "/Observation?category=a%7Cb%2Cvital-signs&_count=7&_offset=14"


async def test_a_count_over_100_gets_100(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    bundle = (await fhir.get("/Observation?_count=1000")).json()
    assert len(bundle["entry"]) == 100
    assert "_count=100&" in links(bundle)["next"]


async def test_an_empty_result_has_neither_entries_nor_links(fhir: httpx.AsyncClient) -> None:
    bundle = (await fhir.get("/Patient?name=Nobody")).json()
    assert bundle == {"resourceType": "Bundle", "type": "searchset", "total": 0}


async def test_following_next_over_more_than_a_thousand_observations_shows_each_once(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    sandbox.store.load("Observation", 1000)
    seen: list[str] = []
    url: str | None = "/Observation?_count=100"
    while url:
        bundle = (await fhir.get(url)).json()
        seen += (entry["resource"]["id"] for entry in bundle["entry"])
        url = links(bundle).get("next")
    assert len(seen) == len(set(seen)) == bundle["total"] == 1310


@pytest.mark.parametrize("query", ["_count=0", "_count=-1", "_count=x", "_offset=-1", "_count=", "_count=٣"])
async def test_a_page_that_makes_no_sense_is_a_400(fhir: httpx.AsyncClient, query: str) -> None:
    answer = await fhir.get(f"/Patient?{query}")
    assert (answer.status_code, issue(answer)[0]) == (400, "invalid")


Check = Callable[[dict[str, Any]], bool]


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("Patient?family=bRID", lambda found: found["name"][0]["family"] == "Briddle"),
        ("Patient?gender=female", lambda found: found["gender"] == "female"),
        ("Patient?birthdate=lt1970", lambda found: found["birthDate"] < "1970"),
        (
            "Patient?birthdate=ge1970-06&birthdate=lt2000",
            lambda found: "1970-06" <= found["birthDate"] < "2000",
        ),
        (
            "Patient?identifier=http%3A%2F%2Fcanvasmedical.com%7C100000003",
            lambda found: found["identifier"][0]["value"] == "100000003",
        ),
        ("Appointment?status=booked", lambda found: found["status"] == "booked"),
        ("Appointment?date=ge2025-06-01", lambda found: found["start"] >= "2025-06-01"),
        ("Observation?code=http%3A%2F%2Floinc.org%7C8867-4", lambda found: "8867-4" in str(found["code"])),
        (
            "Observation?code=8867-4,8310-5",
            lambda found: found["code"]["coding"][0]["code"] in ("8867-4", "8310-5"),
        ),
        ("Observation?category=laboratory", lambda found: "laboratory" in str(found["category"])),
        ("DocumentReference?status=current", lambda found: found["status"] == "current"),
        ("Task?status=requested", lambda found: found["status"] == "requested"),
    ],
)
async def test_a_search_finds_what_fits_and_nothing_else(
    fhir: httpx.AsyncClient, query: str, fits: Check
) -> None:
    kind = query.partition("?")[0]
    found = (await fhir.get(f"/{query}&_count=100")).json()
    assert found["total"] > 0
    assert all(fits(entry["resource"]) for entry in found["entry"])
    everything = (await fhir.get(f"/{kind}?_count=100")).json()
    if everything["total"] <= 100:
        assert found["total"] == sum(fits(entry["resource"]) for entry in everything["entry"])


@pytest.mark.parametrize(
    "kind", ["Appointment", "Observation", "DocumentReference", "Task", "DiagnosticReport"]
)
@pytest.mark.parametrize("form", ["{}", "Patient/{}"])
async def test_a_patients_resources_are_found_by_id_and_by_reference(
    fhir: httpx.AsyncClient, kind: str, form: str
) -> None:
    patient = await first(fhir, "Patient")
    found = (await fhir.get(f"/{kind}", params={"patient": form.format(patient["id"])})).json()
    everything = (await fhir.get(f"/{kind}")).json()
    assert 0 < found["total"] < everything["total"]
    assert all(f"Patient/{patient['id']}" in json.dumps(entry) for entry in found["entry"])


async def test_a_system_that_differs_finds_nothing(fhir: httpx.AsyncClient) -> None:
    assert (await fhir.get("/Observation?code=http%3A%2F%2Fsnomed.info%2Fsct%7C8867-4")).json()["total"] == 0
    assert (await fhir.get("/Observation?code=%7C8867-4")).json()["total"] == 0


async def test_an_unknown_parameter_is_ignored(fhir: httpx.AsyncClient) -> None:
    assert (await fhir.get("/Patient?shoe-size=43")).json()["total"] == 25


async def test_a_posted_search_unites_body_and_query(fhir: httpx.AsyncClient) -> None:
    answer = await fhir.post("/Patient/_search?_count=1", data={"gender": "female"})
    assert answer.status_code == 200
    assert len(answer.json()["entry"]) == 1
    assert links(answer.json())["self"] == "/Patient?gender=female&_count=1&_offset=0"


@pytest.mark.parametrize(
    "media_type", ["application/x-www-form-urlencoded; charset=utf-8", "application/json"]
)
async def test_a_posted_search_of_any_other_type_fails_as_canvas_does(
    fhir: httpx.AsyncClient, media_type: str
) -> None:
    answer = await fhir.post(
        "/Patient/_search", content=b"name=Briddle", headers={"Content-Type": media_type}
    )
    assert (answer.status_code, issue(answer)[0]) == (500, "exception")


# --- create and update ---


async def test_a_location_is_given_in_three_forms(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    requester, patient = (await first(fhir, "Practitioner"))["id"], (await first(fhir, "Patient"))["id"]
    appointment = await first(fhir, "Appointment")
    answers = {
        "Task": await fhir.post("/Task", json=task(requester, patient)),
        "Appointment": await fhir.post("/Appointment", json=appointment),
        "Patient": await fhir.post("/Patient", json=PERSON),
    }
    origins = {
        "Task": sandbox.fumage_url,
        "Appointment": sandbox.fumage_url.replace("http", "https"),
        "Patient": "",
    }
    for kind, answer in answers.items():
        assert (answer.status_code, answer.content) == (201, b"")
        assert "content-type" not in answer.headers
        origin, path, key = answer.headers["location"].rpartition(f"/{kind}/")
        assert (origin, path) == (origins[kind], f"/{kind}/")
        assert (await fhir.get(f"/{kind}/{key}")).json()["id"] == key


async def test_what_was_created_is_read_and_found(fhir: httpx.AsyncClient, clock: Clock) -> None:
    location = (await fhir.post("/Patient", json={**PERSON, "id": "mine"})).headers["location"]
    read = await fhir.get(location)
    assert read.json() == {**PERSON, "id": location.removeprefix("/Patient/")}
    assert read.headers["last-modified"] == "Thu, 01 Jan 2026 00:00:00 GMT"
    assert (await fhir.get("/Patient?name=vasquez")).json()["total"] == 1


async def test_decimals_keep_their_digits(fhir: httpx.AsyncClient) -> None:
    patient = (await first(fhir, "Patient"))["id"]
    body = (
        '{"resourceType":"Observation","status":"final","code":{"text":"x"},'
        f'"subject":{{"reference":"Patient/{patient}"}},"valueQuantity":{{"value":1.00}},'
        '"component":[{"code":{"text":"\\u0000y"},"valueQuantity":{"value":-1E-22}}]}'
    )
    location = (await fhir.post("/Observation", content=body)).headers["location"]
    text = (await fhir.get(location)).text
    assert '"value":1.00}' in text
    assert '"value":-1E-22}' in text


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        pytest.param({**PERSON, "resourceType": "Task"}, "invalid", id="another type"),
        pytest.param([PERSON], "invalid", id="no object"),
        pytest.param({**PERSON, "birthDate": None}, "required", id="null"),
        pytest.param({**PERSON, "name": []}, "required", id="empty list"),
        pytest.param({"resourceType": "Patient", "gender": "male"}, "required", id="missing"),
        pytest.param({**PERSON, "address": [{"city": ""}]}, "value", id="empty string"),
    ],
)
async def test_an_invalid_resource_is_a_422(fhir: httpx.AsyncClient, resource: Any, code: str) -> None:
    answer = await fhir.post("/Patient", json=resource)
    assert (answer.status_code, issue(answer)[0]) == (422, code)


async def test_a_resource_about_a_stranger_is_a_422(fhir: httpx.AsyncClient) -> None:
    answer = await fhir.post("/Task", json=task("x", "stranger"))
    assert (answer.status_code, issue(answer)[0]) == (422, "business-rule")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff{}", b'{"a": NaN}', b"[" * 100_000])
async def test_what_is_not_json_is_a_400(fhir: httpx.AsyncClient, body: bytes) -> None:
    answer = await fhir.post("/Patient", content=body)
    assert (answer.status_code, issue(answer)[0]) == (400, "structure")


async def test_an_update_replaces_the_resource_and_answers_with_an_empty_body(
    fhir: httpx.AsyncClient,
) -> None:
    patient = await first(fhir, "Patient")
    changed = {**patient, "active": False}
    answer = await fhir.put(f"/Patient/{patient['id']}", json=changed)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (await fhir.get(f"/Patient/{patient['id']}")).json() == changed


async def test_an_update_from_an_older_reading_is_a_412_even_within_one_second(
    fhir: httpx.AsyncClient,
) -> None:
    patient = await first(fhir, "Patient")
    path = f"/Patient/{patient['id']}"
    for _ in range(2):
        read = (await fhir.get(path)).headers["last-modified"]
        unmodified = {"If-Unmodified-Since": read}
        assert (await fhir.put(path, json=patient, headers=unmodified)).status_code == 200
        late = await fhir.put(path, json=patient, headers=unmodified)
        assert (late.status_code, issue(late)[0]) == (412, "conflict")


async def test_a_condition_that_is_no_date_is_ignored(fhir: httpx.AsyncClient) -> None:
    patient = await first(fhir, "Patient")
    answer = await fhir.put(
        f"/Patient/{patient['id']}", json=patient, headers={"If-Unmodified-Since": "yesterday"}
    )
    assert answer.status_code == 200


async def test_an_update_neither_creates_nor_renames(fhir: httpx.AsyncClient) -> None:
    patient = await first(fhir, "Patient")
    assert (await fhir.put("/Patient/none", json={**PERSON, "id": "none"})).status_code == 404
    for wrong in ({**patient, "id": "other"}, PERSON):
        answer = await fhir.put(f"/Patient/{patient['id']}", json=wrong)
        assert (answer.status_code, issue(answer)[0]) == (422, "invalid")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/Observation/1"),
        ("POST", "/DiagnosticReport"),
        ("POST", "/Practitioner"),
        ("GET", "/Task/_search"),
    ],
)
async def test_what_canvas_does_not_offer_for_a_type_is_a_405(
    fhir: httpx.AsyncClient, method: str, path: str
) -> None:
    assert (await fhir.request(method, path)).status_code == 405


async def test_a_body_over_the_limit_is_a_413_of_fhir(fhir: httpx.AsyncClient) -> None:
    answer = await fhir.post("/Patient", content=bytes(64 * 2**20 + 1))
    assert (answer.status_code, issue(answer)[0]) == (413, "processing")


# --- the operation ---


def lab_report(patient: str) -> dict[str, Any]:
    def part(name: str, code: str, **more: Any) -> dict[str, Any]:
        coding = {"coding": [{"system": "http://loinc.org", "code": code}]}
        return {
            "name": name,
            "resource": {"resourceType": "Observation", "status": "final", "code": coding, **more},
        }

    report = {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": {"coding": []},
        "subject": {"reference": f"Patient/{patient}"},
        "presentedForm": [{"contentType": "application/pdf", "data": "JVBERg=="}],
    }
    tests = [
        part("labTest", "24325-3"),
        part("labValue", "2885-2", valueQuantity={"value": "9.60", "unit": "g/dL"}),
        part("labValue", "1751-7", valueQuantity={"value": "3.8", "unit": "g/dL"}),
    ]
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "labReport", "resource": report},
            {"name": "labTestCollection", "part": tests},
        ],
    }


async def test_create_lab_report_keeps_the_report_and_its_values(fhir: httpx.AsyncClient) -> None:
    patient = (await first(fhir, "Patient"))["id"]
    answer = await fhir.post("/DiagnosticReport/$create-lab-report", json=lab_report(patient))
    assert answer.status_code == 200
    report = (await fhir.get(f"/DiagnosticReport/{answer.json()['id']}")).json()
    assert len(report["result"]) == 2
    assert "presentedForm" not in report
    values = [await fhir.get(f"/{result['reference']}") for result in report["result"]]
    assert '"value":9.60,' in values[0].text
    assert all(value.json()["subject"] == report["subject"] for value in values)


async def test_the_operations_url_may_be_percent_encoded(fhir: httpx.AsyncClient) -> None:
    patient = (await first(fhir, "Patient"))["id"]
    answer = await fhir.post("/DiagnosticReport/%24create-lab-report", json=lab_report(patient))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"resourceType": "Bundle"},
        {"resourceType": "Parameters"},
        {"resourceType": "Parameters", "parameter": "x"},
        {
            "resourceType": "Parameters",
            "parameter": [{"name": "labReport", "resource": {"resourceType": "Task"}}],
        },
        lab_report("stranger"),
    ],
)
async def test_a_lab_report_that_is_none_is_a_422_and_keeps_nothing(
    sandbox: Sandbox, fhir: httpx.AsyncClient, body: Any
) -> None:
    before = sandbox.store.counts()
    assert (await fhir.post("/DiagnosticReport/$create-lab-report", json=body)).status_code == 422
    assert sandbox.store.counts() == before


async def test_many_creates_at_once_are_all_kept(sandbox: Sandbox, fhir: httpx.AsyncClient) -> None:
    before = sandbox.store.counts()["Patient"]
    answers = await asyncio.gather(*(fhir.post("/Patient", json=PERSON) for _ in range(20)))
    assert len({answer.headers["location"] for answer in answers}) == 20
    assert sandbox.store.counts()["Patient"] == before + 20
