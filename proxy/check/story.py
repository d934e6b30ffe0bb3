"""The steps in their order, and which of them need which."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TextIO

from yarl import URL as AnyURL

from proxy.check.clock import skew
from proxy.check.credentials import Obtained, identity, obtain
from proxy.check.fhir import Answer, Fumage, judge_metadata, judge_search
from proxy.check.reach import Leg, connect, resolve
from proxy.check.report import FAILED, Finding, Report, bad, good, skipped
from proxy.clock import Clock, SystemClock
from proxy.network import egress_proxy, tls_context
from proxy.rules.permissions import Permissions
from proxy.settings import MEMORY, URL, Loaded, Settings, SettingsError
from proxy.token.answer import Token
from proxy.token.extra import open_store

if TYPE_CHECKING:
    from proxy.token.store import RedisStore

_SETTINGS, _DNS, _TLS, _TOKEN, _METADATA = "settings", "DNS", "TLS", "token", "FHIR GET /metadata"
_STORE = "token store"
_ANY_TYPE = "Patient"


def run(load: Callable[[], Loaded], out: TextIO) -> int:
    """Load the settings and prove them, with a line to `out` for each step; the exit code.

    Raises SettingsError, after its line: the problems themselves are for whoever calls to tell.
    """
    try:
        loaded = load()
    except SettingsError as error:
        _tell_wrong(Report(out), error)
        raise
    return asyncio.run(check(loaded, out))


async def check(loaded: Loaded, out: TextIO, clock: Clock | None = None) -> int:
    """The same for settings that are loaded, within a running loop."""
    settings, report = loaded.settings, Report(out)
    try:
        context, fumage, emr, store = _environment(settings)
    except SettingsError as error:
        _tell_wrong(report, error)
        raise
    report.tell(_SETTINGS, good(f"{settings.base_url}, with tokens from {settings.token_url}"))
    await _Story(loaded, report, context, fumage, emr, store, clock or SystemClock()).tell()
    return report.code


def _environment(settings: Settings) -> "tuple[ssl.SSLContext, Leg, Leg, RedisStore | None]":
    """What is trusted, the ways to Fumage and to the EMR, and the store, if the token is shared.

    Raises SettingsError with all problems.
    """
    problems: list[str] = []
    try:
        context = tls_context(settings)
    except SettingsError as error:
        problems += error.problems
    try:
        fumage = Leg("Fumage", "base_url", settings.base_url, _egress(settings.base_url))
        emr = Leg("the EMR", "token_url", settings.token_url, _egress(settings.token_url))
    except SettingsError as error:  # one variable, so one problem, whichever leg met it
        problems += error.problems
    store = None
    try:
        if settings.token_store != MEMORY:
            store = open_store(settings.token_store, settings.token_store_password)
    except ValueError as error:
        problems.append(f"token_store: {error}")
    if problems:
        raise SettingsError(problems)
    return context, fumage, emr, store


def _egress(url: URL) -> AnyURL | None:
    proxy = egress_proxy(url)
    return AnyURL(proxy) if proxy else None


def _tell_wrong(report: Report, error: SettingsError) -> None:
    count = len(error.problems)
    report.tell(
        _SETTINGS, bad(FAILED, f"{count} problem{'s' if count > 1 else ''}, told on standard error", "")
    )
    for step in (_DNS, _TLS, _TOKEN, _METADATA, _search(_ANY_TYPE)):
        report.tell(step, skipped("the settings are wrong"))


class _Story:
    """One check; each method is a step, tells it, and leaves behind what later ones need."""

    def __init__(
        self,
        loaded: Loaded,
        report: Report,
        context: ssl.SSLContext,
        fumage: Leg,
        emr: Leg,
        store: "RedisStore | None",
        clock: Clock,
    ):
        self._loaded, self._report, self._clock = loaded, report, clock
        self._settings = loaded.settings
        self._fumage, self._emr, self._store = fumage, emr, store
        self._context = context
        self._skewed = False

    async def tell(self) -> None:
        timeout, another = self._settings.connect_timeout, partial(tls_context, self._settings)
        found = await self._reach(_DNS, lambda leg: resolve(leg, timeout), {})
        reached = await self._reach(
            _TLS, lambda leg: connect(leg, self._context, timeout, another=another), found
        )
        token = await self._token(reached[self._emr.name])
        await self._look_into_store()
        is_fhir = await self._metadata(reached[self._fumage.name], token)
        await self._search(is_fhir, token)

    async def _reach(
        self, step: str, prove: Callable[[Leg], Awaitable[Finding]], before: dict[str, bool]
    ) -> dict[str, bool]:
        # Both hosts at a time; one that failed `before` is left out.
        legs = [self._fumage, self._emr]
        able = [leg for leg in legs if before.get(leg.name, True)]
        findings = dict(zip((leg.name for leg in able), await asyncio.gather(*map(prove, able)), strict=True))
        for leg in legs:
            findings.setdefault(leg.name, skipped(f"{leg.url.host} cannot be looked up"))
        self._report.tell(step, *findings.values())
        return {leg.name: leg in able and not findings[leg.name].bad for leg in legs}

    async def _token(self, reached: bool) -> Token | None:
        if not reached:
            self._report.tell(_TOKEN, skipped("the EMR cannot be reached"))
            return None
        obtained: Obtained = await obtain(self._loaded, self._emr, self._context, self._clock)
        self._report.tell(_TOKEN, obtained.finding)
        self._look_at_clock(obtained.headers, self._emr.name)
        return obtained.token

    async def _look_into_store(self) -> None:
        if self._store is None:
            return
        from proxy.check.store import prove  # here, since it needs the extra

        who = identity(self._settings, self._emr, self._context, self._clock)
        self._report.tell(_STORE, await prove(self._store, self._settings, who, self._clock))

    async def _metadata(self, reached: bool, token: Token | None) -> bool:
        # Whether it is a FHIR server; before that is known, it is not shown a token.
        if not reached:
            self._report.tell(_METADATA, skipped("Fumage cannot be reached"))
            return False
        answer = await self._ask("/metadata")
        if isinstance(answer, Answer) and answer.wants_token:
            if token is None:
                self._report.tell(_METADATA, skipped("Fumage wants a token even here, and there is none"))
                return True
            answer = await self._ask("/metadata", token)
        if isinstance(answer, Finding):
            self._report.tell(_METADATA, answer)
            return False
        self._report.tell(_METADATA, judge_metadata(answer))
        self._look_at_clock(answer.headers, self._fumage.name)
        return answer.of_fhir

    async def _search(self, is_fhir: bool, token: Token | None) -> None:
        resource_type = Permissions.parse(self._settings.allow).searchable()
        step = _search(resource_type or "{type}")
        if resource_type is None:
            self._report.tell(step, skipped("allow permits no search"))
        elif not is_fhir:
            self._report.tell(step, skipped("no FHIR server was found, and nobody else gets the token"))
        elif token is None:
            self._report.tell(step, skipped("there is no token"))
        else:
            answer = await self._ask(f"/{resource_type}?_count=1", token)
            if isinstance(answer, Finding):
                self._report.tell(step, answer)
                return
            self._report.tell(step, judge_search(answer, resource_type))
            self._look_at_clock(answer.headers, self._fumage.name)

    async def _ask(self, path: str, token: Token | None = None) -> Answer | Finding:
        settings = self._settings
        fumage = Fumage(self._fumage, self._context, settings.connect_timeout + settings.response_timeout)
        # A search's answer is about patients: it is not kept.
        return await fumage.get(path, token.authorization if token else None, discard=path != "/metadata")

    def _look_at_clock(self, headers: Mapping[str, str], who: str) -> None:
        finding = skew(headers, self._clock.wall(), who)
        if finding and not self._skewed:
            self._skewed = True  # once is enough
            self._report.tell("clock", finding)


def _search(resource_type: str) -> str:
    return f"FHIR GET /{resource_type}?_count=1"
