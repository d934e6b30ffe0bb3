"""The way to Fumage and to the EMR: name, connection, egress proxy, TLS."""

import asyncio
import base64
import re
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohappyeyeballs
from yarl import URL as AnyURL

from proxy.check.report import UNREACHABLE, Finding, bad, good
from proxy.settings import URL

_HEAD_START = 0.25  # seconds that the preferred address family gets (RFC 8305 section 8)
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")

# Of X509_V_ERR_… (openssl/x509_vfy.h): what no other certificate authority would cure.
_NOT_YET, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64

_NOBODY_SPEAKS_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"}
_OTHER_VERSION = {
    "UNSUPPORTED_PROTOCOL",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "NO_PROTOCOLS_AVAILABLE",
}
_EGRESS_ADVICE = "Check HTTPS_PROXY, its credentials and its rules; NO_PROXY exempts a host."


@dataclass
class Leg:
    """One of the two ways out. `setting` is where its host comes from; `addresses` are found by `resolve`."""

    name: str
    setting: str
    url: URL
    egress: AnyURL | None
    addresses: list[Any] = field(default_factory=list)

    @property
    def host(self) -> str:
        """The host that is looked up and dialled."""
        return (self.egress.host or "") if self.egress else self.url.host

    @property
    def port(self) -> int:
        return (self.egress.port or 80) if self.egress else self.url.port


async def resolve(leg: Leg, timeout: float) -> Finding:
    """Look the leg's name up; an egress proxy looks up the names behind it itself."""
    loop = asyncio.get_running_loop()
    shown = f"{leg.host} (egress proxy)" if leg.egress else leg.host
    advice = f"Check the host in {'HTTPS_PROXY' if leg.egress else leg.setting} and this machine's DNS."
    try:
        async with asyncio.timeout(timeout):
            leg.addresses = await loop.getaddrinfo(leg.host, leg.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return bad(UNREACHABLE, f"{shown}: no answer from DNS within {timeout:g} s", advice)
    except (OSError, UnicodeError):  # UnicodeError: a label that is empty or too long for DNS
        return bad(UNREACHABLE, f"{shown}: this name is unknown", advice)
    found = len({address for *_, address in leg.addresses})
    return good(f"{shown}: {found} address{'es' if found != 1 else ''}")


class _Egress(Exception):
    """The egress proxy is in the way; says how."""


async def connect(
    leg: Leg, context: ssl.SSLContext, timeout: float, *, another: Callable[[], ssl.SSLContext]
) -> Finding:
    """Open a connection with TLS, send nothing, and close it. `another` makes one more such context."""
    try:
        version = await _shake_hands(leg, context, timeout)
    except ssl.SSLCertVerificationError as error:
        return await _certificate(leg, error, timeout, another)
    except _Egress as error:
        return bad(UNREACHABLE, f"{leg.url.authority}: {error}", _EGRESS_ADVICE)
    except TimeoutError:
        return _unreachable(leg, f"no connection within connect_timeout ({timeout:g} s)")
    except ConnectionRefusedError:
        return _unreachable(leg, "the connection was refused")
    except (ConnectionError, ssl.SSLEOFError):
        return _unreachable(leg, "the connection was closed during the handshake")
    except ssl.SSLError as error:
        return _protocol(leg, error)
    except OSError as error:
        return _unreachable(leg, f"no connection: {error.strerror or 'no address answers'}")
    return good(f"{leg.url.authority}: {version}")


async def _shake_hands(leg: Leg, context: ssl.SSLContext, timeout: float) -> str:
    async with asyncio.timeout(timeout):
        sock = await aiohappyeyeballs.start_connection(
            leg.addresses, happy_eyeballs_delay=_HEAD_START, interleave=1
        )
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            if leg.egress:
                await _through(leg.egress, leg.url, context, reader, writer)
            if leg.url.scheme != "https":
                return "connected, no TLS with http (loopback)"
            await writer.start_tls(context, server_hostname=leg.url.host)
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            return f"{tls.version()}, certificate trusted"
        finally:
            writer.transport.abort()


async def _through(
    egress: AnyURL,
    to: URL,
    context: ssl.SSLContext,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """CONNECT (RFC 9110 section 9.3.6)."""
    if egress.scheme == "https":
        try:
            await writer.start_tls(context, server_hostname=egress.host)
        except ssl.SSLError:
            raise _Egress("TLS with the egress proxy failed") from None
    authority = f"[{to.host}]:{to.port}" if ":" in to.host else f"{to.host}:{to.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if egress.user is not None:
        credentials = base64.b64encode(f"{egress.user}:{egress.password or ''}".encode()).decode()
        head += f"Proxy-Authorization: Basic {credentials}\r\n"
    writer.write(f"{head}\r\n".encode())
    try:
        answer = _STATUS.match(await reader.readuntil(b"\r\n\r\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        answer = None
    if answer is None:
        raise _Egress("the egress proxy does not answer in HTTP")
    status = int(answer[1])
    if status >= 500:
        raise _Egress(f"the egress proxy found no way to it ({status})")
    if not 200 <= status < 300:
        raise _Egress(f"the egress proxy refused to connect us ({status})")


def _unreachable(leg: Leg, cause: str) -> Finding:
    if leg.egress:
        return bad(UNREACHABLE, f"the egress proxy {leg.host}: {cause}", _EGRESS_ADVICE)
    return bad(
        UNREACHABLE,
        f"{leg.url.authority}: {cause}",
        f"Check host and port in {leg.setting}, and the network: a firewall, or an egress proxy that "
        "HTTPS_PROXY has to name.",
    )


# --- what TLS says ---


async def _certificate(
    leg: Leg, error: ssl.SSLCertVerificationError, timeout: float, another: Callable[[], ssl.SSLContext]
) -> Finding:
    host = leg.url.authority
    if error.verify_code in (_NOT_YET, _EXPIRED):
        state = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return bad(
            UNREACHABLE,
            f"{host}: its certificate {state}",
            f"If this machine's clock is right ({datetime.now(UTC):%Y-%m-%d %H:%M} UTC), the certificate has "
            "to be renewed by whoever runs that host.",
        )
    if error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        return bad(
            UNREACHABLE,
            f"{host}: its certificate is for another host",
            f"Check the host in {leg.setting}; the name may also resolve to a wrong machine.",
        )
    if await _only_too_strict(leg, another(), timeout):
        return bad(
            UNREACHABLE,
            f"{host}: its private CA is refused by the strict X.509 rules of Python "
            f"{sys.version_info.major}.{sys.version_info.minor} ({error.verify_message})",
            "Have the CA's certificate reissued as RFC 5280 asks: keyUsage with keyCertSign, critical "
            "basicConstraints, key identifiers.",
        )
    return bad(UNREACHABLE, f"{host}: its certificate's CA is unknown ({error.verify_message})", _trust(leg))


def _trust(leg: Leg) -> str:
    advice = "Set ca_file to the CA certificate (PEM) to trust: it replaces the system's."
    if leg.url.host.endswith(".canvasmedical.com"):
        advice += " Canvas's are signed by a public CA: a proxy in between may have put its own there."
    elif leg.egress:
        advice += " The egress proxy may have put a certificate of its own there."
    return advice


async def _only_too_strict(leg: Leg, context: ssl.SSLContext, timeout: float) -> bool:
    # Certificate and name are still verified, and nothing is sent: what is learnt is only who said no.
    if not context.verify_flags & ssl.VERIFY_X509_STRICT:
        return False
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        await _shake_hands(leg, context, timeout)
    except (_Egress, OSError):
        return False
    return True


def _protocol(leg: Leg, error: ssl.SSLError) -> Finding:
    host, reason = leg.url.authority, error.reason or "no reason given"
    if reason in _NOBODY_SPEAKS_TLS:
        return bad(
            UNREACHABLE,
            f"{host}: what listens there speaks no TLS",
            f"Check host and port in {leg.setting}.",
        )
    if reason in _OTHER_VERSION:
        return bad(
            UNREACHABLE,
            f"{host}: it shares no TLS version or cipher with us ({reason})",
            f"TLS 1.2 or newer is needed. Check {leg.setting}; a client certificate it may ask for is "
            "set by client_cert.",
        )
    if "CERTIFICATE" in reason:
        return bad(
            UNREACHABLE,
            f"{host}: it refuses our client certificate, or misses one ({reason})",
            "Check client_cert and client_key.",
        )
    return bad(UNREACHABLE, f"{host}: the TLS handshake failed ({reason})", f"Check {leg.setting}.")
