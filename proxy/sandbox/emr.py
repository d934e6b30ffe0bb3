"""The EMR's token endpoint, which answers as Django OAuth Toolkit does."""

import asyncio
import base64
import binascii
import secrets
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web

from . import scopes, wire
from .faults import Faults
from .stats import Stats

PATH = "/auth/token/"
Clock = Callable[[], float]

_ALPHABET = string.ascii_letters + string.digits
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# Grants that the toolkit knows, but that a client registered for client_credentials must not use.
_OTHER_GRANTS = {"authorization_code", "refresh_token", "password"}


@dataclass(frozen=True)
class Grant:
    """What a token stands for. `expires` is a time of the sandbox's clock."""

    scope: str
    patient: str | None
    expires: float


class Tokens:
    """The access tokens in existence."""

    def __init__(self, lifetime: float, clock: Clock = time.time):
        self.lifetime = lifetime
        self.issued = 0
        self._clock = clock
        self._grants: dict[str, Grant] = {}

    def issue(self, scope: str, patient: str | None) -> str:
        self._forget_expired()
        token = "".join(secrets.choice(_ALPHABET) for _ in range(30))
        self._grants[token] = Grant(scope, patient, self._clock() + self.lifetime)
        self.issued += 1
        return token

    def find(self, token: str) -> Grant | None:
        """The grant behind a token that is neither unknown nor expired nor revoked."""
        grant = self._grants.get(token)
        return grant if grant is not None and self._clock() < grant.expires else None

    def revoke(self) -> int:
        """Make all tokens invalid at once; says how many were alive."""
        alive = self.live
        self._grants.clear()
        return alive

    @property
    def live(self) -> int:
        self._forget_expired()
        return len(self._grants)

    def _forget_expired(self) -> None:
        now = self._clock()
        self._grants = {token: grant for token, grant in self._grants.items() if now < grant.expires}


class _Refused(Exception):
    """An error of RFC 6749 section 5.2."""

    def __init__(self, error: str, description: str | None = None, *, status: int = 400):
        super().__init__(error)
        self.status = status
        self.body = {"error": error} | ({"error_description": description} if description else {})

    @classmethod
    def invalid_client(cls) -> "_Refused":
        return cls("invalid_client", status=401)


class TokenEndpoint:
    """Answers every request to the EMR's origin."""

    def __init__(self, tokens: Tokens, client_id: str, client_secret: str, faults: Faults, stats: Stats):
        self._tokens = tokens
        self._client = (client_id, client_secret)
        self._faults = faults
        self._stats = stats

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path + "/" == PATH:
            # Django's APPEND_SLASH; a client that follows it with POST turned into GET then gets 405.
            return web.Response(status=301, headers={"Location": PATH})
        if request.path != PATH:
            return _page(404, "Not Found")
        fault = self._faults.take("token_endpoint", "down", "error-500", "slow", "refusing", "garbage")
        if fault == "slow":
            await asyncio.sleep(self._faults.slow_by)
        if fault == "down":
            self._stats.token_requests[fault] += 1
            return wire.drop(request)
        response = _broken(fault) if fault in ("error-500", "garbage") else await self._token(request, fault)
        self._stats.token_requests[str(response.status)] += 1
        return response

    async def _token(self, request: web.Request, fault: str | None) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST, OPTIONS"}, content_type="text/html")
        try:
            if fault == "refusing":
                raise _Refused.invalid_client()
            body = self._grant(await _form(request), request.headers.get("Authorization", ""))
            return web.json_response(body, headers=_NO_STORE)
        except _Refused as refused:
            headers = dict(_NO_STORE)
            if refused.status == 401:
                headers["WWW-Authenticate"] = f'Bearer error="{refused}"'
            return web.json_response(refused.body, status=refused.status, headers=headers)

    def _grant(self, form: Mapping[str, str], authorization: str) -> dict[str, Any]:
        grant_type = form.get("grant_type")
        # The toolkit looks at the grant type before it looks at the client.
        if grant_type != "client_credentials" and grant_type not in _OTHER_GRANTS:
            raise _Refused("unsupported_grant_type")
        if self._client not in (_basic(authorization), (form.get("client_id"), form.get("client_secret"))):
            raise _Refused.invalid_client()
        if grant_type in _OTHER_GRANTS:
            raise _Refused("unauthorized_client")
        scope, patient = form.get("scope", ""), form.get("patient") or None
        if patient and not scope:
            raise _Refused("invalid_request", "A patient needs a scope.")
        if scopes.unknown(scope):
            raise _Refused("invalid_scope")
        scope = scope or scopes.EVERYTHING
        return {
            "access_token": self._tokens.issue(scope, patient),
            # Whole seconds, as the toolkit has it; never 0, which would be no lifetime at all.
            "expires_in": max(1, int(self._tokens.lifetime)),
            "token_type": "Bearer",
            "scope": scope,
        }


async def _form(request: web.Request) -> dict[str, str]:
    if request.query_string:
        raise _Refused("invalid_request", "URL query parameters are not allowed")
    if request.content_type != "application/x-www-form-urlencoded":
        return {}  # to Django a body of another type has no fields: the grant type is missing
    fields = await request.post()
    for name in ("grant_type", "scope"):
        if len(fields.getall(name, [])) > 1:
            raise _Refused("invalid_request", f"Duplicate {name} parameter.")
    return {name: value for name, value in fields.items() if isinstance(value, str)}


def _basic(authorization: str) -> tuple[str, str] | None:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, secret = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return unquote_plus(name), unquote_plus(secret)  # RFC 6749 section 2.3.1: form-encoded before base64


def _broken(fault: str) -> web.Response:
    return _page(500, "Server Error") if fault == "error-500" else _page(200, "Down for maintenance")


def _page(status: int, title: str) -> web.Response:
    text = f"<!doctype html>\n<title>{title}</title>\n<h1>{title}</h1>\n"
    return web.Response(status=status, text=text, content_type="text/html")
