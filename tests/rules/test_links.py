"""Which Location comes back as which address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.links import Base, Links

HOST = b"fumage-x.canvasmedical.com"
PLAIN = Links(Base(b"https", HOST, None, b""))
WITH_PATH = Links(Base(b"https", HOST, None, b"/fhir"))
WITH_PORT = Links(Base(b"https", HOST, 8443, b""))
LOOPBACK = Links(Base(b"http", b"127.0.0.1", 5000, b""))
IPV6 = Links(Base(b"http", b"[::1]", 5000, b""))
HERE = b"localhost:3447"


@pytest.mark.parametrize(
    ("links", "value", "expected"),
    [
        (PLAIN, b"http://%b/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"https://%b/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"https://%b:443/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"http://%b:80/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"HTTPS://%b/Task/1" % HOST.upper(), b"http://localhost:3447/Task/1"),
        (PLAIN, b"//%b/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"//%b:443/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (PLAIN, b"https://%b" % HOST, b"http://localhost:3447"),
        (PLAIN, b"https://%b?a=b|c#d" % HOST, b"http://localhost:3447?a=b|c#d"),
        (PLAIN, b"https://%b/a%%2Fb//c?d=%%FF" % HOST, b"http://localhost:3447/a%2Fb//c?d=%FF"),
        (PLAIN, b"/Task/1", b"/Task/1"),
        (PLAIN, b"/", b"/"),
        (WITH_PATH, b"https://%b/fhir/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (WITH_PATH, b"http://%b/fhir" % HOST, b"http://localhost:3447"),
        (WITH_PATH, b"http://%b/fhir?a" % HOST, b"http://localhost:3447?a"),
        (WITH_PATH, b"/fhir/Task/1", b"/Task/1"),
        (WITH_PORT, b"https://%b:8443/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (WITH_PORT, b"http://%b:8443/Task/1" % HOST, b"http://localhost:3447/Task/1"),
        (LOOPBACK, b"http://127.0.0.1:5000/Task/1", b"http://localhost:3447/Task/1"),
        (IPV6, b"http://[::1]:5000/Task/1", b"http://localhost:3447/Task/1"),
    ],
)
def test_what_points_at_the_base_comes_back_as_the_address_that_the_caller_used(
    links: Links, value: bytes, expected: bytes
) -> None:
    assert links.location(value, HERE) == expected


@pytest.mark.parametrize(
    ("links", "value"),
    [
        (PLAIN, b"https://s3.example/file?X-Amz=1"),
        (PLAIN, b"https://%b.evil.org/Task/1" % HOST),
        (PLAIN, b"https://%b@evil.org/Task/1" % HOST),
        (PLAIN, b"https://%b:x@evil.org/Task/1" % HOST),
        (PLAIN, b"https://user@%b/Task/1" % HOST),
        (PLAIN, b"https://%b\\@evil.org/" % HOST),
        (PLAIN, b"https://evil.org/https://%b/Task/1" % HOST),
        (PLAIN, b"https://evil.org?//%b/" % HOST),
        (PLAIN, b"https://x%b/Task/1" % HOST),
        (PLAIN, b"https://fumage-xXcanvasmedical.com/Task/1"),
        (PLAIN, b"https://%b:8443/Task/1" % HOST),
        (PLAIN, b"https://%b:80/Task/1" % HOST),
        (PLAIN, b"http://%b:443/Task/1" % HOST),
        (PLAIN, b"ftp://%b/Task/1" % HOST),
        (PLAIN, b"https:/%b/Task/1" % HOST),
        (PLAIN, b"//evil.org/Task/1"),
        (PLAIN, b"Task/1"),
        (PLAIN, b""),
        (PLAIN, b"urn:uuid:1"),
        (WITH_PATH, b"https://%b/Task/1" % HOST),
        (WITH_PATH, b"https://%b/fhirx/Task/1" % HOST),
        (WITH_PATH, b"/Task/1"),
        (WITH_PATH, b"/fhirx"),
        (WITH_PORT, b"https://%b/Task/1" % HOST),
        (LOOPBACK, b"http://127.0.0.1:50001/Task/1"),
        (LOOPBACK, b"http://127x0.0.1:5000/Task/1"),
    ],
)
def test_other_urls_stay(links: Links, value: bytes) -> None:
    assert links.location(value, HERE) == value


@pytest.mark.parametrize("caller", [HERE, b""])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"/fhir", b"/"),
        (b"/fhir/", b"/"),
        (b"/fhir?page=2", b"/?page=2"),
        (b"/fhir#f", b"/#f"),
        (b"/fhir//evil.org/x", b"/.//evil.org/x"),
    ],
)
def test_a_path_stays_a_path_without_that_of_the_base(value: bytes, expected: bytes, caller: bytes) -> None:
    assert WITH_PATH.location(value, caller) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"https://%b/fhir/Task/1" % HOST, b"/Task/1"),
        (b"https://%b/fhir?a" % HOST, b"/?a"),
        (b"https://%b/fhir" % HOST, b"/"),
        (b"https://%b/fhir//evil.org" % HOST, b"/.//evil.org"),
        (b"/fhir/Task/1", b"/Task/1"),
        (b"https://evil.org/", b"https://evil.org/"),
    ],
)
def test_a_caller_that_named_no_host_gets_a_path(value: bytes, expected: bytes) -> None:
    assert WITH_PATH.location(value, b"") == expected


references = st.builds(
    bytes.__add__,
    st.sampled_from([b"", b"/", b"?", b"#"]),
    st.binary().map(lambda x: x.translate(None, b"\r\n\0")),
).filter(lambda reference: reference[:1] in b"/?#")


@given(references, st.sampled_from([b"https://%b", b"http://%b:80", b"//%b"]))
def test_bytes_outside_of_the_authority_are_unchanged(reference: bytes, authority: bytes) -> None:
    assert PLAIN.location(authority % HOST + reference, HERE) == b"http://" + HERE + reference


@given(st.binary() | st.binary().map(lambda rest: b"/fhir" + rest))
def test_any_value_is_unchanged_or_points_here(value: bytes) -> None:
    got = WITH_PATH.location(value, HERE)
    assert got == value or got.startswith((b"http://" + HERE, b"/"))
    assert value.startswith(b"//") or not got.startswith(b"//")


@given(st.binary())
def test_rewriting_is_idempotent(value: bytes) -> None:
    once = PLAIN.location(value, HERE)
    assert PLAIN.location(once, HERE) == once
