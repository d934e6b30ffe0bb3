"""Clients that people really use, given nothing but a base URL: `fumage-proxy serve` before the sandbox."""

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from fhirclient.client import FHIRClient
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.models.task import Task
from fhirpy import AsyncFHIRClient, SyncFHIRClient

from tests.product.command import COMMAND, FREE_PORTS, environment

NAME = "Briddle"
OBSERVATIONS = 310  # in the sandbox's data


@dataclass
class Setup:
    """Where the proxy listens, and the sandbox's control endpoint."""

    url: str
    control: str

    def revoke(self) -> None:
        """All tokens are invalid from now on, and the proxy does not know."""
        assert httpx.post(f"{self.control}/revoke", trust_env=False).json()["revoked"] > 0

    def stats(self) -> Any:
        return httpx.get(f"{self.control}/stats", trust_env=False).json()


@contextmanager
def _process(*arguments: str, cwd: Path, env: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=environment(env), stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=10)


@contextmanager
def a_sandbox(folder: Path, *arguments: str) -> Iterator[tuple[dict[str, str], str]]:
    """The settings that it printed, and its control endpoint."""
    with _process("sandbox", *arguments, cwd=folder, env={}) as process:
        assert process.stdout
        assert process.stderr
        lines = [process.stdout.readline().strip().partition("=") for _ in range(4)]
        control = re.search(r"http://\S+:\d+", process.stderr.readline())
        assert control
        yield {name: value for name, _, value in lines}, control[0]


@contextmanager
def a_proxy(folder: Path, settings: dict[str, str], control: str) -> Iterator[Setup]:
    with _process("--log-level", "error", cwd=folder, env=settings | FREE_PORTS) as process:
        assert process.stderr
        url = re.search(r"Listening on (http://[\d.:]+)", process.stderr.readline())
        assert url
        setup = Setup(url[1], control)
        assert (
            httpx.get(f"{setup.url}/Patient", trust_env=False).status_code == 200
        )  # the first token is there
        yield setup


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    with a_sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        yield running


@pytest.fixture
def setup(sandbox: tuple[dict[str, str], str], tmp_path: Path) -> Iterator[Setup]:
    """A fresh proxy for each test: of revocations within 30 s two are made good, no third one."""
    with a_proxy(tmp_path, *sandbox) as running:
        yield running


@pytest.fixture(autouse=True)
def no_egress_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def a_task(patient: str, requester: str) -> dict[str, Any]:
    return {
        "resourceType": "Task",
        "status": "requested",
        "intent": "unknown",
        "description": "Call back.",
        "for": {"reference": f"Patient/{patient}"},
        "requester": {"reference": f"Practitioner/{requester}"},
        "authoredOn": "2025-03-03T09:00:00+00:00",
    }


def first_id(setup: Setup, kind: str, **query: str) -> str:
    bundle = requests.get(f"{setup.url}/{kind}", params=query, timeout=10).json()
    return str(bundle["entry"][0]["resource"]["id"])


def test_requests_without_a_session(setup: Setup) -> None:
    """A connection a call, as scripts do it; the token is revoked before every write."""
    patient, requester = first_id(setup, "Patient", name=NAME), first_id(setup, "Practitioner")
    task = a_task(patient, requester)
    setup.revoke()
    created = requests.post(f"{setup.url}/Task", json=task, timeout=10)
    assert (created.status_code, created.content) == (201, b"")
    key = created.headers["Location"].rpartition("/")[2]
    setup.revoke()
    updated = requests.put(
        f"{setup.url}/Task/{key}", json=task | {"id": key, "status": "completed"}, timeout=10
    )
    assert updated.status_code == 200
    assert requests.get(f"{setup.url}/Task/{key}", timeout=10).json()["status"] == "completed"


def test_requests_reads_an_attachment_where_a_bearer_would_be_refused(setup: Setup) -> None:
    document = requests.get(f"{setup.url}/DocumentReference", timeout=10).json()["entry"][0]["resource"]
    path = re.sub(r"^https?://[^/]+", "", document["content"][0]["attachment"]["url"])
    answer = requests.get(setup.url + path, timeout=10)
    assert [each.status_code for each in answer.history] == [302]
    assert not answer.url.startswith(setup.url), "the file store is another origin, which refuses a bearer"
    assert (answer.status_code, answer.content[:5]) == (200, b"%PDF-")
    assert "Authorization" not in answer.request.headers


def test_an_attachment_that_is_created_is_read_back(setup: Setup) -> None:
    document = requests.get(f"{setup.url}/DocumentReference", timeout=10).json()["entry"][0]["resource"]
    content = bytes(range(256)) * 4000
    document.pop("id")
    document["content"] = [
        {"attachment": {"contentType": "application/pdf", "data": base64.b64encode(content).decode()}}
    ]
    created = requests.post(f"{setup.url}/DocumentReference", json=document, timeout=10)
    assert created.status_code == 201, created.text
    key = created.headers["Location"].rpartition("/")[2]
    assert requests.get(f"{setup.url}/DocumentReference/{key}/files/content", timeout=10).content == content


def test_httpx_follows_the_pages(setup: Setup) -> None:
    with httpx.Client(base_url=setup.url, trust_env=False) as client:
        seen: set[str] = set()
        next_page: str | None = "/Observation?_count=50"
        while next_page:
            bundle = client.get(next_page).json()
            seen |= {entry["resource"]["id"] for entry in bundle["entry"]}
            next_page = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
            if len(seen) == 100:
                setup.revoke()  # in the middle
    assert len(seen) >= OBSERVATIONS


async def test_httpx_async_searches_by_post(setup: Setup) -> None:
    async with httpx.AsyncClient(base_url=setup.url, trust_env=False) as client:
        answer = await client.post("/Patient/_search", data={"name": NAME})
    assert answer.status_code == 200
    assert answer.json()["entry"][0]["resource"]["name"][0]["family"] == NAME


def test_fhirpy_sync(setup: Setup) -> None:
    client = SyncFHIRClient(setup.url)
    patient = client.resources("Patient").search(name=NAME).first()
    requester = client.resources("Practitioner").first()
    setup.revoke()
    # The id of what was created stands in Location alone (Canvas answers without a body).
    fields = a_task(patient.id, requester.id)
    client.resource(fields.pop("resourceType"), **fields).save()
    task = client.resources("Task").search(patient=f"Patient/{patient.id}").first()
    task["description"] = "Called back."
    task.save()
    assert client.reference("Task", task.id).to_resource()["description"] == "Called back."


async def test_fhirpy_async_fetches_all_pages(setup: Setup) -> None:
    client = AsyncFHIRClient(setup.url)
    setup.revoke()
    assert len(await client.resources("Observation").limit(100).fetch_all()) >= OBSERVATIONS


def test_fhirclient(setup: Setup) -> None:
    smart = FHIRClient(settings={"app_id": "test", "api_base": setup.url})
    assert smart.prepare()
    [patient] = Patient.where({"name": NAME}).perform_resources_iter(smart.server)
    assert Patient.read(patient.id, smart.server).name[0].family == NAME
    setup.revoke()
    task = Task(a_task(patient.id, first_id(setup, "Practitioner")))
    task.create(smart.server)  # whose answer is empty, too
    known = next(Task.where({"patient": f"Patient/{patient.id}"}).perform_resources_iter(smart.server))
    known.description = "Called twice."
    setup.revoke()
    known.update(smart.server)
    assert Task.read(known.id, smart.server).description == "Called twice."


def test_fhirclient_pages_by_offset_since_it_refuses_relative_links(setup: Setup) -> None:
    """Fumage's links are paths, which FHIR allows, and fhirclient takes http and https URLs alone."""
    smart = FHIRClient(settings={"app_id": "test", "api_base": setup.url})
    with pytest.raises(ValueError, match="Invalid URL scheme"):
        list(Observation.where({"_count": "100"}).perform_resources_iter(smart.server))
    seen: set[str] = set()
    while page := _page(smart, len(seen)):
        seen |= {resource.id for resource in page}
    assert len(seen) >= OBSERVATIONS


def _page(smart: FHIRClient, offset: int) -> list[Observation]:
    search = Observation.where({"_count": "100", "_offset": str(offset)})
    return list(islice(search.perform_resources_iter(smart.server), 100))  # which asks for no further page


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl(setup: Setup) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.check_output(
            ["curl", "-sS", "--noproxy", "*", "--max-time", "10", *arguments], text=True
        )

    setup.revoke()
    assert NAME in curl(f"{setup.url}/Patient?name={NAME}")
    assert NAME in curl("--data", f"name={NAME}", f"{setup.url}/Patient/_search")
    key = first_id(setup, "DocumentReference")
    path = f"/DocumentReference/{key}/files/content"
    assert curl("-L", "-o", "/dev/null", "-w", "%{http_code}", setup.url + path) == "200"


def test_no_request_fails_while_tokens_expire(tmp_path: Path) -> None:
    """A token lives for a second, and each is replaced ahead of its end: no 401 ever comes about."""
    with (
        a_sandbox(tmp_path, "--token-lifetime", "1s") as short_lived,
        a_proxy(tmp_path, *short_lived) as setup,
        httpx.Client(base_url=setup.url, trust_env=False) as client,
    ):
        while setup.stats()["tokens"]["issued"] < 3:
            assert client.get("/Patient?_count=1").status_code == 200
        assert setup.stats()["fumage_requests"]["by_status"].keys() == {"200"}
