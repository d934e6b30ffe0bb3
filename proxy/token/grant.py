"""One token request to the EMR, and what became of it (RFC 6749 section 4.4)."""

import asyncio
import base64
import errno
import hashlib
import ssl
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal
from urllib.parse import quote_plus, urlencode

import aiohttp
from yarl import URL

from proxy.clock import Clock
from proxy.rules.errors import (
    EgressProxyFailed,
    TokenEndpointUnavailable,
    TokenEndpointUntrusted,
    TokenError,
)
from proxy.token.answer import BODY_LIMIT, TELLING, decoded, read_answer, read_retry_after, unusable
from proxy.token.answer import Token as Token

# The labels of fumage_proxy_token_requests_total.
Grant = Literal["client_credentials", "refresh_token"]
Outcome = Literal["ok", "refused", "unusable", "unreachable", "timeout"]

# Of a name, TCP and TLS.
_CONNECTING = aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError

# What a lost connection is called in an error; the first that fits. Texts of the exceptions are never shown:
# they may hold URLs with passwords.
_Faults = tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]
_UNREACHABLE: _Faults = (
    (aiohttp.ClientConnectorDNSError, "could not be found: its host name does not resolve"),
    (aiohttp.ClientConnectorError, "could not be reached"),
    (aiohttp.ServerDisconnectedError, "closed the connection without an answer"),
    (Exception, "could not be reached: the connection was lost"),
)
_EGRESS_FAULTS: _Faults = (
    (_CONNECTING, "could not be reached"),
    (aiohttp.ClientResponseError, "does not speak HTTP"),
    (Exception, "closed the connection instead of connecting us"),
)


@dataclass
class _Way:
    """How far a request came. `connected`: with TLS, so a tunnel through an egress proxy is up as well."""

    connected: bool = False


class ClientCredentials:
    """Asks the EMR's token endpoint for a token, in one way and as one client.

    `timeout` in seconds covers the whole request. `ssl` None is for plain http. `proxy` is the URL of an
    egress proxy and may carry credentials. `observe` is told of every request that came to an end.
    """

    def __init__(
        self,
        *,
        token_url: str,
        client_id: str,
        client_secret: str,
        scope: str | None,
        patient: str | None,
        client_auth: Literal["post", "basic"],
        timeout: float,
        ssl: ssl.SSLContext | None,
        proxy: str | None,
        clock: Clock,
        observe: Callable[[Grant, Outcome], None],
    ):
        digest = hashlib.sha256(client_secret.encode()).hexdigest()
        self.identity: Hashable = (token_url, client_id, digest, scope, patient, client_auth)
        self._url = URL(token_url)
        self._form = {"client_id": client_id, "client_secret": client_secret}
        self._optional = {"scope": scope, "patient": patient}
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "fumage-proxy",
        }
        if client_auth == "basic":
            self._form = {}
            self._headers["Authorization"] = _basic(client_id, client_secret)
            self._url = self._url.with_user(None)  # aiohttp would have it compete with our field
        self._timeout = timeout
        self._ssl = ssl
        self._proxy = URL(proxy) if proxy else None
        self._clock = clock
        self._observe = observe
        self._session: aiohttp.ClientSession | None = None

    async def request(self, refresh_token: str | None = None) -> Token:
        """Ask once, with `refresh_token` or else with client_credentials; raises TokenError."""
        grant: Grant = "refresh_token" if refresh_token else "client_credentials"
        form = {"grant_type": grant, **self._form}
        if refresh_token:
            form["refresh_token"] = refresh_token
        else:
            form |= {name: value for name, value in self._optional.items() if value}
        result, outcome = await self._ask(urlencode(form).encode())
        self._observe(grant, outcome)
        # Raised here, out of reach of any `except`: no context, no frame that holds the form or the answer.
        del form, refresh_token
        if isinstance(result, TokenError):
            raise result
        return result

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _ask(self, form: bytes) -> tuple[Token | TokenError, Outcome]:
        way = _Way()
        refreshing = form.startswith(b"grant_type=refresh_token")
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._exchange(form, way, refreshing=refreshing)
        except TimeoutError:
            return self._too_slow(way), "timeout"
        except (aiohttp.ClientError, OSError) as exc:
            return self._explain(exc, way)
        if isinstance(result, Token):
            return result, "ok"
        if isinstance(result, EgressProxyFailed):
            return result, "unreachable"
        return result, "unusable" if isinstance(result, TokenEndpointUnavailable) else "refused"

    async def _exchange(self, form: bytes, way: _Way, *, refreshing: bool) -> Token | TokenError:
        requested_at, requested_wall = self._clock.now(), self._clock.wall()
        async with self._open().post(
            self._url,
            data=form,
            headers=self._headers,
            allow_redirects=False,
            ssl=self._ssl or True,
            proxy=self._proxy,
            trace_request_ctx=way,
        ) as response:
            if response.status == 407 and self._proxy:  # a plain-HTTP proxy answers in the endpoint's place
                return _egress_refused(407)
            body = b""
            if response.status in TELLING:
                plain = await _read(response)
                if plain is None and response.status == 200:
                    return unusable("answered with a body that is too large or cannot be decoded")
                body = plain or b""
            return read_answer(
                response.status,
                body,
                refreshing=refreshing,
                retry_after=read_retry_after(response.headers, self._clock.wall()),
                requested_at=requested_at,
                requested_wall=requested_wall,
            )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Token requests are hours apart: a kept connection would only be stale, a kept address too.
            connector = aiohttp.TCPConnector(force_close=True, use_dns_cache=False)
            trace = aiohttp.TraceConfig()
            trace.on_connection_create_end.append(_connected)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # decoded() bounds what comes out
                timeout=aiohttp.ClientTimeout(),  # none: asyncio.timeout covers it all, and aiohttp rounds up
                trace_configs=[trace],
            )
        return self._session

    def _too_slow(self, way: _Way) -> TokenError:
        if self._proxy is None or way.connected:
            return TokenEndpointUnavailable(
                f"The EMR's token endpoint did not answer within {self._timeout:g} s."
            )
        # aiohttp does not tell a CONNECT without an answer from a handshake without one inside of the tunnel.
        return EgressProxyFailed(
            "No connection to the EMR's token endpoint came about through the egress proxy "
            f"within {self._timeout:g} s."
        )

    def _explain(self, exc: Exception, way: _Way) -> tuple[TokenError, Outcome]:
        if isinstance(exc, aiohttp.ClientHttpProxyError):
            return _egress_refused(exc.status), "unreachable"
        if self._is_egress(exc, way):
            what = _called(exc, _EGRESS_FAULTS)
            return EgressProxyFailed(f"The egress proxy {what}{_reason(exc)}."), "unreachable"
        if isinstance(exc, aiohttp.ClientConnectorCertificateError):
            cause = exc.certificate_error
            why = f": {cause.verify_message}" if isinstance(cause, ssl.SSLCertVerificationError) else ""
            return (
                TokenEndpointUntrusted(f"The certificate of the EMR's token endpoint is not trusted{why}."),
                "unreachable",
            )
        if isinstance(exc, aiohttp.ClientResponseError):
            return unusable("answered with something that is not HTTP"), "unusable"
        if isinstance(exc, aiohttp.ClientPayloadError):
            return unusable("broke off its answer"), "unusable"
        if tls := _tls_error(exc):
            # Its errno would be a library's number, which reads as EPERM.
            hint = "; it wants a client certificate: set client_cert" if "CERTIFICATE" in tls else ""
            return unusable(f"could not be reached: the TLS handshake failed ({tls}{hint})"), "unreachable"
        return unusable(_called(exc, _UNREACHABLE) + _errno(exc)), "unreachable"

    def _is_egress(self, exc: Exception, way: _Way) -> bool:
        if self._proxy is None or way.connected:
            return False
        if isinstance(exc, _CONNECTING):  # to the proxy, or inside of the tunnel: they name the host
            return (exc.host, exc.port) == (self._proxy.host, self._proxy.port)
        return True  # in place of an answer to CONNECT


async def _connected(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionCreateEndParams,
) -> None:
    context.trace_request_ctx.connected = True


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > BODY_LIMIT:
            return None
    return decoded(bytes(body), response.headers.get("Content-Encoding", ""))


def _egress_refused(status: int) -> EgressProxyFailed:
    did = "found no" if status >= 500 else "refused the"
    return EgressProxyFailed(f"The egress proxy {did} way to the EMR's token endpoint: {status}.")


def _called(exc: Exception, faults: _Faults) -> str:
    return next(text for kind, text in faults if isinstance(exc, kind))


def _tls_error(exc: BaseException | None) -> str | None:
    """OpenSSL's word for what is behind the exception, if that was TLS."""
    while isinstance(exc, aiohttp.ClientError):  # some of which are SSLErrors too, without a reason
        exc = exc.__cause__
    return exc.reason or "TLS error" if isinstance(exc, ssl.SSLError) else None


def _reason(exc: Exception) -> str:
    tls = _tls_error(exc)
    return f" ({tls})" if tls else _errno(exc)


def _errno(exc: Exception) -> str:
    name = errno.errorcode.get(exc.errno or 0) if isinstance(exc, OSError) else None
    return f" ({name})" if name else ""


def _basic(client_id: str, client_secret: str) -> str:
    # RFC 6749 section 2.3.1: each is form-encoded first, or a colon in the id would move the border.
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()
