"""A check in the test's own process, before a fake Fumage and a fake EMR; what it must never print is looked
for each time."""

import argparse
import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.check import check
from proxy.settings import Loaded, load
from tests.support.emr import EMR
from tests.support.upstream import FHIR, Behaviour, Seen, Upstream, Wire, reply

SECRET = "s3cr3t+/:&=%"
TOKEN = "t0ken-that-nobody-sees"
PHI = "Briddle-1987-04-05"  # in every body that a search answers with

STEPS = ("settings", "DNS", "TLS", "token", "FHIR GET /metadata", "FHIR GET /Patient?_count=1")
SIGNS = {"✓": "good", "✗": "bad", "-": "skipped", "!": "warning"}

HTML = ("Content-Type", "text/html")
PAGE = b"<!doctype html><title>Request blocked</title>"
CAPABILITIES = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}


def resource(resource_type: str, status: int = 200) -> Behaviour:
    body = {"resourceType": resource_type, "issue": [{"diagnostics": PHI}]}
    return reply(status, json.dumps(body).encode(), [FHIR])


def page(status: int, *headers: tuple[str, str]) -> Behaviour:
    return reply(status, PAGE, [HTML, *headers])


def capable(*headers: tuple[str, str], **changes: object) -> Behaviour:
    return reply(200, json.dumps(CAPABILITIES | changes).encode(), [FHIR, *headers])


def serving(search: Behaviour | None = None, metadata: Behaviour | None = None) -> Behaviour:
    """A Fumage whose search answers a token alone."""
    found, told = search or resource("Bundle"), metadata or capable()

    async def answer(seen: Seen, wire: Wire) -> None:
        if seen.target == b"/metadata":
            await told(seen, wire)
        else:
            await (found if seen.bearer == TOKEN else resource("OperationOutcome", 401))(seen, wire)

    return answer


@dataclass
class Told:
    """`text` and `mark` by step."""

    code: int
    output: str

    def __post_init__(self) -> None:
        lines = [line.partition(" ") for line in self.output.splitlines()]
        self.steps = [rest.partition(": ")[0] for _, _, rest in lines]
        self.mark = {rest.partition(": ")[0]: SIGNS[sign] for sign, _, rest in lines}
        self.text = {rest.partition(": ")[0]: rest.partition(": ")[2] for _, _, rest in lines}

    @property
    def failed(self) -> list[str]:
        return [step for step, mark in self.mark.items() if mark == "bad"]


def loaded(base_url: str, token_url: str, **changes: str) -> Loaded:
    environ = {
        "FUMAGE_BASE_URL": base_url,
        "FUMAGE_PROXY_TOKEN_URL": token_url,
        "CANVAS_API_CLIENT_ID": "client",
        "CANVAS_API_CLIENT_SECRET": SECRET,
        "FUMAGE_PROXY_CONNECT_TIMEOUT": "5s",
        **changes,
    }
    return load(argparse.Namespace(env_file=os.devnull), environ, cwd=Path.cwd())


async def checked(base_url: str, token_url: str, **changes: str) -> Told:
    out = io.StringIO()
    code = await check(loaded(base_url, token_url, **changes), out)
    for hidden in (SECRET, TOKEN, PHI):
        assert hidden not in out.getvalue()
    return Told(code, out.getvalue())


@asynccontextmanager
async def canvas(
    search: Behaviour | None = None,
    metadata: Behaviour | None = None,
    token: Behaviour | None = None,
    **more: object,
) -> AsyncIterator[tuple[Upstream, EMR]]:
    """Fumage and EMR; `more` goes to both."""
    async with Upstream(answer=serving(search, metadata), **more) as fumage, EMR(**more) as emr:  # type: ignore[arg-type]
        emr.answer = token or emr.grant(TOKEN)
        yield fumage, emr


async def outcome(changes: Mapping[str, str] | None = None, **behaviours: Behaviour | None) -> Told:
    """What a check tells of this Canvas."""
    async with canvas(**behaviours) as (fumage, emr):
        return await checked(fumage.url, emr.token_url, **(changes or {}))
