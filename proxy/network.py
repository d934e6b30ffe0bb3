"""What every leg to the outside goes by: the TLS that it trusts and the egress proxy that it takes."""

import ipaddress
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from proxy.settings import (
    KEYS,
    URL,
    Choice,
    Rule,
    Settings,
    SettingsError,
    Values,
    culprit,
    is_pipe,
    shown,
)

_TRUST = "SSL_CERT_FILE"  # OpenSSL's; what is wrong with the file, it keeps to itself
_TRUSTS = (_TRUST, "SSL_CERT_DIR")
_LEGS = ("base_url", "token_url")

# --- the egress proxy ---


def egress_proxy(url: URL) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY say for this URL, with a scheme; http (loopback) goes without.

    Raises SettingsError when it is no URL of an http proxy.
    """
    if url.scheme != "https":
        return None
    proxies = getproxies_environment()
    return None if exempt(url.host, url.port, proxies.get("no", "")) else _proxy(proxies)


def _proxy(proxies: dict[str, str]) -> str | None:
    proxy = proxies.get("https")
    if not proxy:
        return None
    # As curl reads it; yarl would take host: for a scheme.
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_proxy(proxy):
        raise SettingsError(
            ["environment HTTPS_PROXY: is not the URL of an http proxy; write http://host:port"]
        )
    return proxy


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names the host, which is in lower case and has no brackets.

    As curl 7.86 and Go read it: a name stands for those below it as well, with a dot or `*.` before it too;
    addresses may be ranges (`10.0.0.0/8`, `::/64`) and IPv6 may be in brackets; `*` is every host. A port
    after it (`host:8443`) exempts that port alone.
    """
    return any(_names(entry, host, port) for entry in no_proxy.lower().replace(",", " ").split())


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    name, colon, last = entry.rpartition(":")
    if colon and last.isdecimal() and (":" not in name or name.endswith("]")):
        if last != str(port):
            return False
        entry = name
    if address is None:
        suffix = entry.removeprefix("*.").strip(".")
        return suffix != "" and (host == suffix or host.endswith(f".{suffix}"))
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)  # False for the other family
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


# --- TLS ---


def tls_context(settings: Settings) -> ssl.SSLContext:
    """What both legs trust, and how they show who they are.

    Raises SettingsError for files that hold no such thing.
    """
    problems = [
        *_wrong_trust(settings.ca_file, _named),
        *_wrong_client(settings.client_cert, settings.client_key, _named),
    ]
    if settings.ca_file is None and not _is_plain(settings.base_url, settings.token_url):
        problems += _wrong_system_trust()
    if problems:
        raise SettingsError(problems)
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.client_cert is not None:
            context.load_cert_chain(settings.client_cert, settings.client_key, password=_NO_PASSWORD)
    except OSError:  # out of a pipe, or written to since
        names = ", ".join(map(_named, ("ca_file", "client_cert", "client_key")))
        raise SettingsError([f"{names}: one of the files is not what it should be"]) from None
    return context


@contextmanager
def no_system_trust() -> Iterator[None]:
    """Whoever asks OpenSSL for the system's certificates meanwhile gets none.

    For the import of aiohttp, which reads them into a context of its own that nobody here uses: 1.3 MB.
    """
    before = {name: os.environ.get(name) for name in _TRUSTS}
    os.environ.update(dict.fromkeys(_TRUSTS, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_NO_PASSWORD = ""  # it is never asked for: nobody sits at a sidecar's terminal


def _is_plain(*legs: URL | None) -> bool:
    return all(leg is not None and leg.scheme == "http" for leg in legs)


def _wrong_trust(ca_file: Path | None, named: Callable[[str], str]) -> Iterator[str]:
    if ca_file is not None and (problem := _trusts_nobody(ca_file)):
        yield f"{named('ca_file')}: {shown(ca_file)} {problem}"


def _wrong_system_trust() -> Iterator[str]:
    path = os.environ.get(_TRUST)
    if path and (problem := _trusts_nobody(Path(path))):
        yield f"environment {_TRUST}: {shown(path)} {problem}"


def _wrong_client(cert: Path | None, key: Path | None, named: Callable[[str], str]) -> Iterator[str]:
    if cert is None:
        return
    files = {"client_cert": cert, **({"client_key": key} if key else {})}
    unreadable = {name: problem for name, path in files.items() if (problem := _unreadable(path))}
    for name, problem in unreadable.items():
        yield f"{named(name)}: {shown(files[name])} {problem}"
    if not unreadable and not any(map(is_pipe, files.values())) and not _is_pair(cert, key):
        yield (
            f"{named('client_cert')}: {shown(cert)} and {shown(key or cert)} do not hold a certificate and "
            f"its private key ({_named('client_key')}), both in PEM form, the key without a password"
        )


def _unreadable(path: Path) -> str | None:
    if is_pipe(path):  # what a shell's <(…) leaves can be read once, and that is not now
        return None
    # Not Path's own: see settings/files.py.
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        return "is not a file"  # OpenSSL would read a device to its end
    try:
        path.open("rb").close()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _trusts_nobody(ca_file: Path) -> str | None:
    if (problem := _unreadable(ca_file)) or is_pipe(ca_file):
        return problem
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca_file)
        usable = bool(context.cert_store_stats()["x509"])  # a CRL alone loads, too
    except OSError:  # which SSLError is
        usable = False
    return None if usable else "holds no certificate in PEM form"


def _is_pair(cert: Path, key: Path | None) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=_NO_PASSWORD)
    except OSError:
        return False
    return True


def _named(key: str) -> str:
    return f"{key} ({KEYS[key].environment})"


# --- what of it can be told before anything is built ---


def _egress_rule(checked: Values, chosen: Choice) -> Iterator[str]:
    try:
        for leg in (checked.get(name) for name in _LEGS):
            if leg is None:
                _proxy(getproxies_environment())
            else:
                egress_proxy(leg)
    except SettingsError as error:  # one variable, so one problem, whichever leg met it
        yield from error.problems


def _trust_rule(checked: Values, chosen: Choice) -> Iterator[str]:
    yield from _wrong_trust(checked["ca_file"], lambda name: culprit(name, chosen))
    if checked["ca_file"] is None and not _is_plain(*(checked.get(name) for name in _LEGS)):
        yield from _wrong_system_trust()


def _client_rule(checked: Values, chosen: Choice) -> Iterator[str]:
    yield from _wrong_client(
        checked["client_cert"], checked["client_key"], lambda name: culprit(name, chosen)
    )


# For `settings.load`, so that these problems are told with those of the settings themselves.
RULES: tuple[Rule, ...] = (
    ((), _egress_rule),
    (("ca_file",), _trust_rule),
    (("client_cert", "client_key"), _client_rule),
)
