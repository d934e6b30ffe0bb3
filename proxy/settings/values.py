"""The forms that values take: text becomes a value, or a ValueError says what is wrong and what to write.

Nothing here looks at files, the network or the environment, and no message shows a password.
"""

import ipaddress
import re
import sys
from dataclasses import dataclass, replace
from typing import TypeVar

from proxy.rules.hosts import DEFAULT_HOSTS

W = TypeVar("W", bound=str)

MASK = "********"  # as long for every secret
DEFAULT_PORTS = {"http": 80, "https": 443}

_SOCKET_MODE = 0o600
# sun_path of sockaddr_un, less the final NUL: 108 bytes on Linux, 104 on macOS and the BSDs.
_SOCKET_PATH_MAX = 107 if sys.platform == "linux" else 103

# Up to the last @, not the first: a password with a raw / or @ in it is malformed, but must not leak.
# What follows a bracketed address, or is a number alone, is a port and no password.
_PASSWORD = re.compile(
    r"(//(?!\[[0-9A-Fa-f:.]*\](?::[0-9]*)?(?:[/?#]|$))[^/?#@:]*:)(?![0-9]{1,5}(?:[/?#]|$)).*@", re.DOTALL
)
# Other programs have a password there, too. Up to the end, not the next &, for the same reason.
_PASSWORD_PARAMETER = re.compile(
    r"([?&](?:[\w.-]*[_.-])?(?:pass|password|passwd|passphrase|pwd|secret)=).*",
    re.DOTALL | re.IGNORECASE,
)


def mask_url(url: str) -> str:
    """The URL with its passwords, if it has any, replaced; also for `user:password@host` without a scheme."""
    if _lacks_scheme(url):
        return mask_url("//" + url)[2:]
    return _PASSWORD_PARAMETER.sub(rf"\1{MASK}", _PASSWORD.sub(rf"\1{MASK}@", url))


def has_password(text: str, *, is_url: bool) -> bool:
    """Whether a URL with a password stands in the text; `is_url`: the text is one, maybe without a scheme."""
    if is_url and _lacks_scheme(text):
        text = "//" + text
    return any(pattern.search(text) for pattern in (_PASSWORD, _PASSWORD_PARAMETER))


def _lacks_scheme(url: str) -> bool:
    return not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://|//|unix:", url)


def quote(text: str) -> str:
    """The text as a message shows it: in quotes, passwords masked, not longer than a line."""
    text = mask_url(text)
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}..."'


# Hosts and ports

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # with _: names of containers have it
_NAME = re.compile(rf"(?=.{{1,254}}$){_LABEL}(?:\.{_LABEL})*\.?")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@]*))(?::([0-9]+))?")


def canonical_host(host: str) -> str:
    """A host name in lower case without its final dot, or an IP address in its shortest form; no brackets."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if not _NAME.fullmatch(host):
            raise ValueError("is not a host name or address") from None
        return host.lower().removesuffix(".")


def is_loopback(host: str) -> bool:
    """Whether the host surely is this machine alone: localhost, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Python before 3.13 does not look inside ::ffff:127.0.0.1.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _host_and_port(authority: str) -> tuple[str, int | None]:
    # The host may come out empty; whoever calls knows whether that means anything.
    found = _AUTHORITY.fullmatch(authority)
    if not found:
        raise ValueError("is not host:port (an IPv6 address stands in brackets)")
    in_brackets, plain, port = found.groups()
    if in_brackets is not None and ":" not in in_brackets:
        raise ValueError("has brackets around something else than an IPv6 address")
    host = canonical_host(in_brackets or plain) if in_brackets or plain else ""
    if port is not None and (len(port) > 5 or int(port) > 65535):
        raise ValueError("has a port over 65535")
    return host, None if port is None else int(port)


# URLs


@dataclass(frozen=True)
class URL:
    """An http or https URL without user info, query and fragment.

    `host` is lower-cased and without brackets, `port` is never missing; `str()` leaves a default port out.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def explicit_port(self) -> int | None:
        """The port, or None when it is the scheme's default."""
        return None if self.port == DEFAULT_PORTS[self.scheme] else self.port

    @property
    def authority(self) -> str:
        """What the Host field says: the host, in brackets if IPv6, and a port that is not the default."""
        port = self.explicit_port
        return _bracketed(self.host) + ("" if port is None else f":{port}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


# RFC 3986 appendix B. Not urlsplit: it drops tabs and line ends and cannot tell an empty query from none.
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")  # RFC 3986 section 3.3


def _split_url(text: str) -> tuple[str, str, int | None, str]:
    # Scheme, host, port and path; the scheme is not looked at.
    if text[:1] in ("'", '"'):
        raise ValueError(
            f"{quote(text)} begins with a quotation mark, which docker's --env-file keeps; leave it out"
        )
    scheme, authority, path, query, fragment = _URL.fullmatch(text).groups()  # type: ignore[union-attr]
    if scheme is None:
        raise ValueError(f"{quote(text)} has no scheme; write https://{mask_url(text)}")
    if "@" in authority:
        raise ValueError("must not carry a user name or password")
    if query is not None or fragment is not None:
        raise ValueError("must not carry a query (?) or fragment (#)")
    try:
        host, port = _host_and_port(authority)
    except ValueError as error:
        raise ValueError(f"{quote(text)} {error}") from None
    if not host:
        raise ValueError(f"{quote(text)} has no host")
    return scheme.lower(), host, port, path


def endpoint(text: str) -> URL:
    """A URL that credentials may go to: https, or http on loopback."""
    scheme, host, port, path = _split_url(text)
    if scheme not in DEFAULT_PORTS:
        raise ValueError(f"{quote(text)} is not an https URL")
    if scheme == "http" and not is_loopback(host):
        raise ValueError(f"{quote(text)} is not https; http is accepted for loopback alone")
    if port == 0:
        raise ValueError(f"{quote(text)} has port 0")
    if not _PATH.fullmatch(path):
        raise ValueError(f"{quote(text)} has a path with characters that have to be percent-encoded")
    return URL(scheme, host, port or DEFAULT_PORTS[scheme], path or "/")


def base(text: str) -> URL:
    """An endpoint that paths are added to: its own path, if any, has no final slash."""
    url = endpoint(text)
    return replace(url, path=url.path.rstrip("/"))


def emr_token_url(fumage: URL) -> URL:
    """Where the EMR of this Fumage issues tokens; ValueError when the host does not tell."""
    prefix, host = "fumage-", fumage.host
    if not host.startswith(prefix) or not _NAME.fullmatch(host.removeprefix(prefix)):
        raise ValueError(f"{quote(host)} does not begin with {prefix}, so the EMR's host cannot be derived")
    return replace(fumage, host=host.removeprefix(prefix), path="/auth/token/")


# Addresses to listen on


@dataclass(frozen=True)
class TCP:
    """A host ("" means all addresses) and a port (0 picks one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class Unix:
    """An absolute path and the permissions of the socket there."""

    path: str
    mode: int = _SOCKET_MODE

    def __str__(self) -> str:
        return f"unix:{self.path}" + ("" if self.mode == _SOCKET_MODE else f",mode={self.mode:04o}")


Address = TCP | Unix

_UNIX = re.compile(r"unix:(/[^,]*)(?:,\s*mode=([0-7]{3,4}))?")


def _address(text: str) -> Address:
    if text.startswith("unix:"):
        return _unix_address(text)
    try:
        host, port = _host_and_port(text)
    except ValueError as error:
        raise ValueError(f"{quote(text)} {error}") from None
    if port is None:
        raise ValueError(f"{quote(text)} has no port; write host:port, [::1]:port, :port or unix:/path")
    if ":" in host and (mapped := ipaddress.IPv6Address(host).ipv4_mapped):
        # Sockets for IPv6 take IPv6 alone (IPV6_V6ONLY), so that both families can have the same port.
        raise ValueError(f"{quote(text)} is an IPv4 address written as IPv6; write {mapped}:{port}")
    return TCP(host, port)


def _unix_address(text: str) -> Unix:
    found = _UNIX.fullmatch(text)
    if not found or int(found[2] or "0", 8) > 0o777:
        raise ValueError(
            f"{quote(text)} is not unix:/path or unix:/path,mode=0600 (absolute path, octal mode)"
        )
    path = "/" + found[1].lstrip("/")  # unix:///run/x is a common way to write it
    if len(path.encode()) > _SOCKET_PATH_MAX:
        raise ValueError(f"{quote(text)} has a path of over {_SOCKET_PATH_MAX} bytes, too long for a socket")
    return Unix(path, int(found[2], 8) if found[2] else _SOCKET_MODE)


def clashes(address: Address, others: tuple[Address, ...]) -> bool:
    """Whether the address cannot be bound besides the others."""
    if isinstance(address, Unix):
        return any(isinstance(other, Unix) and other.path == address.path for other in others)
    return address.port != 0 and address in others


def addresses(text: str) -> tuple[Address, ...]:
    """Addresses between commas; the comma before `mode=` belongs to the address."""
    found = tuple(_address(item) for item in _items(text, r",(?!\s*mode=)"))
    for index, address in enumerate(found):
        if clashes(address, found[:index]):
            raise ValueError(f"{quote(str(address))} is listed twice")
    return found


def addresses_or_off(text: str) -> tuple[Address, ...]:
    """The same, or nothing for `off`."""
    return () if text.lower() == "off" else addresses(text)


# Lists and words


def _items(text: str, comma: str = ",") -> list[str]:
    found = [item.strip() for item in re.split(comma, text)]
    if not any(found):
        raise ValueError("lists nothing")
    return [item for item in found if item]


def allowed_hosts(text: str) -> tuple[str, ...]:
    """The default hosts and those of the list, in canonical form, each once."""
    return tuple(dict.fromkeys((*DEFAULT_HOSTS, *map(_allowed_host, _items(text)))))


def _allowed_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address, zone, _ = bare.partition("%")
    if zone:
        raise ValueError(f"{quote(text)} has a zone, and no Host with one is accepted; write {address}")
    try:
        return canonical_host(bare)
    except ValueError:
        pass
    try:
        host, _ = _host_and_port(text)
    except ValueError:
        host = ""
    advice = (
        f"write {host} alone, since any port is accepted" if host else "write names, without scheme and port"
    )
    raise ValueError(f"{quote(text)} is not a host name; {advice}")


def allowed_origins(text: str) -> tuple[str, ...]:
    """Browser origins as browsers send them: lower-cased, a default port left out, each once; none for ""."""
    return tuple(dict.fromkeys(map(_allowed_origin, _items(text)))) if text else ()


def _allowed_origin(text: str) -> str:
    if text in ("*", "null"):  # "null" is what a sandboxed page of anybody sends
        raise ValueError(
            f"{quote(text)} would let any page in; list the origins, such as https://app.example"
        )
    scheme, host, port, path = _split_url(text)
    origin = f"{scheme}://{_bracketed(host)}"
    if port is not None and port != DEFAULT_PORTS.get(scheme):
        origin += f":{port}"
    if path:
        raise ValueError(f"{quote(text)} has a path, and an origin has none; write {origin}")
    return origin


MEMORY = "memory"  # the token store that needs nothing


def token_store_keys(text: str) -> tuple[str, ...]:
    """The texts that keys are derived from; the message shows none of them."""
    keys = tuple(key.strip() for key in text.split(","))
    if any(len(key) < 32 for key in keys):
        raise ValueError("must be at least 32 characters, of several keys each")
    return keys


def one_of(text: str, words: tuple[W, ...]) -> W:
    """One of the words, in any case."""
    for word in words:
        if word == text.lower():
            return word
    raise ValueError(f"{quote(text)} is none of {', '.join(words)}")


_LINKS = ("off", "location", "bundle", "all")


def links(text: str) -> str:
    """One of the words for links, and after the two that look into bodies, by wish, `,absolute`."""
    word, *rest = (part.strip() for part in text.split(","))
    word = one_of(word, _LINKS)
    if not rest:
        return word
    if [one.lower() for one in rest] != ["absolute"] or word not in ("bundle", "all"):
        raise ValueError(f"{quote(text)}: only bundle,absolute and all,absolute have a comma")
    return f"{word},absolute"


_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def boolean(text: str) -> bool:
    """true or false; 1/0, yes/no and on/off mean the same."""
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(f"{quote(text)} is neither true nor false")
    return text.lower() in _TRUE
