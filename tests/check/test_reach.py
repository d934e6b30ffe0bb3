"""What is told of the way to Fumage and the EMR: names, connections, TLS, egress proxies."""

import asyncio
import ssl
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.network import egress_proxy
from proxy.settings import SettingsError
from proxy.settings.values import base
from tests.check.checking import STEPS, Told, canvas, checked
from tests.support.product import server_context
from tests.support.upstream import Behaviour, Seen, Upstream, Wire, early, raw, reply

DNS, TLS = STEPS[1:3]
URL_PASSWORD = "egress-pa55"


@pytest.fixture(autouse=True)
def no_egress_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return {"FUMAGE_PROXY_CA_FILE": str(path)}


def server(host: str = "localhost", **dates: Any) -> ssl.SSLContext:
    return server_context(authority().issue_cert(host, **dates))


async def of_tls(context: ssl.SSLContext, changes: dict[str, str]) -> Told:
    async with canvas(tls=context) as (fumage, emr):
        told = await checked(fumage.url, emr.token_url, **changes)
        assert not (told.code and (fumage.seen or emr.seen)), "something was sent"
    return told


# Names and connections


async def test_a_name_that_nobody_knows_is_69_and_what_needs_it_is_skipped() -> None:
    async with canvas() as (fumage, _):
        told = await checked(fumage.url, "https://emr.invalid/auth/token/")
    assert (told.code, told.failed) == (69, [DNS])
    assert told.text[DNS].startswith("emr.invalid: this name is unknown")
    assert "token_url" in told.text[DNS]
    assert [told.mark[step] for step in STEPS[2:]] == ["good", "skipped", "good", "skipped"]


async def test_both_names_unknown_leaves_nothing_to_try() -> None:
    told = await checked("https://fumage-x.invalid", "https://x.invalid/auth/token/")
    assert told.code == 69
    assert [told.mark[step] for step in STEPS[2:]] == ["skipped"] * 4


@pytest.mark.parametrize("closed", ["Fumage", "EMR"])
async def test_a_port_on_which_nobody_listens_is_69(closed: str) -> None:
    async with canvas() as (fumage, emr):
        await (fumage if closed == "Fumage" else emr).stop()
        told = await checked(fumage.url, emr.token_url)
    assert (told.code, told.failed) == (69, [TLS])
    assert "the connection was refused" in told.text[TLS]
    assert ("base_url" if closed == "Fumage" else "token_url") in told.text[TLS]
    assert told.mark["token"] == ("good" if closed == "Fumage" else "skipped")


# TLS


async def test_trusted_certificates_on_both_sides_are_a_tick(trusted: dict[str, str]) -> None:
    told = await of_tls(server(), trusted)
    assert (told.code, told.mark[TLS]) == (0, "good")
    assert "TLSv1.3" in told.text[TLS]


async def test_a_certificate_of_an_unknown_ca_is_told(tmp_path: Path) -> None:
    told = await of_tls(server(), {})
    assert (told.code, told.failed) == (69, [TLS])
    assert "CA is unknown" in told.text[TLS]
    assert "Set ca_file" in told.text[TLS]


async def test_a_certificate_for_another_host_is_told(trusted: dict[str, str]) -> None:
    told = await of_tls(server("other.example"), trusted)
    assert (told.code, told.failed) == (69, [TLS])
    assert "is for another host" in told.text[TLS]


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("dates", "state"),
    [
        ({"not_before": NOW - timedelta(days=9), "not_after": NOW - timedelta(days=2)}, "has expired"),
        ({"not_before": NOW + timedelta(days=2), "not_after": NOW + timedelta(days=9)}, "is not valid yet"),
    ],
    ids=["past", "future"],
)
async def test_a_certificate_out_of_its_time_is_told_with_our_time(
    dates: dict[str, Any], state: str, trusted: dict[str, str]
) -> None:
    told = await of_tls(server(**dates), trusted)
    assert (told.code, told.failed) == (69, [TLS])
    assert state in told.text[TLS]
    assert f"{datetime.now(UTC):%Y-%m-%d}" in told.text[TLS]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="older Pythons accept such a CA")
async def test_a_private_ca_that_python_is_too_strict_for_is_told(tmp_path: Path) -> None:
    context, ca_file = _without_key_usage(tmp_path)
    told = await of_tls(context, {"FUMAGE_PROXY_CA_FILE": str(ca_file)})
    assert (told.code, told.failed) == (69, [TLS])
    assert "strict X.509" in told.text[TLS]
    assert "keyUsage" in told.text[TLS]


def _without_key_usage(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context, signed by a CA as older tools make it, and the CA's file."""
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("Old CA", "localhost")
    ]
    extensions: list[list[x509.ExtensionType]] = [
        [x509.BasicConstraints(ca=True, path_length=None)],
        [x509.SubjectAlternativeName([x509.DNSName("localhost")])],
    ]
    paths = folder / "old-ca.pem", folder / "server.pem"
    for name, key, added, path in zip(names, keys, extensions, paths, strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=1))
        )
        for extension in added:
            builder = builder.add_extension(extension, critical=True)
        path.write_bytes(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths[1], key_file)
    return context, paths[0]


_ALERT = b"\x15\x03\x01\x00\x02\x02"  # a fatal alert (RFC 8446 section 6), less its number


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks no TLS"),
        (_ALERT + bytes([70]), "shares no TLS version"),
        (_ALERT + bytes([116]), "client certificate"),
        (_ALERT + bytes([80]), "handshake failed"),
        (b"", "closed during the handshake"),
    ],
    ids=["http", "version", "certificate-required", "internal-error", "nothing"],
)
async def test_a_failed_handshake_is_told_by_its_cause(said: bytes, cause: str) -> None:
    async def say(wire: Wire) -> None:
        wire.write(said)
        await wire.some()
        wire.close()

    async with Upstream(on_connect=say) as there:
        url = f"https://localhost:{there.port}"
        told = await checked(url, f"{url}/auth/token/")
    assert (told.code, told.failed) == (69, [TLS])
    assert cause in told.text[TLS]


# Egress proxies


def tunnel() -> Behaviour:
    """An egress proxy that lets everything through."""

    async def pass_on(seen: Seen, wire: Wire) -> None:
        assert seen.method == "CONNECT"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(seen.target.rpartition(b":")[2]))

        async def back() -> None:
            while data := await reader.read(65536):
                wire.write(data)
            wire.close()

        wire.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        returning = asyncio.create_task(back())
        try:
            while True:
                writer.write(await wire.some())
        finally:
            returning.cancel()
            writer.transport.abort()

    return early(pass_on)


async def test_an_egress_proxy_is_gone_through_with_its_credentials(
    trusted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream(answer=tunnel()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//user:{URL_PASSWORD}@"))
        told = await of_tls(server(), trusted)
        assert told.code == 0, told.output
        assert "127.0.0.1 (egress proxy): 1 address" in told.text[DNS]
        assert URL_PASSWORD not in told.output
        assert len(proxy.seen) == 5  # two handshakes, the token, two requests
        assert {seen["Proxy-Authorization"] for seen in proxy.seen} == {"Basic dXNlcjplZ3Jlc3MtcGE1NQ=="}


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (reply(407), "refused to connect us (407)"),
        (reply(403), "refused to connect us (403)"),
        (reply(502), "found no way to it (502)"),
        (raw(b"SOCKS?\r\n\r\n", then="close"), "does not answer in HTTP"),
        (raw(then="close"), "does not answer in HTTP"),
    ],
    ids=["login", "rule", "lost", "other", "nothing"],
)
async def test_an_egress_proxy_in_the_way_is_told(
    answer: Behaviour, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream(answer=answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        told = await checked("https://localhost:9", "https://localhost:9/auth/token/")
    assert (told.code, told.failed) == (69, [TLS])
    assert cause in told.text[TLS]
    assert "HTTPS_PROXY" in told.text[TLS]


async def test_an_egress_proxy_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    told = await checked("https://localhost:9", "https://localhost:9/auth/token/")
    assert (told.code, told.failed) == (69, [TLS])
    assert "the egress proxy 127.0.0.1: the connection was refused" in told.text[TLS]
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:9")
    told = await checked("https://localhost:9", "https://localhost:9/auth/token/")
    assert (told.code, told.failed) == (69, [DNS])
    assert "HTTPS_PROXY" in told.text[DNS]


@pytest.mark.parametrize(
    ("variable", "proxy"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("https://me:pass@proxy.example", "https://me:pass@proxy.example"),
        ("", None),
    ],
)
def test_the_egress_proxy_may_be_written_without_a_scheme(
    variable: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", variable)
    assert egress_proxy(base("https://fumage-x.example")) == proxy
    assert egress_proxy(base("http://127.0.0.1:1")) is None
    monkeypatch.setenv("NO_PROXY", "fumage-x.example")
    assert egress_proxy(base("https://fumage-x.example")) is None


@pytest.mark.parametrize("variable", ["socks5://proxy.example:1080", "http://:3128", "http://[x"])
def test_an_egress_proxy_of_another_kind_is_a_wrong_setting(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", variable)
    with pytest.raises(SettingsError, match="HTTPS_PROXY"):
        egress_proxy(base("https://fumage-x.example"))
