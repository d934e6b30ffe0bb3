"""The EMR's token endpoint."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from tests.support.upstream import Behaviour, Seen, Upstream, Wire, reply

JSON = ("Content-Type", "application/json")


def form(seen: Seen) -> dict[str, str]:
    """The fields of a token request, each of which may be there once."""
    assert seen["Content-Type"] == "application/x-www-form-urlencoded", seen["Content-Type"]
    pairs = parse_qsl(seen.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    assert len(dict(pairs)) == len(pairs), f"a field came twice: {[name for name, _ in pairs]}"
    return dict(pairs)


def refuse(error: str = "invalid_client", status: int = 401) -> Behaviour:
    """As Django OAuth Toolkit does; `script` holds it for one request, `answer` for all."""
    challenge = [("WWW-Authenticate", f'Bearer error="{error}"')] if status == 401 else []
    return reply(status, json.dumps({"error": error}).encode(), [JSON, *challenge])


@dataclass(kw_only=True)
class EMR(Upstream):
    """Each request gets a new token: token-1, token-2 … unless `script` or `answer` say otherwise."""

    expires_in: object = 36000
    issued: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.answer = self.grant()

    @property
    def token_url(self) -> str:
        return self.url + "/auth/token/"

    @property
    def requests(self) -> int:
        return len(self.seen)

    def grant(self, token: str | None = None, **overrides: Any) -> Behaviour:
        """`overrides` change or add fields of the answer; `...` leaves one out: `grant(expires_in=...)`."""

        async def answer(seen: Seen, wire: Wire) -> None:
            self.issued.append(token or f"token-{len(self.issued) + 1}")
            told = {
                "access_token": self.issued[-1],
                "expires_in": self.expires_in,
                "token_type": "Bearer",
                "scope": "system/*.*",
            } | overrides
            body = json.dumps({name: value for name, value in told.items() if value is not ...})
            await reply(200, body.encode(), [JSON, ("Cache-Control", "no-store")])(seen, wire)

        return answer
