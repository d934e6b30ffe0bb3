"""Who may ask: the Host and Origin rules that keep a browser's pages away from the data (DNS rebinding,
cross-site requests), and the CORS answers for the origins that are allowed."""

import ipaddress
import re

from proxy.rules.errors import CallerRefused, MalformedRequest, MethodRefused
from proxy.rules.headers import EXPOSED, Fields
from proxy.rules.hosts import DEFAULT_HOSTS

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

# RFC 9110 section 7.2 with RFC 3986 section 3.2.2, less user info: a name or IPv4, or IPv6 in brackets.
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~%!$&'()*+;=-]*))(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)


def split_target(method: bytes, target: bytes) -> tuple[bytes | None, bytes]:
    """The authority of an absolute-form target (else None) and its path with query, byte-exact.

    Raises MalformedRequest for a target that is neither origin-form, absolute-form nor `OPTIONS *`
    (RFC 9112 section 3.2), and for one with a fragment.
    """
    if b"#" in target:
        raise MalformedRequest("The request target carries a fragment.")
    if target.startswith(b"/"):
        return None, target
    if target == b"*" and method == b"OPTIONS":
        return None, target
    found = _ABSOLUTE.fullmatch(target)
    if not found:
        raise MalformedRequest("The request target is neither a path nor an http URL.")
    authority, path = found[1], found[2]
    if not path:
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, path if path.startswith(b"/") else b"/" + path


def host_of(authority: bytes) -> str:
    """The host of an authority, lower-cased, IPv6 in its shortest form, without port and final dot.

    Raises MalformedRequest when it is no authority, or carries user info.
    """
    found = _AUTHORITY.fullmatch(authority)
    if not found or (found[1] is not None and not _is_ipv6(found[1])):
        raise MalformedRequest("The Host field is not a host with an optional port.")
    return canonical_host((found[1] or found[2]).decode("ascii"))


def _is_ipv6(address: bytes) -> bool:
    try:
        return bool(ipaddress.IPv6Address(address.decode("ascii")))
    except ValueError:
        return False


def canonical_host(host: str) -> str:
    """A host name or address in the one form in which hosts are compared."""
    host = host.strip("[]").lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


class Guard:
    """The Host and Origin rules of one proxy.

    `hosts` are accepted besides the loopback names; `origins` are browser origins such as `https://app.example`.
    """

    def __init__(self, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()):
        self._hosts = frozenset(canonical_host(host) for host in (*DEFAULT_HOSTS, *hosts))
        self._origins = frozenset(origin.encode("ascii") for origin in origins)
        self._known: dict[bytes, None] = {}  # Host values that passed; bounded, since callers choose them

    def check(self, method: bytes, authority: bytes | None, noted: dict[bytes, bytes], *, tcp: bool) -> None:
        """Raise CallerRefused, MethodRefused or MalformedRequest when this request must not go on."""
        host = noted.get(b"host")
        if host is None:
            raise MalformedRequest("The request has no Host field.")
        if tcp:
            self._check_host(host)
            if authority is not None:
                self._check_host(authority)
        elif b"," in host:
            raise MalformedRequest("The request has more than one Host field.")
        if method in (b"TRACE", b"CONNECT"):
            raise MethodRefused(f"The method {method.decode()} is not served.")
        if b"origin" in noted or b"sec-fetch-site" in noted:
            self._check_origin(noted)

    def _check_host(self, authority: bytes) -> None:
        if authority in self._known:
            return
        if host_of(authority) not in self._hosts:
            raise CallerRefused(
                "The request names a host that this proxy does not serve (Host field or absolute URL).",
                "If the name is really this proxy's, add it to allowed_hosts (FUMAGE_PROXY_ALLOWED_HOSTS).",
            )
        if len(self._known) < 64:
            self._known[authority] = None

    def _check_origin(self, noted: dict[bytes, bytes]) -> None:
        origin = noted.get(b"origin")
        if origin is not None:
            if origin.lower() in self._origins:
                return
            raise CallerRefused(
                "The request comes from a web page of an origin that is not allowed.",
                "If that page should read this data, add its origin to allowed_origins "
                "(FUMAGE_PROXY_ALLOWED_ORIGINS).",
            )
        if noted[b"sec-fetch-site"].lower() not in (b"same-origin", b"none"):
            raise CallerRefused(
                "The request comes from a web page of another site.",
                "Only fetch requests of an origin in allowed_origins (FUMAGE_PROXY_ALLOWED_ORIGINS) "
                "are served.",
            )

    def allowed_origin(self, noted: dict[bytes, bytes]) -> bytes | None:
        """The caller's Origin as it wrote it, if it is an allowed one."""
        origin = noted.get(b"origin")
        return origin if origin is not None and origin.lower() in self._origins else None


def is_preflight(method: bytes, noted: dict[bytes, bytes]) -> bool:
    """Whether this is a CORS preflight (https://fetch.spec.whatwg.org/#cors-preflight-request)."""
    return method == b"OPTIONS" and b"origin" in noted and b"access-control-request-method" in noted


def preflight_fields(noted: dict[bytes, bytes]) -> Fields:
    """What a preflight's answer says besides `cors_fields`: all methods served, and the fields asked for."""
    fields: Fields = [(b"Access-Control-Allow-Methods", METHODS), (b"Access-Control-Max-Age", b"600")]
    if asked := noted.get(b"access-control-request-headers"):
        fields.append((b"Access-Control-Allow-Headers", asked))
    return fields


def cors_fields(origin: bytes) -> Fields:
    """The CORS fields of any answer to an allowed origin."""
    return [
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Expose-Headers", EXPOSED),
        (b"Vary", b"Origin"),
    ]
