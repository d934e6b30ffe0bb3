"""One token request, and what its failure means."""

import ssl
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp

from proxy.check.clock import spoken
from proxy.check.reach import Leg
from proxy.check.report import FAILED, REFUSED, UNREACHABLE, Finding, bad, good
from proxy.clock import Clock
from proxy.rules.errors import CredentialsRefused, EgressProxyFailed, TokenEndpointUntrusted, TokenError
from proxy.settings import Loaded, Settings
from proxy.token.answer import Token
from proxy.token.grant import ClientCredentials, Grant, Outcome


@dataclass
class Obtained:
    """`headers` are those of the answer, if there was one."""

    finding: Finding
    token: Token | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _Watched(ClientCredentials):
    """Remembers status and headers of the answer, which a TokenError leaves out."""

    status: int | None = None
    headers: Mapping[str, str] = {}  # replaced, never changed

    def _open(self) -> aiohttp.ClientSession:
        session = super()._open()
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._ended)
        trace.freeze()
        session.trace_configs.append(trace)
        return session

    async def _ended(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        self.status, self.headers = params.response.status, params.response.headers


async def obtain(loaded: Loaded, leg: Leg, context: ssl.SSLContext, clock: Clock) -> Obtained:
    """Ask for a token, once."""
    outcomes: list[Outcome] = []

    def observe(grant: Grant, outcome: Outcome) -> None:
        outcomes.append(outcome)

    grant = _grant(loaded.settings, leg, context, clock, observe)
    try:
        token = await grant.request()
    except TokenError as error:
        finding = _failure(error, outcomes[0], grant, loaded)
        return Obtained(finding, headers=grant.headers)
    finally:
        await grant.close()
    return Obtained(good(f"obtained, valid for {spoken(token.lifetime)}"), token, grant.headers)


def identity(settings: Settings, leg: Leg, context: ssl.SSLContext, clock: Clock) -> Hashable:
    """What tells a token of these credentials from another's."""
    return _grant(settings, leg, context, clock, lambda grant, outcome: None).identity


def _grant(
    settings: Settings,
    leg: Leg,
    context: ssl.SSLContext,
    clock: Clock,
    observe: Callable[[Grant, Outcome], None],
) -> _Watched:
    return _Watched(
        token_url=str(settings.token_url),
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        scope=settings.scope,
        patient=settings.patient,
        client_auth=settings.client_auth,
        timeout=settings.token_timeout,
        ssl=context,
        proxy=str(leg.egress) if leg.egress else None,
        clock=clock,
        observe=observe,
    )


def _failure(error: TokenError, outcome: Outcome, seen: _Watched, loaded: Loaded) -> Finding:
    told = str(error).removesuffix(".")
    if isinstance(error, CredentialsRefused):
        return bad(REFUSED, told, _refused(told, loaded))
    if isinstance(error, EgressProxyFailed | TokenEndpointUntrusted):
        return bad(UNREACHABLE, told, error.advice)
    if outcome in ("unreachable", "timeout"):
        return bad(
            UNREACHABLE, told, "Check token_url and the network to the EMR; token_timeout bounds the wait."
        )
    return bad(FAILED, *_unusable(told, seen.status or 0, "json" in seen.headers.get("Content-Type", "")))


def _refused(told: str, loaded: Loaded) -> str:
    # The code in the text comes from a closed list.
    if "invalid_scope" in told:
        return "Ask for a scope that the OAuth application in Canvas may have: see scope."
    if "unauthorized_client" in told:
        return "Set the grant type of the OAuth application in Canvas to client credentials."
    source = loaded.sources["client_secret"]
    advice = (
        f"Check CANVAS_API_CLIENT_ID and CANVAS_API_CLIENT_SECRET (the secret comes from: {source}): "
        f"both have to belong to the instance of {loaded.settings.token_url.host}."
    )
    secret = loaded.settings.client_secret
    if secret[0] in "'\"" and secret[0] == secret[-1]:
        advice += " The secret stands in quotes, which docker's --env-file keeps: leave them out."
    elif secret != secret.strip():
        advice += " The secret begins or ends with a space."
    return advice


def _unusable(told: str, status: int, is_json: bool) -> tuple[str, str]:
    # What was told, more exactly, and the advice.
    if status == 403 and not is_json:
        return (
            f"{told}, and not as an OAuth server does: an edge block, likely of this machine's address",
            "Have the address that this machine's traffic comes from put on the instance's IP allow-list.",
        )
    if status in (407, 511):
        return (
            f"{told}: a proxy in between wants to be asked first",
            "Set HTTPS_PROXY, or get past its login.",
        )
    if status == 429:
        return told, "Wait, and check again: the EMR limits how often tokens may be asked for."
    if status >= 500:
        return told, "The EMR is in trouble; check again later."
    if status in (400, 403):
        return told, "Check scope and patient (a patient needs a scope), and the OAuth application in Canvas."
    return (
        f"{told.removesuffix(': check token_url')}: a wrong host, or not its token endpoint",
        "Check token_url: on a Canvas instance it is https://{instance}.canvasmedical.com/auth/token/, "
        "with the final slash.",
    )
