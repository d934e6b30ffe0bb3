"""The Fumage-like FHIR API."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from . import decimals, outcomes, wire
from .capabilities import capability_statement
from .emr import Grant, Tokens
from .faults import Faults
from .files import Files
from .kinds import KINDS, Resource, fault_in, patient_of
from .lab_report import read_lab_report
from .outcomes import Refused, fhir
from .scopes import LAB_REPORT, permits
from .stats import Stats
from .store import Store
from .uploads import take_file

DEFAULT_COUNT, MAX_COUNT = 10, 100
MAX_BODY = 64 * 2**20  # bytes

# Exactly this: Fumage's framework compares the whole field, so that "; charset=utf-8" is another type to it.
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class _Step:
    needs: str | None  # a SMART v2 letter or the name of an operation; None: no token is asked for
    run: Callable[[web.Request, Grant], Awaitable[web.Response]]


class Fumage:
    """Answers every request to Fumage's origin, which is `base_url`."""

    def __init__(
        self, base_url: str, store: Store, files: Files, tokens: Tokens, faults: Faults, stats: Stats
    ):
        self._base_url = base_url
        self._store = store
        self._files = files
        self._tokens = tokens
        self._faults = faults
        self._stats = stats

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault = self._faults.take("fumage", "slow", "reset", "cut", *_BROKEN)
        if fault == "slow":
            await asyncio.sleep(self._faults.slow_by)
        if fault == "reset":
            self._stats.fumage_requests[fault] += 1
            return wire.reset(request)
        broken = _BROKEN.get(fault or "")
        response = broken() if broken else await self._respond(request)
        if fault != "edge-block":  # there the request never came as far as Fumage
            response.headers["fumage-correlation-id"] = str(uuid.uuid4())
        self._stats.fumage_requests["cut" if fault == "cut" else str(response.status)] += 1
        return await wire.cut(request, response) if fault == "cut" else response

    async def _respond(self, request: web.Request) -> web.Response:
        try:
            return await self._step(request)
        except Refused as refused:
            return refused.response()
        except web.HTTPException as error:  # aiohttp's own: the body is larger than MAX_BODY
            return Refused(error.status, "processing", error.reason).response()

    async def _step(self, request: web.Request) -> web.Response:
        segments = request.path.split("/")[1:]
        offered = self._offered(segments)
        # Unknown routes and methods (HEAD and OPTIONS too) are refused before the token is looked at.
        if not offered:
            raise Refused(404, "processing", "Not Found")
        if request.method not in offered:
            raise Refused(405, "processing", "Method Not Allowed")
        step = offered[request.method]
        if step.needs is None:
            return await step.run(request, Grant("", None, 0))
        grant = self._authenticate(request)
        if not permits(grant.scope, segments[0], step.needs):
            raise outcomes.unauthorized()
        return await step.run(request, grant)

    def _offered(self, segments: list[str]) -> dict[str, _Step]:
        """The methods of a path; none if there is no such path."""
        match segments:
            case ["metadata"]:
                return {"GET": _Step(None, self._capabilities)}
            case ["DiagnosticReport", operation] if operation == f"${LAB_REPORT}":
                return {"POST": _Step(LAB_REPORT, self._create_lab_report)}
            case ["DocumentReference", key, "files", "content"] if key:
                return {"GET": _Step("r", partial(self._attachment, key))}
            case [kind] if kind in KINDS:
                steps = {
                    "GET": _Step("s", partial(self._search, kind)),
                    "POST": _Step("c", partial(self._create, kind)),
                }
            case [kind, "_search"] if kind in KINDS:
                steps = {"POST": _Step("s", partial(self._posted_search, kind))}
            case [kind, key] if kind in KINDS and key and not key.startswith("$"):
                steps = {
                    "GET": _Step("r", partial(self._read, kind, key)),
                    "PUT": _Step("u", partial(self._update, kind, key)),
                }
            case _:
                return {}
        return {
            method: step
            for method, step in steps.items()
            if str(step.needs) in KINDS[segments[0]].interactions
        }

    def _authenticate(self, request: web.Request) -> Grant:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        grant = self._tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        if self._faults.take("fumage", "always-401") or grant is None:
            raise outcomes.unauthenticated()
        return grant

    # --- the steps ---

    async def _capabilities(self, request: web.Request, grant: Grant) -> web.Response:
        return fhir(capability_statement(self._base_url))

    async def _read(self, kind: str, key: str, request: web.Request, grant: Grant) -> web.Response:
        stored = self._store.get(kind, key)
        if stored is None:
            raise outcomes.unknown(kind, key)
        _check_patient(stored.resource, grant)
        return fhir(stored.resource, headers={"Last-Modified": formatdate(stored.modified, usegmt=True)})

    async def _search(self, kind: str, request: web.Request, grant: Grant) -> web.Response:
        return self._found(kind, list(request.query.items()), grant)

    async def _posted_search(self, kind: str, request: web.Request, grant: Grant) -> web.Response:
        if request.headers.get("Content-Type") != _FORM:
            raise Refused(500, "exception", "Internal server error")
        posted = [(name, value) for name, value in (await request.post()).items() if isinstance(value, str)]
        return self._found(kind, posted + list(request.query.items()), grant)

    def _found(self, kind: str, query: list[tuple[str, str]], grant: Grant) -> web.Response:
        count = min(_number(query, "_count", DEFAULT_COUNT, least=1), MAX_COUNT)
        offset = _number(query, "_offset", 0, least=0)
        found = self._store.search(kind, query, grant.patient)
        return fhir(_searchset(kind, query, found, count, offset))

    async def _create(self, kind: str, request: web.Request, grant: Grant) -> web.Response:
        resource = await _json(request)
        self._check(resource, kind, grant)
        file = take_file(resource) if kind == "DocumentReference" else None
        key = self._store.create(resource)
        if file:
            resource["content"][0]["attachment"]["url"] = self._store.add_file(key, file)
        return web.Response(status=201, headers={"Location": self._location(kind, key)})

    async def _update(self, kind: str, key: str, request: web.Request, grant: Grant) -> web.Response:
        stored = self._store.get(kind, key)
        if stored is None:
            raise outcomes.unknown(kind, key)
        _check_patient(stored.resource, grant)
        resource = await _json(request)
        self._check(resource, kind, grant, key)
        since = _http_date(request.headers.get("If-Unmodified-Since", ""))
        if since is not None and stored.modified > since:
            raise Refused(412, "conflict", "The resource has been modified since the given date")
        self._store.update(stored, resource)
        return web.Response()

    async def _attachment(self, key: str, request: web.Request, grant: Grant) -> web.Response:
        stored = self._store.get("DocumentReference", key)
        if stored is None:
            raise outcomes.unknown("DocumentReference", key)
        _check_patient(stored.resource, grant)
        return web.Response(status=302, headers={"Location": self._files.presign(key)})

    async def _create_lab_report(self, request: web.Request, grant: Grant) -> web.Response:
        report, values = read_lab_report(await _json(request))
        self._check(report, "DiagnosticReport", grant)
        for value in values:
            self._check(value, "Observation", grant)
        results = [
            {"reference": f"Observation/{self._store.create(value)}", "type": "Observation"}
            for value in values
        ]
        key = self._store.create({**report, "result": results} if results else report)
        # What Canvas answers is not documented; in FHIR an operation with one result answers that result.
        return fhir({"resourceType": "DiagnosticReport", "id": key, **report})

    # --- what the steps ask ---

    def _check(self, resource: Any, kind: str, grant: Grant, key: str | None = None) -> None:
        fault = fault_in(resource, kind)
        if fault:
            raise Refused(422, *fault)
        if key is not None and resource.get("id") != key:
            raise Refused(422, "invalid", f"{kind}.id is not the id in the URL.")
        patient = key if kind == "Patient" else patient_of(resource)
        if patient is not None and self._store.get("Patient", patient) is None:
            raise Refused(422, "business-rule", "The resource refers to a Patient that does not exist.")
        if grant.patient not in (None, patient):
            raise outcomes.unauthorized()

    def _location(self, kind: str, key: str) -> str:
        origins = {"http": self._base_url, "https": self._base_url.replace("http:", "https:", 1), "path": ""}
        return f"{origins[KINDS[kind].location]}/{kind}/{key}"


def _check_patient(resource: Resource, grant: Grant) -> None:
    if grant.patient and patient_of(resource) not in (None, grant.patient):
        raise outcomes.unauthorized()


async def _json(request: web.Request) -> Any:
    try:
        return decimals.loads(await request.read())
    except (ValueError, RecursionError):
        raise Refused(400, "structure", "The body is not JSON.") from None


def _number(query: Iterable[tuple[str, str]], name: str, default: int, *, least: int) -> int:
    text = dict(query).get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise Refused(400, "invalid", f"{name} is a whole number from {least} on.")
    return int(text)


def _searchset(
    kind: str, query: list[tuple[str, str]], found: list[Resource], count: int, offset: int
) -> dict[str, Any]:
    bundle: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "total": len(found)}
    if not found:
        return bundle  # without links, as Canvas documents it
    own = [(name, value) for name, value in query if name not in ("_count", "_offset")]

    def link(relation: str, start: int) -> dict[str, str]:
        return {
            "relation": relation,
            "url": f"/{kind}?{urlencode([*own, ('_count', count), ('_offset', start)])}",
        }

    bundle["link"] = [link("self", offset), link("first", 0)]
    if offset + count < len(found):
        bundle["link"].append(link("next", offset + count))
    bundle["link"].append(link("last", (len(found) - 1) // count * count))
    page = found[offset : offset + count]
    return bundle | ({"entry": [{"resource": resource} for resource in page]} if page else {})


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None  # RFC 9110 section 13.1.4: a field that is no date is ignored


def _edge_block() -> web.Response:
    page = "<!doctype html>\n<title>403 Forbidden</title>\n<h1>403 Forbidden</h1>\n"
    return web.Response(status=403, text=page, content_type="text/html")


def _too_many() -> web.Response:
    response = Refused(429, "throttled", "Too many requests").response()
    response.headers["Retry-After"] = "1"
    return response


_BROKEN: dict[str, Callable[[], web.Response]] = {
    "error-500": lambda: Refused(500, "exception", "Internal server error").response(),
    "error-429": _too_many,
    "edge-block": _edge_block,
}
