import base64
from typing import Any

import httpx
import pytest

from proxy.sandbox import Sandbox

GOOD = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": "sandbox-secret"}


async def test_a_token_answer_has_the_shape_that_django_oauth_toolkit_gives_it(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    answer = await http.post(sandbox.token_url, data=GOOD)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert len(body.pop("access_token")) == 30
    assert body == {"expires_in": 36000, "token_type": "Bearer", "scope": "system/*.*"}


async def test_every_token_request_gets_another_token(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    tokens = {(await http.post(sandbox.token_url, data=GOOD)).json()["access_token"] for _ in range(3)}
    assert len(tokens) == 3


async def test_http_basic_serves_as_well_and_is_form_decoded(http: httpx.AsyncClient) -> None:
    async with Sandbox(client_id="a b", client_secret="s:/%+é") as sandbox:
        credentials = base64.b64encode(b"a+b:s%3A%2F%25%2B%C3%A9").decode()
        answer = await http.post(
            sandbox.token_url,
            data={"grant_type": "client_credentials"},
            headers={"Authorization": f"Basic {credentials}"},
        )
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        pytest.param({**GOOD, "grant_type": ""}, 400, "unsupported_grant_type", id="no grant type"),
        pytest.param(
            {**GOOD, "grant_type": "x", "client_secret": "x"}, 400, "unsupported_grant_type", id="unknown"
        ),
        pytest.param({**GOOD, "grant_type": "refresh_token"}, 400, "unauthorized_client", id="not for it"),
        pytest.param({**GOOD, "client_secret": "x"}, 401, "invalid_client", id="wrong secret"),
        pytest.param({**GOOD, "client_id": "x"}, 401, "invalid_client", id="wrong client"),
        pytest.param({"grant_type": "client_credentials"}, 401, "invalid_client", id="no client"),
        pytest.param({**GOOD, "scope": "system/Patient.readd"}, 400, "invalid_scope", id="misspelt scope"),
        pytest.param({**GOOD, "scope": "system/Patient."}, 400, "invalid_scope", id="scope without letters"),
        pytest.param({**GOOD, "scope": "system/Patient.sr"}, 400, "invalid_scope", id="letters out of order"),
        pytest.param({**GOOD, "patient": "p"}, 400, "invalid_request", id="patient without scope"),
        pytest.param({**GOOD, "scope": ["openid", "openid"]}, 400, "invalid_request", id="scope twice"),
    ],
)
async def test_a_wrong_form_is_refused_with_the_error_of_rfc_6749(
    sandbox: Sandbox, http: httpx.AsyncClient, form: dict[str, Any], status: int, error: str
) -> None:
    answer = await http.post(sandbox.token_url, data=form)
    assert answer.status_code == status
    assert answer.json()["error"] == error


async def test_a_refused_client_is_told_so_in_www_authenticate(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    answer = await http.post(sandbox.token_url, data={**GOOD, "client_secret": "x"})
    assert answer.content == b'{"error": "invalid_client"}'
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_client"'


@pytest.mark.parametrize("scope", ["openid", "system/Patient.rs user/*.read patient/Task.*"])
async def test_a_scope_that_was_asked_for_is_the_scope_that_is_granted(
    sandbox: Sandbox, http: httpx.AsyncClient, scope: str
) -> None:
    answer = await http.post(sandbox.token_url, data={**GOOD, "scope": scope})
    assert answer.json()["scope"] == scope


async def test_only_a_form_counts_as_a_form(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.post(sandbox.token_url, json=GOOD)
    assert (answer.status_code, answer.json()) == (400, {"error": "unsupported_grant_type"})
    with_charset = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert (await http.post(sandbox.token_url, data=GOOD, headers=with_charset)).status_code == 200


async def test_the_query_is_no_place_for_credentials(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.post(sandbox.token_url, params=GOOD)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_get_is_not_allowed(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.get(sandbox.token_url)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_a_url_without_its_slash_is_redirected(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.post(sandbox.token_url.rstrip("/"), data=GOOD)
    assert (answer.status_code, answer.headers["location"]) == (301, "/auth/token/")


async def test_other_paths_of_the_emr_are_unknown(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    assert (await http.post(sandbox.token_url + "x", data=GOOD)).status_code == 404


@pytest.mark.parametrize(("lifetime", "told"), [(36_000, 36_000), (10.9, 10), (0.25, 1)])
async def test_expires_in_is_whole_seconds(http: httpx.AsyncClient, lifetime: float, told: int) -> None:
    async with Sandbox(token_lifetime=lifetime) as sandbox:
        assert (await http.post(sandbox.token_url, data=GOOD)).json()["expires_in"] == told
