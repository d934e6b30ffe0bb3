"""Opening a connection to Fumage: name, TCP (IPv6 and IPv4 raced), egress proxy, TLS."""

import asyncio
import base64
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs

from proxy.forward.outbound import Connection
from proxy.rules.errors import (
    EgressProxyFailed,
    FumageConnectionLost,
    FumageConnectTimeout,
    FumageError,
    FumageNameUnknown,
    FumageRefused,
    FumageUnroutable,
)

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
        """Read `http://user:password@host:port`, also without scheme, as curl does."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        tls = parts.scheme == "https"
        authorization = None
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(credentials.encode())
        return cls(parts.hostname or "", parts.port or (443 if tls else 80), tls, authorization)


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
        """A new connection, ready for a request. Raises FumageError."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await (self._direct() if self._egress is None else self._through(self._egress))
                if self._ssl is not None:
                    await connection.start_tls(self._ssl, self._host)
                connection.ready()
                return connection
        except TimeoutError:
            self._drop(connection)
            raise FumageConnectTimeout("No connection to Fumage within connect_timeout.") from None
        except BaseException:
            self._drop(connection)
            raise

    @staticmethod
    def _drop(connection: Connection | None) -> None:
        if connection is not None:
            connection.abort()

    async def _direct(self) -> Connection:
        try:
            return await self._tcp(self._host, self._port)
        except OSError as error:
            raise _unreachable(error) from None

    async def _through(self, egress: EgressProxy) -> Connection:
        try:
            connection = await self._tcp(egress.host, egress.port)
        except OSError as error:
            raise EgressProxyFailed(f"The egress proxy cannot be reached: {_unreachable(error)}") from None
        try:
            if egress.tls:
                await connection.start_tls(ssl.create_default_context(), egress.host)
            await self._tunnel(connection, egress)
        except EgressProxyFailed:
            connection.abort()
            raise
        except FumageError as error:
            connection.abort()
            raise EgressProxyFailed(f"The egress proxy broke off ({type(error).__name__}).") from None
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _tunnel(self, connection: Connection, egress: EgressProxy) -> None:
        """CONNECT (RFC 9110 section 9.3.6)."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        authority = f"{host}:{self._port}".encode()
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (authority, authority)
        if egress.authorization is not None:
            head += b"Proxy-Authorization: %b\r\n" % egress.authorization
        connection.begin(head + b"\r\n", head_only=True)
        answer = await connection.answer()
        while answer.status < 200:
            answer = await connection.answer()
        if answer.status >= 300:
            raise EgressProxyFailed(f"The egress proxy refused to connect us (status {answer.status}).")

    async def _tcp(self, host: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=_HEAD_START, interleave=1, loop=loop
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _, connection = await loop.create_connection(self._connection, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection


_UNROUTABLE = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL))


def _unreachable(error: OSError) -> FumageError:
    if isinstance(error, socket.gaierror):
        return FumageNameUnknown("The host name of Fumage is unknown.")
    if isinstance(error, TimeoutError):
        return FumageConnectTimeout("The network gave up on the connection to Fumage.")
    if error.errno in _UNROUTABLE:
        return FumageUnroutable("There is no route to Fumage.")
    if isinstance(error, ConnectionResetError):
        return FumageConnectionLost("Fumage closed the connection at once.", sent=False)
    return FumageRefused("Fumage refused the connection.")
