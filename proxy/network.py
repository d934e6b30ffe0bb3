"""What every leg to the outside goes by: the TLS that it trusts and the egress proxy that it takes."""

import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from proxy.settings import KEYS, URL, Settings, SettingsError


def egress_proxy(url: URL) -> str | None:
    """The proxy that HTTPS_PROXY and NO_PROXY say for this URL, with a scheme; http (loopback) goes without.

    Raises SettingsError when it is no URL of an http proxy.
    """
    if url.scheme != "https":
        return None
    proxies = getproxies_environment()
    if proxy_bypass_environment(f"{url.host}:{url.port}", proxies):
        return None
    proxy: str | None = proxies.get("https") or None
    if proxy is None:
        return None
    proxy = (
        proxy if "://" in proxy else f"http://{proxy}"
    )  # as curl reads it; yarl would take host: for a scheme
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


def tls_context(settings: Settings) -> ssl.SSLContext:
    """What both legs trust, and how they show who they are.

    Raises SettingsError for files that hold no such thing.
    """
    problems = []
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        usable = settings.ca_file is None or bool(
            context.cert_store_stats()["x509"]
        )  # a CRL alone loads, too
    except (ssl.SSLError, OSError):
        context, usable = ssl.create_default_context(), False
    if not usable:
        problems.append(f"{_named('ca_file')}: {settings.ca_file} holds no certificate in PEM form")
    if settings.client_cert is not None:
        key = settings.client_key or settings.client_cert
        try:
            # A password is never asked for: nobody sits at a sidecar's terminal.
            context.load_cert_chain(settings.client_cert, settings.client_key, password="")
        except (ssl.SSLError, OSError):
            problems.append(
                f"{_named('client_cert')}: {settings.client_cert} and {key} do not hold a certificate and "
                f"its private key ({_named('client_key')}), both in PEM form, the key without a password"
            )
    if problems:
        raise SettingsError(problems)
    return context


def _named(key: str) -> str:
    return f"{key} ({KEYS[key].environment})"
