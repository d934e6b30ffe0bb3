"""A client of a token endpoint, the ways in which a request can fail, and what an error may show."""

import asyncio
import contextlib
import gzip
import json
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import BODY_LIMIT
from proxy.token.grant import ClientCredentials
from tests.support.clock import FakeClock
from tests.support.emr import EMR, refuse
from tests.support.upstream import (
    Behaviour,
    Seen,
    Wire,
    close_without_answer,
    raw,
    reply,
    reset_without_answer,
)

SECRET = "s3cr3t+/:&=%é"
URL_PASSWORD = "egress-pa55"


class Client(ClientCredentials):
    """With values to start from, and a memory of what was observed."""

    def __init__(self, token_url: str, **changes: Any) -> None:
        self.observed: list[tuple[str, str]] = []
        values: dict[str, Any] = {
            "client_id": "my client:id",
            "client_secret": SECRET,
            "scope": None,
            "patient": None,
            "client_auth": "post",
            "timeout": 5.0,
            "ssl": None,
            "proxy": None,
            "clock": FakeClock(),
            "observe": lambda grant, outcome: self.observed.append((grant, outcome)),
        }
        super().__init__(token_url=token_url, **(values | changes))


@asynccontextmanager
async def client(emr: EMR | str, **changes: Any) -> AsyncIterator[Client]:
    asking = Client(emr if isinstance(emr, str) else emr.token_url, **changes)
    yield asking
    await asking.close()


def token_body(size: int = 0) -> bytes:
    return json.dumps({"access_token": "t", "pad": " " * size}).encode()


async def flood(seen: Seen, wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while not wire.transport.is_closing():
            wire.write(b" " * 65536)
            await wire.drain()
            await asyncio.sleep(0)  # drain() alone may never let the loop see that the peer is gone


FAILURES: list[tuple[str, Behaviour, type[TokenError], str]] = [
    ("too large", reply(200, token_body(BODY_LIMIT)), TokenEndpointUnavailable, "unusable"),
    ("endless", flood, TokenEndpointUnavailable, "unusable"),
    (
        "a bomb",
        reply(200, gzip.compress(token_body(BODY_LIMIT)), [("Content-Encoding", "gzip")]),
        TokenEndpointUnavailable,
        "unusable",
    ),
    ("not JSON", reply(200, b"<html>"), TokenEndpointUnavailable, "unusable"),
    ("created", reply(201, token_body()), TokenEndpointUnavailable, "unusable"),
    ("no content", reply(204), TokenEndpointUnavailable, "unusable"),
    ("moved", reply(301, b"", [("Location", "/elsewhere")]), TokenEndpointUnavailable, "unusable"),
    ("see other", reply(307, b"", [("Location", "/elsewhere")]), TokenEndpointUnavailable, "unusable"),
    ("throttled", reply(429, b"{}"), TokenEndpointUnavailable, "unusable"),
    ("broken", reply(500), TokenEndpointUnavailable, "unusable"),
    ("unavailable", reply(503, b"x" * (BODY_LIMIT + 9)), TokenEndpointUnavailable, "unusable"),
    ("blocked at the edge", reply(403, b"<html>"), TokenEndpointUnavailable, "unusable"),
    ("invalid_client", refuse(), CredentialsRefused, "refused"),
    ("a bare 401", reply(401), CredentialsRefused, "refused"),
    ("unauthorized_client", refuse("unauthorized_client", 400), CredentialsRefused, "refused"),
    ("invalid_scope", refuse("invalid_scope", 400), CredentialsRefused, "refused"),
    ("invalid_request", refuse("invalid_request", 400), TokenEndpointUnavailable, "unusable"),
    ("407 without a proxy", reply(407), TokenEndpointUnavailable, "unusable"),
    ("closed", close_without_answer(), TokenEndpointUnavailable, "unreachable"),
    ("reset", reset_without_answer(), TokenEndpointUnavailable, "unreachable"),
    (
        "cut off",
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "close"),
        TokenEndpointUnavailable,
        "unusable",
    ),
    ("not HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n", "close"), TokenEndpointUnavailable, "unusable"),
]


def leaks(error: BaseException, *secrets: str) -> list[str]:
    """The secrets in anything that could be printed of an error. Its chain is followed even where `from None`
    hides it, and the variables of our frames are looked at as an error reporter would."""
    seen: list[str] = []
    chain: list[BaseException | None] = [error]
    while chain:
        if (one := chain.pop()) is not None:
            chain += [one.__cause__, one.__context__]
            seen += [str(one), repr(one), repr(one.args), repr(vars(one))]
            frames = [frame for frame, _ in traceback.walk_tb(one.__traceback__)]
            seen += [repr(frame.f_locals) for frame in frames if "/proxy/" in frame.f_code.co_filename]
    return [secret for secret in secrets if any(secret in text for text in seen)]
