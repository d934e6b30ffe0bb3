"""The Host and Origin rules, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.errors import CallerRefused, MalformedRequest, MethodRefused, ProxyError
from proxy.rules.guard import Guard, canonical_host, host_of, split_target

GUARD = Guard(("fumage.internal.", "192.0.2.7", "2001:DB8:0::1"), ("https://app.example",))


def verdict(
    method: bytes = b"GET", authority: bytes | None = None, tcp: bool = True, **noted: bytes
) -> type | None:
    fields = {b"host": b"localhost"} | {
        name.replace("_", "-").encode(): value for name, value in noted.items()
    }
    try:
        GUARD.check(
            method, authority, {name: value for name, value in fields.items() if value != b"-"}, tcp=tcp
        )
    except ProxyError as error:
        return type(error)
    return None


HOSTS: dict[bytes, type | None] = {
    b"localhost": None,
    b"LocalHost": None,
    b"localhost.": None,
    b"localhost:3447": None,
    b"localhost.:3447": None,
    b"localhost:": None,
    b"127.0.0.1:1": None,
    b"[::1]": None,
    b"[::1]:3447": None,
    b"[0:0:0:0:0:0:0:1]": None,
    b"[0000::0001]:80": None,
    b"FUMAGE.internal": None,
    b"fumage.internal.:80": None,
    b"192.0.2.7": None,
    b"[2001:db8::1]:80": None,
    b"[2001:0db8:0000::0001]": None,
    b"": CallerRefused,
    b".": CallerRefused,
    b":3447": CallerRefused,
    b"localhost..": CallerRefused,
    b"evil.example": CallerRefused,
    b"localhost.evil.example": CallerRefused,
    b"evil.example:3447": CallerRefused,
    b"xlocalhost": CallerRefused,
    b"0.0.0.0": CallerRefused,
    b"127.0.0.2": CallerRefused,
    b"127.1": CallerRefused,
    b"2130706433": CallerRefused,
    b"[::ffff:127.0.0.1]": CallerRefused,
    b"%6cocalhost": CallerRefused,
    b"::1": MalformedRequest,
    b"[::1": MalformedRequest,
    b"::1]": MalformedRequest,
    b"[::1]x": MalformedRequest,
    b"[::1]:x": MalformedRequest,
    b"[localhost]": MalformedRequest,
    b"[127.0.0.1]": MalformedRequest,
    b"[1:2]": MalformedRequest,
    b"[fe80::1%25eth0]": MalformedRequest,
    b"a@localhost": MalformedRequest,
    b"localhost:1:2": MalformedRequest,
    b"localhost:-1": MalformedRequest,
    b"localhost:123456": MalformedRequest,
    b"localhost/": MalformedRequest,
    b"http://localhost": MalformedRequest,
    b"local host": MalformedRequest,
    b"localhost, localhost": MalformedRequest,
    b"localhost\xe4": MalformedRequest,
    b"localhost\n": MalformedRequest,
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.items(), ids=map(repr, HOSTS))
def test_a_host_is_allowed_foreign_or_none_at_all(host: bytes, expected: type | None) -> None:
    assert verdict(host=host) is expected
    assert verdict(host=host) is expected  # from memory
    assert verdict(authority=host) is expected


def test_the_host_field_counts_beside_an_absolute_url() -> None:
    assert verdict(authority=b"localhost", host=b"evil.example") is CallerRefused
    assert verdict(authority=b"evil.example") is CallerRefused


@pytest.mark.parametrize("host", [b"", b"evil.example", b"a b", b"%2Frun%2Fproxy.sock", b"/run/proxy.sock"])
def test_on_a_unix_socket_any_host_will_do_but_one_there_must_be(host: bytes) -> None:
    assert verdict(host=host, tcp=False) is None
    assert verdict(host=b"-", tcp=False) is MalformedRequest
    assert verdict(host=b"a, b", tcp=False) is MalformedRequest


ORIGINS: dict[str, tuple[dict[str, bytes], type | None]] = {
    "none": ({}, None),
    "allowed": ({"origin": b"https://app.example"}, None),
    "allowed, in capitals": ({"origin": b"HTTPS://APP.example"}, None),
    "allowed, cross-site": ({"origin": b"https://app.example", "sec_fetch_site": b"cross-site"}, None),
    "foreign": ({"origin": b"https://evil.example"}, CallerRefused),
    "foreign, same-origin": ({"origin": b"https://x.test", "sec_fetch_site": b"same-origin"}, CallerRefused),
    "allowed but for its scheme": ({"origin": b"http://app.example"}, CallerRefused),
    "allowed but for its port": ({"origin": b"https://app.example:8443"}, CallerRefused),
    "null": ({"origin": b"null"}, CallerRefused),
    "empty": ({"origin": b""}, CallerRefused),
    "two": ({"origin": b"https://app.example, https://evil.example"}, CallerRefused),
    "our own": ({"origin": b"http://localhost:3447"}, CallerRefused),
    "cross-site": ({"sec_fetch_site": b"cross-site"}, CallerRefused),
    "same-site": ({"sec_fetch_site": b"same-site"}, CallerRefused),
    "same-site, in capitals": ({"sec_fetch_site": b"Same-Site"}, CallerRefused),
    "same-origin": ({"sec_fetch_site": b"same-origin"}, None),
    "a person": ({"sec_fetch_site": b"none"}, None),
    "two sites": ({"sec_fetch_site": b"none, cross-site"}, CallerRefused),
}  # fmt: skip


@pytest.mark.parametrize(("noted", "expected"), ORIGINS.values(), ids=ORIGINS.keys())
@pytest.mark.parametrize("tcp", [True, False])
def test_a_page_is_served_only_from_an_allowed_origin(
    noted: dict[str, bytes], expected: type | None, tcp: bool
) -> None:
    assert verdict(tcp=tcp, **noted) is expected


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT"])
def test_trace_and_connect_are_refused_but_a_foreign_host_first(method: bytes) -> None:
    assert verdict(method) is MethodRefused
    assert verdict(method, host=b"evil.example") is CallerRefused


TARGETS: dict[bytes, tuple[bytes | None, bytes] | None] = {
    b"/": (None, b"/"),
    b"//evil.example/a": (None, b"//evil.example/a"),
    b"/a?b=http://c/": (None, b"/a?b=http://c/"),
    b"/?": (None, b"/?"),
    b"http://localhost": (b"localhost", b"/"),
    b"http://localhost?a": (b"localhost", b"/?a"),
    b"HTTP://LocalHost:1/A": (b"LocalHost:1", b"/A"),
    b"https://[::1]:1//a/../b": (b"[::1]:1", b"//a/../b"),
    b"http:///a": (b"", b"/a"),
    b"http://a@localhost/": (b"a@localhost", b"/"),
    b"http://localhost\\@evil/": (b"localhost\\@evil", b"/"),
    b"*": None,
    b"a": None,
    b"": None,
    b"/a#b": None,
    b"http:/a": None,
    b"ftp://localhost/": None,
    b"localhost:80": None,
}


@pytest.mark.parametrize(("target", "expected"), TARGETS.items(), ids=map(repr, TARGETS))
def test_a_target_is_split_and_its_path_kept_to_the_byte(
    target: bytes, expected: tuple[bytes | None, bytes] | None
) -> None:
    if expected is None:
        with pytest.raises(MalformedRequest):
            split_target(b"GET", target)
    else:
        assert split_target(b"GET", target) == expected


def test_options_may_ask_for_the_server_as_a_whole() -> None:
    assert split_target(b"OPTIONS", b"*") == (None, b"*")
    assert split_target(b"OPTIONS", b"http://localhost") == (b"localhost", b"*")  # RFC 9112 section 3.2.4


@given(st.one_of(st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]"), st.ip_addresses(v=4).map(str)))
def test_an_address_is_one_host_however_it_is_written(text: str) -> None:
    assert host_of(text.upper().encode()) == canonical_host(text)
    assert canonical_host(canonical_host(text)) == canonical_host(text)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_host_or_malformed(host: bytes) -> None:
    assert verdict(host=host) in (None, CallerRefused, MalformedRequest)


def test_what_the_guard_remembers_of_hosts_is_bounded() -> None:
    guard = Guard()
    for port in range(1000):
        guard.check(b"GET", None, {b"host": b"localhost:%d" % port}, tcp=True)
    assert len(guard._known) <= 64
