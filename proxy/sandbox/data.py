"""A small, made-up practice: the same people with the same ids at every start."""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from .decimals import decimal
from .kinds import Resource

# One fixed day, so that ids, dates and search results can stand in users' tests.
EPOCH = datetime(2025, 3, 3, 9, tzinfo=UTC)
PATIENTS = 25

# fmt: off
_FAMILIES = (
    "Briddle", "Okafor", "Lindqvist", "Marchetti", "Tran", "Haddad", "Novak", "Alvarez", "Kimura",
    "Doyle", "Petrov", "Achterberg", "Silva", "Banerjee", "Whitlock", "Moreau", "Castellanos", "Nwosu",
    "Hale", "Ivanova", "Rutherford", "Zielinski", "Park", "Osei", "Farrow",
)
_GIVEN = {
    "female": ("Ada", "Ines", "Rosalind", "Mei", "Farida", "Clara", "Yuki", "Noor", "Greta", "Amara"),
    "male": ("Hugo", "Tomas", "Idris", "Samuel", "Kenji", "Leon", "Arjun", "Oscar", "Mateo", "Felix"),
}
# fmt: on
_STREETS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Hawthorn", "Juniper")
_CITIES = (
    ("Oakland", "CA", "94601"),
    ("Eugene", "OR", "97401"),
    ("Tacoma", "WA", "98402"),
    ("Reno", "NV", "89501"),
)

# LOINC code, display, unit, UCUM code, lowest and highest value in tenths, decimals
_VITALS = (
    ("8867-4", "Heart rate", "beats/min", "/min", 560, 940, 0),
    ("9279-1", "Respiratory rate", "breaths/min", "/min", 120, 200, 0),
    ("59408-5", "Oxygen saturation", "%", "%", 940, 1000, 0),
    ("8310-5", "Body temperature", "°C", "Cel", 361, 374, 1),
    ("29463-7", "Body weight", "kg", "kg", 480, 1050, 2),
    ("8302-2", "Body height", "cm", "cm", 1500, 1930, 1),
)
_LABS = (
    ("2339-0", "Glucose", "mg/dL", "mg/dL", 700, 1250, 1),
    ("4548-4", "Hemoglobin A1c", "%", "%", 48, 74, 2),
)
_VISITS = (
    ("308335008", "Office visit"),
    ("448337001", "Telemedicine"),
    ("185389009", "Follow-up visit"),
)
_PAPERS = (
    ("34108-1", "Outpatient Note", "clinical-note"),
    ("11502-2", "Laboratory report", "labreport"),
    ("34895-3", "Education note", "educationalmaterial"),
)
_LOINC = "http://loinc.org"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"


class Practice:
    """Makes resources. Whoever asks for the same in the same order gets the same."""

    def __init__(self, base_url: str, seed: int = 1):
        self._base_url = base_url
        self._random = random.Random(seed)
        self._made = 0
        self._practitioners: list[Resource] = []
        self._patients: list[Resource] = []

    def everything(self) -> Iterator[Resource]:
        """The data set of a fresh sandbox."""
        self._practitioners = [
            self._practitioner(*name)
            for name in (("Vera", "Sandoval"), ("Theo", "Brandt"), ("Ruth", "Abara"))
        ]
        yield from self._practitioners
        for _ in range(PATIENTS):
            patient = self.patient()
            yield patient
            yield from (self._appointment(patient, visit) for visit in range(2))
            for visit in range(2):
                yield from (self.observation(patient, vital, visit * 90) for vital in _VITALS)
            yield self._document(patient)
        for patient in self._patients[:5]:
            labs = [self.observation(patient, lab, 7) for lab in _LABS]
            yield from labs
            yield self._report(patient, labs)
            yield self._task(patient)

    def more(self, resource_type: str, count: int) -> Iterator[Resource]:
        """`count` further Patients or Observations."""
        for number in range(count):
            if resource_type == "Patient":
                yield self.patient()
            else:
                patient = self._patients[number % len(self._patients)]
                yield self.observation(patient, _VITALS[number % len(_VITALS)], number // len(self._patients))

    def patient(self) -> Resource:
        number = len(self._patients)
        gender = self._random.choice(("female", "male"))
        family = _FAMILIES[number] if number < len(_FAMILIES) else f"{_FAMILIES[1 + number % 24]}-{number}"
        given = self._random.choice(_GIVEN[gender])
        city, state, postal_code = self._random.choice(_CITIES)
        born = date(1938, 1, 1) + timedelta(days=self._random.randrange(27_000))
        patient: Resource = {
            "resourceType": "Patient",
            "id": self._key().hex,  # Canvas writes the ids of people without dashes
            "extension": [
                {
                    "url": "http://hl7.org/fhir/us/core/StructureDefinition/us-core-birthsex",
                    "valueCode": gender[0].upper(),
                }
            ],
            "identifier": [
                {
                    "use": "usual",
                    "type": {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "MR"}]},
                    "system": "http://canvasmedical.com",
                    "value": f"{100_000_000 + number}",
                    "assigner": {"display": "Canvas Medical"},
                }
            ],
            "active": True,
            "name": [{"use": "official", "family": family, "given": [given]}],
            # 555-01xx numbers and example.com belong to nobody.
            "telecom": [
                {"system": "phone", "value": f"555555{100 + number % 100:04}", "use": "mobile", "rank": 1},
                {
                    "system": "email",
                    "value": f"{given}.{family}@example.com".lower(),
                    "use": "home",
                    "rank": 1,
                },
            ],
            "gender": gender,
            "birthDate": born.isoformat(),
            "deceasedBoolean": False,
            "address": [
                {
                    "use": "home",
                    "type": "both",
                    "line": [f"{self._random.randrange(10, 990)} {self._random.choice(_STREETS)} St."],
                    "city": city,
                    "state": state,
                    "postalCode": postal_code,
                    "country": "United States",
                }
            ],
        }
        self._patients.append(patient)
        return patient

    def observation(self, patient: Resource, measure: tuple[Any, ...], days: int) -> Resource:
        code, display, unit, ucum, low, high, decimals = measure
        lab = measure in _LABS
        taken = self._moment(days)
        tenths = self._random.randint(low, high)
        return {
            "resourceType": "Observation",
            "id": str(self._key()),
            "status": "final",
            "category": [
                _concept(
                    f"{_TERMINOLOGY}/observation-category",
                    *(("laboratory", "Laboratory") if lab else ("vital-signs", "Vital Signs")),
                )
            ],
            "code": _concept(_LOINC, code, display),
            "subject": _reference(patient),
            "effectiveDateTime": taken,
            "issued": taken,
            "valueQuantity": {
                "value": tenths // 10 if not decimals else decimal(f"{tenths / 10:.{decimals}f}"),
                "unit": unit,
                "system": "http://unitsofmeasure.org",
                "code": ucum,
            },
        }

    def _practitioner(self, given: str, family: str) -> Resource:
        return {
            "resourceType": "Practitioner",
            "id": self._key().hex,
            "active": True,
            "name": [{"use": "usual", "text": f"{given} {family}", "family": family, "given": [given]}],
        }

    def _appointment(self, patient: Resource, visit: int) -> Resource:
        code, display = self._random.choice(_VISITS)
        start = EPOCH + timedelta(
            days=visit * 90 + self._random.randrange(30), minutes=30 * self._random.randrange(16)
        )
        actors = (patient, self._random.choice(self._practitioners))
        return {
            "resourceType": "Appointment",
            "id": str(self._key()),
            "status": ("fulfilled", "booked")[visit],
            "appointmentType": _concept("http://snomed.info/sct", code, display),
            "description": display,
            "start": start.isoformat(),
            "end": (start + timedelta(minutes=30)).isoformat(),
            "participant": [{"actor": _reference(actor), "status": "accepted"} for actor in actors],
        }

    def _document(self, patient: Resource) -> Resource:
        code, display, category = self._random.choice(_PAPERS)
        name = str(self._key())
        return {
            "resourceType": "DocumentReference",
            "id": name,
            "status": "current",
            "type": {**_concept(_LOINC, code, display), "text": display},
            "category": [
                _concept("http://schemas.canvasmedical.com/fhir/document-reference-category", category)
            ],
            "subject": _reference(patient),
            "date": self._moment(3),
            "author": [_reference(self._random.choice(self._practitioners))],
            "description": display,
            "content": [
                {
                    "attachment": {
                        "contentType": "application/pdf",
                        "url": attachment_url(self._base_url, name),
                    }
                }
            ],
        }

    def _report(self, patient: Resource, labs: list[Resource]) -> Resource:
        return {
            "resourceType": "DiagnosticReport",
            "id": str(self._key()),
            "status": "final",
            "category": [_concept(f"{_TERMINOLOGY}/v2-0074", "LAB", "Laboratory")],
            "code": _concept(_LOINC, "24323-8", "Comprehensive metabolic panel"),
            "subject": _reference(patient),
            "effectiveDateTime": labs[0]["effectiveDateTime"],
            "issued": labs[0]["issued"],
            "result": [_reference(lab) for lab in labs],
        }

    def _task(self, patient: Resource) -> Resource:
        requester, owner = self._random.sample(self._practitioners, 2)
        return {
            "resourceType": "Task",
            "id": str(self._key()),
            "status": "requested",
            "intent": "unknown",
            "description": "Ask for the new insurance card.",
            "for": _reference(patient),
            "authoredOn": self._moment(14),
            "requester": _reference(requester),
            "owner": _reference(owner),
        }

    def _key(self) -> uuid.UUID:
        return uuid.UUID(int=self._random.getrandbits(128), version=4)

    def _moment(self, days: int) -> str:
        self._made += 1
        return (EPOCH + timedelta(days=days, seconds=self._made % 25_000)).isoformat()


def attachment_url(base_url: str, document: str) -> str:
    """Where Canvas says that a document's file is: absolute, and the bearer is needed."""
    return f"{base_url}/DocumentReference/{document}/files/content"


def pdf(title: str) -> bytes:
    """One page that shows `title` (printable ASCII)."""
    shown = title.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
    drawing = f"BT /F1 18 Tf 72 720 Td ({shown}) Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        " /Resources << /Font << /F1 5 0 R >> >> >>",
        f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    out, offsets = "%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return f"{out}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode("ascii", "replace")


def _concept(system: str, code: str, display: str | None = None) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code} | ({"display": display} if display else {})]}


def _reference(resource: Resource) -> dict[str, str]:
    return {"reference": f"{resource['resourceType']}/{resource['id']}", "type": resource["resourceType"]}
