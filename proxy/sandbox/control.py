"""The endpoint, on a port of its own, that makes the sandbox misbehave and tells what it has seen."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .emr import Tokens
from .faults import KINDS, OFF, Faults
from .stats import Stats
from .store import LOADABLE, Store

_COMMANDS = {
    "GET /": "this text and the state",
    "GET /stats": "requests seen, by status, and tokens",
    "POST /revoke": "make all tokens invalid now",
    "POST /faults": f"set faults, as JSON or form: token_endpoint, fumage ({OFF} ends one); slow_by, "
    "a duration; times, for the next n requests only",
    "POST /faults/reset": "end all faults",
    "POST /load": f"add made-up resources: count, and type ({' or '.join(LOADABLE)}; default {LOADABLE[0]})",
}


class Control:
    """Answers every request to the control port, in JSON."""

    def __init__(self, faults: Faults, tokens: Tokens, store: Store, stats: Stats):
        self._faults = faults
        self._tokens = tokens
        self._store = store
        self._stats = stats
        self._calls: dict[str, Callable[[web.Request], Awaitable[dict[str, Any]]]] = {
            "GET /": self._overview,
            "GET /stats": self._show_stats,
            "POST /revoke": self._revoke,
            "POST /faults": self._set_faults,
            "POST /faults/reset": self._reset_faults,
            "POST /load": self._load,
        }

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        call = self._calls.get(f"{request.method} {request.path}")
        if call is None:
            error = f"there is no {request.method} {request.path}"
            return web.json_response({"error": error, "commands": _COMMANDS}, status=404)
        try:
            return web.json_response(await call(request))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

    async def _overview(self, request: web.Request) -> dict[str, Any]:
        return {"commands": _COMMANDS, "kinds": KINDS, "faults": self._faults.state(), **self._counts()}

    async def _show_stats(self, request: web.Request) -> dict[str, Any]:
        return {**self._stats.as_json(), **self._counts()}

    async def _revoke(self, request: web.Request) -> dict[str, Any]:
        return {"revoked": self._tokens.revoke()}

    async def _set_faults(self, request: web.Request) -> dict[str, Any]:
        fields = await _fields(request, "token_endpoint", "fumage", "slow_by", "times")
        if not fields:
            raise ValueError("nothing to set: give token_endpoint, fumage or slow_by")
        # null ends a fault too: it is how the state shows that there is none.
        self._faults.set(
            **{name: OFF if name in KINDS and value is None else value for name, value in fields.items()}
        )
        return {"faults": self._faults.state()}

    async def _reset_faults(self, request: web.Request) -> dict[str, Any]:
        self._faults.reset()
        return {"faults": self._faults.state()}

    async def _load(self, request: web.Request) -> dict[str, Any]:
        fields = await _fields(request, "count", "type")
        count = fields.get("count")
        if isinstance(count, bool) or not str(count).isdecimal():
            raise ValueError(f"count is a whole number, not {count!r}")
        self._store.load(fields.get("type", LOADABLE[0]), int(str(count)))
        return {"resources": self._store.counts()}

    def _counts(self) -> dict[str, Any]:
        return {
            "tokens": {"issued": self._tokens.issued, "live": self._tokens.live},
            "resources": self._store.counts(),
        }


async def _fields(request: web.Request, *known: str) -> dict[str, Any]:
    """What a caller gave, in the query, as a form or as a JSON object."""
    fields: dict[str, Any] = dict(request.query)
    if request.content_type == "application/json":
        try:
            body = json.loads(await request.read())
        except ValueError:
            raise ValueError("the body is not JSON") from None
        if not isinstance(body, dict):
            raise ValueError("the body is not a JSON object")
        fields.update(body)
    else:
        fields.update(await request.post())
    for name in fields:
        if name not in known:
            raise ValueError(f"unknown field {name!r}; there are {', '.join(known)}")
    return fields
