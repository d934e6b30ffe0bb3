"""Opening a connection to Fumage: name, TCP (IPv6 and IPv4 raced), egress proxy, TLS."""

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from proxy.forward.outbound import Connection
from proxy.forward.strand import news
from proxy.rules.errors import (
    AllConnectionsBusy,
    EgressProxyFailed,
    FumageConnectionLost,
    FumageConnectTimeout,
    FumageError,
    FumageNameUnknown,
    FumageNotHTTP,
    FumageRefused,
    FumageTLS,
    FumageUnroutable,
    FumageUntrusted,
    ProxyError,
)

Result = TypeVar("Result")

_HEAD_START = 0.25  # seconds that the preferred address family gets (RFC 8305 section 8)


@dataclass(frozen=True, slots=True)
class EgressProxy:
    """The proxy of HTTPS_PROXY; `authorization` is the value of Proxy-Authorization, or None."""

    host: str
    port: int
    tls: bool
    authorization: bytes | None

    @classmethod
    def of(cls, url: str) -> "EgressProxy":
        """Read `http://user:password@host:port`, also without scheme, as curl does.

        Raises ValueError, whose text holds nothing of the URL.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError:
            raise ValueError("HTTPS_PROXY is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("HTTPS_PROXY is not an http:// or https:// URL with a host")
        tls = parts.scheme == "https"
        authorization = None
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(credentials.encode())
        return cls(parts.hostname, port or (443 if tls else 80), tls, authorization)


class Dialer:
    """Opens connections to one origin.

    `ssl_context` None means plain http (loopback alone). `timeout` in seconds, for all steps together.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None,
        egress: EgressProxy | None,
        timeout: float,
        connection: Callable[[], Connection],
    ):
        self._host, self._port = host, port
        self._ssl = ssl_context
        self._egress = egress
        self._timeout = timeout
        self._connection = connection

    async def dial(self) -> Connection:
        """A new connection, ready for a request. Raises FumageError, or AllConnectionsBusy (no socket)."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        if self._egress is None:
            connection = await _in_time(deadline, self._direct(), _too_slow())
        else:
            connection = await self._through(self._egress, deadline)
        if self._ssl is not None:
            async with _dropping(connection):
                await _in_time(deadline, connection.start_tls(self._ssl, self._host), _too_slow())
        return connection

    async def _direct(self) -> Connection:
        try:
            return await self._tcp(self._host, self._port)
        except OSError as error:
            raise _unreachable(error) from None

    async def _through(self, egress: EgressProxy, deadline: float) -> Connection:
        late = EgressProxyFailed("The egress proxy cannot be reached within connect_timeout.")
        silent = EgressProxyFailed("The egress proxy did not connect us within connect_timeout.")
        connection = await _in_time(deadline, self._to(egress), late)
        async with _dropping(connection):
            try:
                if egress.tls:
                    assert self._ssl is not None
                    await _in_time(deadline, connection.start_tls(self._ssl, egress.host), late)
                await _in_time(deadline, self._tunnel(connection, egress), silent)
            except (FumageUntrusted, FumageTLS, FumageNotHTTP, FumageConnectionLost) as error:
                raise EgressProxyFailed(_EGRESS_FAULTS[type(error)]) from None
        return connection

    async def _to(self, egress: EgressProxy) -> Connection:
        try:
            return await self._tcp(egress.host, egress.port)
        except OSError as error:
            raise EgressProxyFailed(_EGRESS_FAULTS[type(_unreachable(error))]) from None

    async def _tunnel(self, connection: Connection, egress: EgressProxy) -> None:
        """CONNECT (RFC 9110 section 9.3.6)."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = f"{host}:{self._port}".encode()
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (authority, authority)
        if egress.authorization is not None:
            head += b"Proxy-Authorization: %b\r\n" % egress.authorization
        connection.begin(head + b"\r\n", head_only=True, whole=False)
        while (answer := connection.answer()) is None or answer.status < 200:
            if answer is None:
                await news(connection)
        if answer.status >= 300:
            refusal = _EGRESS_REFUSALS.get(answer.status, "The egress proxy refused to connect us")
            raise EgressProxyFailed(f"{refusal} (status {answer.status}).")

    async def _tcp(self, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:  # a label that is empty or too long for DNS
            raise socket.gaierror(socket.EAI_NONAME, "no host name") from None
        except OSError as error:
            if isinstance(error, socket.gaierror):
                raise
            # EAI_SYSTEM: this machine could not even ask, mostly for want of a descriptor. glibc leaves any
            # errno behind then: EBUSY, EINVAL.
            raise OSError(errno.EMFILE, "no means to look up a name") from None
        sock = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=_HEAD_START, interleave=1, loop=loop
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A cast, because it does not inherit from asyncio.Protocol: see `Listeners`.
            make = cast(Callable[[], asyncio.Protocol], self._connection)
            _, connection = await loop.create_connection(make, sock=sock)
        except BaseException:
            sock.close()
            raise
        return cast(Connection, connection)


@asynccontextmanager
async def _dropping(connection: Connection) -> AsyncIterator[None]:
    """Close the connection if what is done with it fails."""
    try:
        yield
    except BaseException:
        connection.abort()
        raise


async def _in_time(deadline: float, step: Awaitable[Result], late: FumageError) -> Result:
    """The result of `step`; `late` is raised when the deadline (by the loop's clock) passes first."""
    try:
        async with asyncio.timeout_at(deadline):
            return await step
    except TimeoutError:
        raise late from None


def _too_slow() -> FumageError:
    return FumageConnectTimeout("No connection to Fumage within connect_timeout.")


_UNROUTABLE = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL))
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_EGRESS_FAULTS: dict[type[ProxyError], str] = {
    FumageNameUnknown: "The host name of the egress proxy is unknown.",
    FumageConnectTimeout: "The network gave up on the connection to the egress proxy.",
    FumageUnroutable: "There is no route to the egress proxy.",
    FumageRefused: "The egress proxy refused the connection.",
    FumageConnectionLost: "The egress proxy closed the connection instead of connecting us.",
    FumageNotHTTP: "The egress proxy does not speak HTTP.",
    FumageUntrusted: "The egress proxy's certificate is not trusted.",
    FumageTLS: "TLS with the egress proxy failed.",
    AllConnectionsBusy: "This machine lets fumage-proxy open no more sockets.",
}

_EGRESS_CREDENTIALS = "The egress proxy wants credentials, or others than those in HTTPS_PROXY"
_EGRESS_REFUSALS = {
    401: _EGRESS_CREDENTIALS,  # what tinyproxy says to wrong ones
    403: "The egress proxy does not allow connections to the host and port of Fumage",
    407: _EGRESS_CREDENTIALS,
    **dict.fromkeys(range(500, 600), "The egress proxy could not connect us"),
}


def _unreachable(error: OSError) -> ProxyError:
    if isinstance(error, socket.gaierror):
        return FumageNameUnknown("The host name of Fumage is unknown.")
    if isinstance(error, TimeoutError):
        return FumageConnectTimeout("The network gave up on the connection to Fumage.")
    if error.errno in _UNROUTABLE:
        return FumageUnroutable("There is no route to Fumage.")
    if error.errno in _EXHAUSTED:
        return AllConnectionsBusy(_EGRESS_FAULTS[AllConnectionsBusy])
    if isinstance(error, ConnectionResetError):
        return FumageConnectionLost("Fumage closed the connection at once.", sent=False)
    return FumageRefused("Fumage refused the connection.")
