"""What settings and the environment lead to on the way out, told before anything is built."""

import os
import ssl
from pathlib import Path

import pytest
import trustme

from proxy.network import RULES, exempt, no_system_trust, tls_context
from proxy.settings import SettingsError
from tests.settings.conftest import Place

LOOPBACK = {
    "FUMAGE_BASE_URL": "http://localhost:1",
    "FUMAGE_PROXY_TOKEN_URL": "http://localhost:1/auth/token/",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    place = Place(tmp_path)
    place.rules = RULES
    return place


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("host", "no_proxy", "expected"),
    [
        ("fumage.test", "", False),
        ("fumage.test", "*", True),
        ("fumage.test", "a.test, *", True),
        ("fumage.test", "fumage.test", True),
        ("fumage.test", "FUMAGE.TEST.", True),
        ("fumage.test", "a.test,fumage.test", True),
        ("fumage.test", "a.test fumage.test", True),
        ("fumage.test", "test", True),
        ("fumage.test", ".test", True),
        ("fumage.test", "*.test", True),
        ("fumage.test", "*.test.", True),
        ("fumage.test", "age.test", False),
        ("fumage.test", "*age.test", False),
        ("fumage.test", "fumage", False),
        ("fumage.test", ".", False),
        ("fumage.test", "*.", False),
        ("fumage.test", "fumage.test:443", True),
        ("fumage.test", "fumage.test:8443", False),
        ("fumage.test", f"fumage.test:{'9' * 5000}", False),
        ("fumage.test", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.9.9.9/8", True),
        ("10.1.2.3", "11.0.0.0/8", False),
        ("10.1.2.3", "10.0.0.0/33", False),
        ("10.1.2.3", "::/0", False),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", ".3", False),
        ("::1", "::1", True),
        ("::1", "[::1]", True),
        ("::1", "[::1]:443", True),
        ("::1", "[::1]:80", False),
        ("::1", "0:0::1", True),
        ("::1", "::/64", True),
        ("fd00::1", "::/64", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
    ],
)
def test_no_proxy_is_read_as_curl_and_go_do(host: str, no_proxy: str, expected: bool) -> None:
    assert exempt(host, 443, no_proxy) is expected


def test_all_that_is_wrong_on_the_way_out_is_told_with_the_settings(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.write("text.pem", "no certificate at all\n")
    monkeypatch.setenv("HTTPS_PROXY", "::::")
    problems = place.without("FUMAGE_BASE_URL").problems(
        "--client-auth=zz", "--ca-file=text.pem", FUMAGE_PROXY_CLIENT_CERT="text.pem"
    )
    assert [problem.partition(": ")[0] for problem in problems] == [
        "base_url is missing",
        "flag --client-auth",
        "environment HTTPS_PROXY",
        "flag --ca-file",
        "environment FUMAGE_PROXY_CLIENT_CERT",
    ]
    assert problems[3] == f"flag --ca-file: {path} holds no certificate in PEM form"


@pytest.mark.parametrize("flag", ["--ca-file", "--client-cert"])
@pytest.mark.parametrize("name", ["missing.pem", "."])
def test_a_pem_file_has_to_be_there(place: Place, flag: str, name: str) -> None:
    problem = place.problem(flag, name)
    assert problem.startswith(f"flag {flag}: {place.cwd / name} cannot be read: ")


def test_a_key_that_is_not_there_is_its_own_problem(place: Place) -> None:
    place.write("cert.pem", "")
    problem = place.problem("--client-cert=cert.pem", "--client-key=missing.pem")
    assert problem.startswith(f"flag --client-key: {place.cwd / 'missing.pem'} cannot be read: ")


def test_a_device_is_no_pem_file(place: Place) -> None:
    assert place.problem("--ca-file=/dev/zero") == "flag --ca-file: /dev/zero is not a file"


def test_files_that_hold_what_they_should_are_no_problem(place: Place, authority: trustme.CA) -> None:
    shown = authority.issue_cert("client.example")
    for name, blob in (
        ("ca.pem", authority.cert_pem),
        ("cert.pem", shown.cert_chain_pems[0]),
        ("key.pem", shown.private_key_pem),
        ("both.pem", shown.private_key_and_cert_chain_pem),
    ):
        place.write(name, blob.bytes())
    place.load("--ca-file=ca.pem", "--client-cert=cert.pem", "--client-key=key.pem")
    place.load("--client-cert=both.pem")


# --- what the environment says ---


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be read: No such file or directory"), ("no PEM", "holds no certificate in PEM form")],
)
def test_a_trust_store_of_the_environment_has_to_hold_certificates(
    content: str | None, complaint: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.cwd / "store.pem"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert place.problem() == f"environment SSL_CERT_FILE: {path} {complaint}"
    place.rules = ()
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        tls_context(place.load().settings)


def test_where_it_does_not_count_it_may_hold_anything(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place.cwd / "missing.pem"))
    place.write("ca.pem", authority.cert_pem.bytes())
    tls_context(place.load("--ca-file=ca.pem").settings)
    tls_context(place.load(**LOOPBACK).settings)


def test_a_trust_store_of_the_environment_is_trusted(
    place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place.write("ca.pem", authority.cert_pem.bytes())))
    assert "Testing CA" in str(tls_context(place.load().settings).get_ca_certs())


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_systems_trust_can_be_hidden_for_a_while(
    name: str, place: Place, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
    path = str(place.write("ca.pem", authority.cert_pem.bytes()))
    monkeypatch.setenv(name, path)
    before = dict(os.environ)
    with no_system_trust():
        assert not ssl.create_default_context().get_ca_certs()
    assert dict(os.environ) == before


def test_an_egress_proxy_that_nobody_takes_may_be_anything(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example")
    place.load(**LOOPBACK)
    monkeypatch.setenv("NO_PROXY", "*.canvasmedical.com")
    place.load()
