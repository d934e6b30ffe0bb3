import json
import uuid
from typing import Any

import httpx
import pytest
from fhirclient.models import (  # type: ignore[import-untyped]
    appointment,
    bundle,
    capabilitystatement,
    diagnosticreport,
    documentreference,
    observation,
    operationoutcome,
    patient,
    practitioner,
    task,
)

from proxy.sandbox import Sandbox, decimals, scopes
from proxy.sandbox.data import pdf
from proxy.sandbox.kinds import KINDS, fault_in, patient_of

MODELS = {
    "Patient": patient.Patient,
    "Practitioner": practitioner.Practitioner,
    "Appointment": appointment.Appointment,
    "Observation": observation.Observation,
    "DocumentReference": documentreference.DocumentReference,
    "DiagnosticReport": diagnosticreport.DiagnosticReport,
    "Task": task.Task,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_resource_is_valid_r4(fhir: httpx.AsyncClient, sandbox: Sandbox, kind: str) -> None:
    for offset in range(0, sandbox.store.counts()[kind], 100):
        page = (await fhir.get(f"/{kind}?_count=100&_offset={offset}")).json()
        bundle.Bundle(page, strict=True)
        for entry in page["entry"]:
            MODELS[kind](entry["resource"], strict=True)
            assert fault_in(entry["resource"], kind) is None


async def test_bundles_capabilities_and_outcomes_are_valid_r4(fhir: httpx.AsyncClient) -> None:
    capabilitystatement.CapabilityStatement((await fhir.get("/metadata")).json(), strict=True)
    bundle.Bundle((await fhir.get("/Patient?name=Nobody")).json(), strict=True)
    operationoutcome.OperationOutcome((await fhir.get("/Patient/none")).json(), strict=True)


async def test_references_lead_to_resources_that_exist(sandbox: Sandbox) -> None:
    for kind in KINDS:
        for resource in sandbox.store.search(kind, [], None):
            for reference in _references(resource):
                target, _, key = reference.partition("/")
                assert sandbox.store.get(target, key), reference
            assert kind == "Practitioner" or patient_of(resource)


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for item in value.values() for found in _references(item)]
    return [found for item in value for found in _references(item)] if isinstance(value, list) else []


async def test_people_have_ids_without_dashes_and_the_rest_with(sandbox: Sandbox) -> None:
    for kind in KINDS:
        for resource in sandbox.store.search(kind, [], None):
            key = uuid.UUID(resource["id"])
            assert resource["id"] == (key.hex if kind in ("Patient", "Practitioner") else str(key))


@pytest.mark.parametrize("text", ["1.00", "-0.50", "1E-22", "1.5e+300", "0.10000000000000000000001"])
def test_a_decimal_is_written_as_it_was_read(text: str) -> None:
    document = f'{{"value":{text}}}'.encode()
    assert decimals.dumps(decimals.loads(document)) == document


@pytest.mark.parametrize("value", [1, "1.00", "\0x", "\\u00001.0", "é", None, True, [{"a": {}}]])
def test_everything_else_is_written_as_json_has_it(value: Any) -> None:
    assert json.loads(decimals.dumps(decimals.loads(json.dumps(value).encode()))) == value


def test_a_pdf_is_where_its_table_says() -> None:
    data = pdf(r"A (b) \ c")
    table = int(data.split(b"startxref\n")[1].split(b"\n")[0])
    assert data[table:].startswith(b"xref\n0 6\n")
    offsets = [int(line[:10]) for line in data[table:].split(b"\n")[3:8]]
    assert [data[offset : offset + 7] for offset in offsets] == [
        b"%d 0 obj" % number for number in range(1, 6)
    ]
    assert rb"(A \(b\) \\ c) Tj" in data


@pytest.mark.parametrize(
    ("scope", "interaction", "permitted"),
    [
        ("system/*.*", "create-lab-report", True),
        ("system/Patient.read", "s", True),
        ("system/Patient.read", "c", False),
        ("system/Patient.create-lab-report", "c", False),
        ("system/Patient.cruds", "create-lab-report", False),
        ("system/Task.cruds", "r", False),
        ("openid", "r", False),
        ("", "r", False),
    ],
)
def test_a_scope_permits_what_smart_says(scope: str, interaction: str, permitted: bool) -> None:
    assert scopes.permits(scope, "Patient", interaction) is permitted
