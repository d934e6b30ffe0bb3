import base64
from typing import Any

import httpx
import pytest

from proxy.sandbox import Sandbox

from .conftest import Clock, FhirAs, TokenFor


async def a_document(fhir: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await fhir.get("/DocumentReference?_count=1")).json()["entry"][0]["resource"]
    return found


async def presigned(fhir: httpx.AsyncClient) -> str:
    url = (await a_document(fhir))["content"][0]["attachment"]["url"]
    return (await fhir.get(url)).headers["location"]


async def test_an_attachment_is_an_absolute_url_below_the_base(
    sandbox: Sandbox, fhir: httpx.AsyncClient
) -> None:
    document = await a_document(fhir)
    url = document["content"][0]["attachment"]["url"]
    assert url == f"{sandbox.fumage_url}/DocumentReference/{document['id']}/files/content"


async def test_an_attachment_needs_the_bearer(
    sandbox: Sandbox, fhir: httpx.AsyncClient, http: httpx.AsyncClient, fhir_as: FhirAs
) -> None:
    url = (await a_document(fhir))["content"][0]["attachment"]["url"]
    assert (await http.get(url)).status_code == 401
    assert (await (await fhir_as(scope="user/Patient.read")).get(url)).status_code == 403


async def test_with_the_bearer_it_redirects_to_a_presigned_url_of_another_origin(
    sandbox: Sandbox, fhir: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    document = await a_document(fhir)
    answer = await fhir.get(document["content"][0]["attachment"]["url"])
    assert answer.status_code == 302
    location = httpx.URL(answer.headers["location"])
    assert location.port != httpx.URL(sandbox.fumage_url).port
    assert location.path == f"/presigned/{document['id']}"
    assert location.params["X-Amz-Expires"] == "600"
    file = await http.get(location)
    assert file.headers["content-type"] == "application/pdf"
    assert file.content.startswith(b"%PDF-")


async def test_the_file_store_refuses_a_bearer_and_echoes_it(
    fhir: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    answer = await http.get(await presigned(fhir), headers={"Authorization": "Bearer a<b"})
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/xml")
    assert "<Code>InvalidArgument</Code>" in answer.text
    assert "Only one auth mechanism allowed" in answer.text
    assert "<ArgumentValue>Bearer a&lt;b</ArgumentValue>" in answer.text


async def test_a_presigned_url_is_good_for_ten_minutes(
    fhir: httpx.AsyncClient, http: httpx.AsyncClient, clock: Clock
) -> None:
    clock.now = float(int(clock.now))  # the URL's own date has whole seconds
    url = await presigned(fhir)
    clock.now += 599.9
    assert (await http.get(url)).status_code == 200
    clock.now += 0.1
    answer = await http.get(url)
    assert (answer.status_code, "AccessDenied" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.copy_set_param("X-Amz-Date", "20990101T000000Z"),
        lambda url: url.copy_set_param("X-Amz-Signature", "0"),
        lambda url: url.copy_set_param("X-Amz-Signature", "é"),
        lambda url: url.copy_with(query=None),
        lambda url: url.copy_with(path="/presigned/other"),
    ],
    ids=["date", "signature", "not ASCII", "no query", "document"],
)
async def test_a_changed_presigned_url_is_refused(
    fhir: httpx.AsyncClient, http: httpx.AsyncClient, change: Any
) -> None:
    answer = await http.get(change(httpx.URL(await presigned(fhir))))
    assert (answer.status_code, "SignatureDoesNotMatch" in answer.text) == (403, True)


async def test_a_presigned_url_is_for_reading(fhir: httpx.AsyncClient, http: httpx.AsyncClient) -> None:
    assert (await http.put(await presigned(fhir))).status_code == 405


async def test_an_unknown_document_has_no_file(fhir: httpx.AsyncClient) -> None:
    assert (await fhir.get("/DocumentReference/none/files/content")).status_code == 404


async def test_a_created_document_hands_its_bytes_out_again(
    fhir: httpx.AsyncClient, http: httpx.AsyncClient, token_for: TokenFor
) -> None:
    data = bytes(range(256)) * 8192
    document = await a_document(fhir)
    attachment = {"contentType": "image/png", "data": base64.b64encode(data).decode()}
    location = (
        await fhir.post("/DocumentReference", json={**document, "content": [{"attachment": attachment}]})
    ).headers["location"]
    assert location.startswith("https://")
    created = (await fhir.get(location.replace("https:", "http:"))).json()["content"][0]["attachment"]
    assert sorted(created) == ["contentType", "url"]
    file = await http.get((await fhir.get(created["url"])).headers["location"])
    assert file.headers["content-type"] == "image/png"
    assert file.content == data


@pytest.mark.parametrize(
    "content",
    [
        "x",
        [{"attachment": "x"}],
        [{"attachment": {"contentType": "image/png"}}],
        [{"attachment": {"contentType": "image/png", "data": "*"}}],
        [{"attachment": {"contentType": "image/png", "data": "é"}}],
        [{"attachment": {"contentType": "image/png", "data": "AA=="}}] * 2,
    ],
)
async def test_a_document_without_a_file_is_a_422(fhir: httpx.AsyncClient, content: Any) -> None:
    document = {**await a_document(fhir), "content": content}
    assert (await fhir.post("/DocumentReference", json=document)).status_code == 422
