"""Clients that follow links, through a proxy that rewrites them: `fumage-proxy serve` before the sandbox."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import requests
from fhirclient.client import FHIRClient
from fhirclient.models.documentreference import DocumentReference
from fhirclient.models.task import Task
from fhirpy import AsyncFHIRClient, SyncFHIRClient

from tests.product.test_real_clients import Setup, a_proxy, a_sandbox, a_task, first_id

TASKS = 1000


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], str]]:
    """One with more Tasks than any page holds, created through a proxy."""
    folder = tmp_path_factory.mktemp("sandbox")
    with a_sandbox(folder) as running, a_proxy(folder, *running) as setup, requests.Session() as session:
        task = a_task(first_id(setup, "Patient"), first_id(setup, "Practitioner"))
        for _ in range(TASKS):
            assert session.post(f"{setup.url}/Task", json=task, timeout=10).status_code == 201
        yield running


def proxy(sandbox: tuple[dict[str, str], str], folder: Path, links: str) -> AbstractContextManager[Setup]:
    settings, control = sandbox
    return a_proxy(folder, settings | {"FUMAGE_PROXY_LINKS": links}, control)


@pytest.fixture(autouse=True)
def no_egress_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("links", ["location", "bundle", "all,absolute"])
async def test_fhirpy_pages_through_a_thousand(
    sandbox: tuple[dict[str, str], str], tmp_path: Path, links: str
) -> None:
    with proxy(sandbox, tmp_path, links) as setup:
        tasks = SyncFHIRClient(setup.url).resources("Task").limit(100).fetch_all()
        assert len({task.id for task in tasks}) >= TASKS
        tasks = await AsyncFHIRClient(setup.url).resources("Task").limit(50).fetch_all()
        assert len({task.id for task in tasks}) >= TASKS


def test_fhirclient_pages_through_a_thousand_when_links_are_absolute(
    sandbox: tuple[dict[str, str], str], tmp_path: Path
) -> None:
    with proxy(sandbox, tmp_path, "bundle,absolute") as setup:
        smart = FHIRClient(settings={"app_id": "test", "api_base": setup.url})
        found = Task.where({"_count": "100"}).perform_resources_iter(smart.server)
        assert len({task.id for task in found}) >= TASKS


@pytest.mark.parametrize("links", ["all", "all,absolute"])
def test_an_app_without_a_token_opens_a_document_at_the_address_that_the_resource_names(
    sandbox: tuple[dict[str, str], str], tmp_path: Path, links: str
) -> None:
    with proxy(sandbox, tmp_path, links) as setup:
        key = first_id(setup, "DocumentReference")
        smart = FHIRClient(settings={"app_id": "test", "api_base": setup.url})
        url = DocumentReference.read(key, smart.server).content[0].attachment.url
        assert url == f"{setup.url}/DocumentReference/{key}/files/content"
        answer = requests.get(url, timeout=10)
        [redirect] = answer.history
        assert redirect.status_code == 302
        assert redirect.headers["Location"] == answer.url
        assert not answer.url.startswith(setup.url), (
            "the file store is another origin, which refuses a bearer"
        )
        assert "Authorization" not in answer.request.headers
        assert (answer.status_code, answer.content[:5]) == (200, b"%PDF-")
