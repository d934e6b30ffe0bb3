from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from proxy.sandbox import Sandbox

START = 1_767_225_600.5  # 2026-01-01T00:00:00.5Z


class Clock:
    """Seconds since the epoch, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def sandbox(clock: Clock) -> AsyncIterator[Sandbox]:
    async with Sandbox(clock=clock) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client without any credential, which follows no redirect."""
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


TokenFor = Callable[..., Awaitable[str]]


@pytest.fixture
def token_for(sandbox: Sandbox, http: httpx.AsyncClient) -> TokenFor:
    async def fetch(**fields: str) -> str:
        credentials = {"client_id": sandbox.client_id, "client_secret": sandbox.client_secret}
        form = {"grant_type": "client_credentials", **credentials, **fields}
        return str((await http.post(sandbox.token_url, data=form)).raise_for_status().json()["access_token"])

    return fetch


FhirAs = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def fhir_as(sandbox: Sandbox, token_for: TokenFor) -> AsyncIterator[FhirAs]:
    """Makes clients of the FHIR API whose tokens were asked for with the given form fields."""
    clients: list[httpx.AsyncClient] = []

    async def make(**fields: str) -> httpx.AsyncClient:
        bearer = {"Authorization": f"Bearer {await token_for(**fields)}"}
        clients.append(httpx.AsyncClient(base_url=sandbox.fumage_url, headers=bearer, trust_env=False))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
async def fhir(fhir_as: FhirAs) -> httpx.AsyncClient:
    """A client of the FHIR API with a token that may do everything."""
    return await fhir_as()
