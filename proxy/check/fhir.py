"""Two requests to Fumage, and what its answers mean."""

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL as AnyURL

from proxy.check.reach import Leg
from proxy.check.report import FAILED, REFUSED, UNREACHABLE, Finding, bad, good, warning

_KEPT = 16 * 1024 * 1024  # bytes of a body that is looked at; a large CapabilityStatement has about 1 MiB
_HEADERS = {"Accept": "application/fhir+json", "Accept-Encoding": "identity", "User-Agent": "fumage-proxy"}
_UUID = re.compile(r"[0-9a-fA-F-]{36}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.-]{0,19}")

_WRONG_HOST = (
    "Check base_url: it has to be Fumage's own address, "
    "https://fumage-{instance}.canvasmedical.com, not the EMR's."
)

# What a lost answer is called; the first that fits. Texts of exceptions are never shown: they may hold URLs.
_LOST: tuple[tuple[type[Exception], int, str], ...] = (
    (aiohttp.ClientHttpProxyError, UNREACHABLE, "refused by the egress proxy"),
    (aiohttp.ServerDisconnectedError, UNREACHABLE, "closed the connection without an answer"),
    (aiohttp.ClientResponseError, FAILED, "answered with something that is not HTTP"),
    (aiohttp.ClientPayloadError, FAILED, "broke off its answer"),
    (Exception, UNREACHABLE, "lost the connection"),
)


@dataclass(frozen=True)
class Answer:
    """`resource` is the body, if it was FHIR and not discarded."""

    status: int
    headers: Mapping[str, str]
    resource: Mapping[str, Any] | None

    @property
    def of_fhir(self) -> bool:
        return self.resource is not None

    @property
    def wants_token(self) -> bool:
        """Whether this is how Fumage asks who we are: with a 401 it sends no WWW-Authenticate, others do."""
        if self.status == 401:
            return self.of_fhir or "WWW-Authenticate" not in self.headers
        return self.status == 403 and self.of_fhir

    def is_a(self, resource_type: str) -> bool:
        return self.resource is not None and self.resource.get("resourceType") == resource_type


@dataclass(frozen=True)
class Fumage:
    """Sends requests to Fumage, each on a connection of its own; `timeout` in seconds, for one of them."""

    leg: Leg
    context: ssl.SSLContext
    timeout: float

    async def get(
        self, path: str, authorization: bytes | None = None, *, discard: bool = False
    ) -> Answer | Finding:
        """The answer, or why there is none. `discard`: a body of a 200 is read and dropped."""
        headers = dict(_HEADERS)
        if authorization is not None:
            headers["Authorization"] = authorization.decode("ascii")
        try:
            async with (
                asyncio.timeout(self.timeout),
                self._session() as session,
                session.get(
                    AnyURL(f"{self.leg.url}{path}", encoded=True),
                    headers=headers,
                    allow_redirects=False,
                    ssl=self.context,
                    proxy=self.leg.egress,
                ) as response,
            ):
                body = await _body(response, keep=not (discard and response.status == 200))
                return Answer(response.status, response.headers, _resource(body))
        except TimeoutError:
            told = f"{self.leg.url.host}: no answer within {self.timeout:g} s"
            return bad(UNREACHABLE, told, "Check again later, or raise response_timeout.")
        except (aiohttp.ClientError, OSError) as error:
            code, what = next((code, what) for kind, code, what in _LOST if isinstance(error, kind))
        return bad(
            code, f"{self.leg.url.host} {what}", "Check base_url, and the network or proxies in between."
        )

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),  # none: asyncio.timeout covers it all
        )


async def _body(response: aiohttp.ClientResponse, *, keep: bool) -> bytes:
    # What is dropped is read to its end all the same: an answer that breaks off is no proof.
    kept = bytearray()
    async for part in response.content.iter_any():
        if keep and len(kept) < _KEPT:
            kept += part
    return bytes(kept)


def _resource(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("resourceType"), str) else None


# --- what the answers mean ---


def judge_metadata(answer: Answer) -> Finding:
    """Whether this is a FHIR server at all."""
    if answer.status != 200:
        return _refusal(answer, "") or bad(FAILED, f"{answer.status}{_correlation(answer)}", _WRONG_HOST)
    if answer.resource is None or not answer.is_a("CapabilityStatement"):
        return bad(
            FAILED, f"the answer is no CapabilityStatement: not a FHIR server{_passed(answer)}", _WRONG_HOST
        )
    version = answer.resource.get("fhirVersion")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        return warning("a CapabilityStatement without fhirVersion", _WRONG_HOST)
    if not version.startswith("4.0."):
        return warning(f"a CapabilityStatement of FHIR {version}; Fumage speaks 4.0.1", _WRONG_HOST)
    return good(f"a CapabilityStatement, FHIR {version}")


def judge_search(answer: Answer, resource_type: str) -> Finding:
    """Whether the token is accepted."""
    if answer.status == 200 and "json" in answer.headers.get("Content-Type", ""):
        return good("200, the token is accepted")
    if answer.of_fhir and answer.status in (400, 422):
        return good(f"{answer.status}, the token is accepted; a search for {resource_type} has to say more")
    return _refusal(answer, resource_type) or bad(
        FAILED, f"{answer.status}{_correlation(answer)}", _WRONG_HOST
    )


def _refusal(answer: Answer, resource_type: str) -> Finding | None:
    status = answer.status
    told = f"{status}{_correlation(answer)}"
    if 300 <= status < 400:
        return bad(FAILED, f"{told}, a redirect{_target(answer)}: not a FHIR server", _WRONG_HOST)
    if status in (407, 511):
        advice = "Set HTTPS_PROXY, or get past its login."
        return bad(FAILED, f"{told}: a proxy in between wants to be asked first", advice)
    if status == 429:
        return bad(FAILED, told, "Fumage limits the number of requests: wait, and check again.")
    if status >= 500:
        return bad(
            FAILED, f"{told}{_passed(answer)}", "Fumage is in trouble: check again later, or ask Canvas."
        )
    if status == 401 and (resource_type or answer.wants_token):
        return bad(
            REFUSED,
            f"{told}, Fumage rejects the token that the EMR has just issued",
            "Check that base_url and token_url belong to the same instance.",
        )
    if status == 403:
        return _forbidden(answer, told, resource_type)
    if not answer.of_fhir:
        return bad(FAILED, f"{told}, and not in FHIR: a wrong host or path{_passed(answer)}", _WRONG_HOST)
    if status == 404 and resource_type:
        return bad(FAILED, f"{told}, it has no {resource_type}", "Let allow name types that Fumage has.")
    return None


def _forbidden(answer: Answer, told: str, resource_type: str) -> Finding:
    if not answer.of_fhir:
        return bad(
            FAILED,
            f"{told}, and not in FHIR: an edge block, likely of this machine's address{_passed(answer)}",
            "Have the address that this machine's traffic comes from put on the instance's IP allow-list.",
        )
    if not resource_type:
        return bad(FAILED, f"{told}, the token's scope does not even permit this", "Check scope.")
    return bad(
        FAILED,
        f"{told}, the token's scope does not permit to search {resource_type}",
        f"Let scope contain system/{resource_type}.rs, and the OAuth application in Canvas have it; or leave "
        f"{resource_type} out of allow.",
    )


def _target(answer: Answer) -> str:
    # Of the target the host alone: path and query are not ours to show.
    try:
        host = AnyURL(answer.headers.get("Location", "")).host
    except ValueError:
        return ""
    return f" to {host}" if host and re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", host) else ""


def _passed(answer: Answer) -> str:
    return " (the answer passed a proxy, which may be who spoke)" if "Via" in answer.headers else ""


def _correlation(answer: Answer) -> str:
    # What Canvas's support asks for.
    told = answer.headers.get("fumage-correlation-id", "")
    return f" (fumage-correlation-id {told})" if _UUID.fullmatch(told) else ""
