from typing import Any

import httpx
import pytest

from proxy.sandbox import Sandbox

from .conftest import TokenFor


async def test_the_overview_lists_the_commands_and_the_state(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    overview = (await http.get(sandbox.control_url)).json()
    assert set(overview["commands"]) == {
        "GET /",
        "GET /stats",
        "POST /revoke",
        "POST /faults",
        "POST /faults/reset",
        "POST /load",
    }
    assert "cut" in overview["kinds"]["fumage"]
    assert overview["faults"] == {"token_endpoint": None, "fumage": None, "slow_by": 5.0}


async def test_revoke_makes_all_tokens_invalid(
    sandbox: Sandbox, http: httpx.AsyncClient, token_for: TokenFor
) -> None:
    tokens = [await token_for() for _ in range(2)]
    assert (await http.post(f"{sandbox.control_url}/revoke")).json() == {"revoked": 2}
    for token in tokens:
        answer = await http.get(f"{sandbox.fumage_url}/Patient", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401


@pytest.mark.parametrize("form", ["json", "data", "params"])
async def test_faults_are_set_by_json_form_or_query(
    sandbox: Sandbox, http: httpx.AsyncClient, form: str
) -> None:
    wanted = {"token_endpoint": "down", "fumage": "cut", "slow_by": "2", "times": "1"}
    answer = await http.post(f"{sandbox.control_url}/faults", **{form: wanted})  # type: ignore[arg-type]
    assert answer.json()["faults"] == {
        "token_endpoint": {"kind": "down", "times": 1},
        "fumage": {"kind": "cut", "times": 1},
        "slow_by": 2.0,
    }
    assert sandbox.faults.take("fumage", "cut") == "cut"


async def test_json_may_write_numbers_as_numbers(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    wanted = {"fumage": "slow", "slow_by": 0.25, "times": 3}
    answer = await http.post(f"{sandbox.control_url}/faults", json=wanted)
    assert answer.json()["faults"]["fumage"] == {"kind": "slow", "times": 3}
    assert sandbox.faults.slow_by == 0.25


async def test_off_and_null_end_a_fault(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    sandbox.faults.set(token_endpoint="down", fumage="cut")
    answer = await http.post(f"{sandbox.control_url}/faults", json={"token_endpoint": "off", "fumage": None})
    assert answer.json()["faults"] == {"token_endpoint": None, "fumage": None, "slow_by": 5.0}


async def test_reset_ends_all_faults(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    sandbox.faults.set(token_endpoint="down", fumage="slow", slow_by=1)
    answer = await http.post(f"{sandbox.control_url}/faults/reset")
    assert answer.json()["faults"] == {"token_endpoint": None, "fumage": None, "slow_by": 5.0}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/faults", {}, "nothing to set"),
        ("/faults", {"fumage": "explode"}, "fumage knows slow, reset, cut"),
        ("/faults", {"fumage": ["cut"]}, "fumage knows slow"),
        ("/faults", {"fumage": 1}, "fumage knows slow"),
        ("/faults", {"token_endpoint": "cut"}, "token_endpoint knows down"),
        ("/faults", {"emr": "down"}, "unknown field 'emr'; there are token_endpoint, fumage, slow_by, times"),
        ("/faults", {"fumage": "cut", "times": 0}, "times is a whole number from 1 on"),
        ("/faults", {"times": 1}, "times needs a fault"),
        ("/faults", {"slow_by": "soon"}, "no duration"),
        ("/faults", {"slow_by": True}, "slow_by is a duration"),
        ("/faults", ["cut"], "not a JSON object"),
        ("/load", {}, "count is a whole number"),
        ("/load", {"count": -1}, "count is a whole number"),
        ("/load", {"count": True}, "count is a whole number"),
        ("/load", {"count": 0}, "count lies between 1 and"),
        ("/load", {"count": 10**9}, "count lies between 1 and"),
        ("/load", {"count": 1, "type": "Task"}, "type is one of Observation, Patient"),
        ("/load", {"count": 1, "type": 7}, "type is one of Observation, Patient"),
    ],
)
async def test_what_makes_no_sense_is_a_400_that_says_what_would(
    sandbox: Sandbox, http: httpx.AsyncClient, path: str, body: Any, said: str
) -> None:
    answer = await http.post(sandbox.control_url + path, json=body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


async def test_a_body_that_is_no_json_is_a_400(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    answer = await http.post(
        f"{sandbox.control_url}/faults", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "the body is not JSON")


@pytest.mark.parametrize(("method", "path"), [("GET", "/revoke"), ("POST", "/"), ("POST", "/nothing")])
async def test_an_unknown_command_is_answered_with_the_known_ones(
    sandbox: Sandbox, http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(method, sandbox.control_url + path)
    assert answer.status_code == 404
    assert "POST /revoke" in answer.json()["commands"]


@pytest.mark.parametrize("kind", ["Observation", "Patient"])
async def test_load_adds_resources_that_are_all_different(
    sandbox: Sandbox, http: httpx.AsyncClient, kind: str
) -> None:
    before = sandbox.store.counts()[kind]
    answer = await http.post(f"{sandbox.control_url}/load", params={"count": "1000", "type": kind})
    assert answer.json()["resources"][kind] == before + 1000


async def test_load_means_observations_unless_told_otherwise(
    sandbox: Sandbox, http: httpx.AsyncClient
) -> None:
    before = sandbox.store.counts()["Observation"]
    answer = await http.post(f"{sandbox.control_url}/load?count=1000")
    assert answer.json()["resources"]["Observation"] == before + 1000


async def test_stats_tell_what_was_seen(
    sandbox: Sandbox, http: httpx.AsyncClient, fhir: httpx.AsyncClient
) -> None:
    await http.post(sandbox.token_url, data={"grant_type": "client_credentials"})
    for path in ("/Patient", "/Patient/none", "/metadata"):
        await fhir.get(path)
    document = (await fhir.get("/DocumentReference?_count=1")).json()["entry"][0]["resource"]
    url = (await fhir.get(document["content"][0]["attachment"]["url"])).headers["location"]
    await http.get(url)
    sandbox.faults.set(fumage="reset", times=1)
    with pytest.raises(httpx.HTTPError):
        await fhir.get("/Patient")
    stats = (await http.get(f"{sandbox.control_url}/stats")).json()
    assert stats["token_requests"] == {"total": 2, "by_status": {"200": 1, "401": 1}}
    assert stats["fumage_requests"] == {"total": 6, "by_status": {"200": 3, "302": 1, "404": 1, "reset": 1}}
    assert stats["file_requests"] == {"total": 1, "by_status": {"200": 1}}
    assert stats["tokens"] == {"issued": 1, "live": 1}
