import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings import TCP, URL, Unix, mask_url, values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:3447,[::1]:3447", (TCP("127.0.0.1", 3447), TCP("::1", 3447))),
        (":80", (TCP("", 80),)),
        ("LocalHost:0", (TCP("localhost", 0),)),
        ("[0:0:0::1]:1", (TCP("::1", 1),)),
        ("unix:/run/p.sock", (Unix("/run/p.sock", 0o600),)),
        ("unix:///run/p.sock", (Unix("/run/p.sock", 0o600),)),
        ("unix:/a,mode=0660", (Unix("/a", 0o660),)),
        ("unix:/a, mode=660 , :1,", (Unix("/a", 0o660), TCP("", 1))),
        (":1,unix:/a,mode=0777,unix:/b", (TCP("", 1), Unix("/a", 0o777), Unix("/b", 0o600))),
        (":0,:0", (TCP("", 0), TCP("", 0))),
    ],
)
def test_addresses_stand_between_commas_and_a_mode_belongs_to_its_path(text: str, expected: object) -> None:
    assert values.addresses(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (",", "lists nothing"),
        ("3447", "no port"),
        ("localhost", "no port"),
        ("localhost:", "not host:port"),
        ("::1:3447", "not host:port"),
        ("[::1]", "no port"),
        ("[127.0.0.1]:1", "brackets"),
        ("[::g]:1", "not host:port"),
        ("[1:2]:1", "not a host name"),
        ("*:80", "not a host name"),
        ("a:65536", "over 65535"),
        ("a:123456", "over 65535"),
        ("[::ffff:127.0.0.1]:5000", r"written as IPv6; write 127\.0\.0\.1:5000"),
        ("[::FFFF:0:0]:1", r"written as IPv6; write 0\.0\.0\.0:1"),
        ("a:-1", "not host:port"),
        ("off,:1", "no port"),
        ("http://a:1", "not host:port"),
        ("unix:rel", "absolute path"),
        ("unix:/a,mode=999", "no port|octal"),
        ("unix:/a,mode=1777", "octal"),
        ("unix:/a,mode=0600,mode=0600", "octal|no port"),
        ("unix:/" + "a" * 110, "too long"),
        (":1,:1", "twice"),
        ("unix:/a,unix:/a,mode=0660", "twice"),
    ],
)
def test_what_is_no_address_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        values.addresses(text)


_ADDRESSES = st.one_of(
    st.builds(TCP, st.sampled_from(["", "localhost", "127.0.0.1", "::", "fe80::1"]), st.integers(0, 65535)),
    st.builds(
        Unix,
        st.text(string.ascii_letters + "/_=-. ", max_size=20).map(lambda path: "/a" + path.strip()),
        st.integers(0, 0o777),
    ),
)


@given(st.lists(_ADDRESSES, min_size=1, max_size=4, unique_by=lambda each: str(each).partition(",")[0]))
def test_a_shown_address_list_reads_back_as_itself(addresses: list[values.Address]) -> None:
    assert values.addresses(",".join(map(str, addresses))) == tuple(addresses)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_localhost_and_the_loopback_networks(host: str) -> None:
    assert values.is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.1", "0", "::ffff:10.0.0.1"]
)
def test_what_may_be_another_machine_is_not_loopback(host: str) -> None:
    assert not values.is_loopback(host)


@pytest.mark.parametrize(
    ("text", "shown", "authority"),
    [
        ("https://fumage-x.example", "https://fumage-x.example", "fumage-x.example"),
        ("HTTPS://Fumage-X.Example.:443/", "https://fumage-x.example", "fumage-x.example"),
        ("https://h:8443/fhir/R4//", "https://h:8443/fhir/R4", "h:8443"),
        ("http://localhost:80/a%20b", "http://localhost/a%20b", "localhost"),
        ("http://127.0.0.2:8000", "http://127.0.0.2:8000", "127.0.0.2:8000"),
        ("http://[0::1]:8000", "http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_a_base_url_has_one_canonical_form(text: str, shown: str, authority: str) -> None:
    url = values.base(text)
    assert (str(url), url.authority) == (shown, authority)
    assert values.base(str(url)) == url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fumage-x.example", "no scheme; write https://fumage-x.example"),
        ("https:/x", "no scheme"),
        ('"https://x"', "quotation mark"),
        ("'https://x'", "quotation mark"),
        ("ftp://x", "not an https URL"),
        ("http://x", "http is accepted for loopback alone"),
        ("http://localhost.evil.example", "http is accepted for loopback alone"),
        ("http://127.1", "http is accepted for loopback alone"),
        ("https://", "no host"),
        ("https://:443", "no host"),
        ("https:///a", "no host"),
        ("https://h:0", "port 0"),
        ("https://h:65536", "over 65535"),
        ("https://h:x", "not host:port"),
        ("https://h:", "not host:port"),
        ("https://user@h", "user name or password"),
        ("https://user:hunter2@h", "user name or password"),
        ("https://h?", "query"),
        ("https://h/?key=hunter2", "query"),
        ("https://h#", "fragment"),
        ("https://h/a b", "percent-encoded"),
        ("https://h/%zz", "percent-encoded"),
        ("https://h/ü", "percent-encoded"),
        ("https://h\\evil.example", "not a host name"),
        ("https://-h", "not a host name"),
        ("https://bücher.example", "not a host name"),
        ("https://[::1%25eth0]", "not host:port"),
        ("https://u:hunter2/x@h", "not host:port"),
    ],
)
def test_what_is_no_safe_base_url_is_refused_and_no_password_shown(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        values.base(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "token_url"),
    [
        ("https://fumage-x.canvasmedical.com", "https://x.canvasmedical.com/auth/token/"),
        ("https://FUMAGE-x.example:8443/fhir", "https://x.example:8443/auth/token/"),
        ("https://fumage-fumage-x.example", "https://fumage-x.example/auth/token/"),
    ],
)
def test_the_emr_is_fumages_host_without_its_prefix(base: str, token_url: str) -> None:
    assert str(values.emr_token_url(values.base(base))) == token_url


@pytest.mark.parametrize(
    "base", ["https://x.example", "https://x.fumage-y.example", "https://fumage-.example", "https://fumage-"]
)
def test_a_host_without_the_prefix_derives_no_emr(base: str) -> None:
    with pytest.raises(ValueError, match=r"fumage-|not a host name"):
        values.emr_token_url(values.base(base))


def test_a_token_url_keeps_its_final_slash() -> None:
    assert values.endpoint("https://emr.example/auth/token/") == URL(
        "https", "emr.example", 443, "/auth/token/"
    )
    assert values.endpoint("https://emr.example").path == "/"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Proxy.Internal.", "proxy.internal"),
        ("[FD00::0:1]", "fd00::1"),
        ("fd00::1", "fd00::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_allowed_hosts_are_added_to_the_defaults_in_canonical_form(text: str, host: str) -> None:
    assert values.allowed_hosts(f"{text},LOCALHOST,{text}") == ("localhost", "127.0.0.1", "::1", host)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("proxy:3447", "write proxy alone"),
        ("[fd00::1]:3447", "write fd00::1 alone"),
        ("http://proxy", "without scheme"),
        ("[fe80::1%25eth0]", "has a zone, and no Host with one is accepted; write fe80::1$"),
        ("fe80::1%eth0", "has a zone, and no Host with one is accepted; write fe80::1$"),
        ("*", "write names"),
        ("a b", "write names"),
    ],
)
def test_an_allowed_host_is_a_name_without_port(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        values.allowed_hosts(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[0::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_allowed_origins_are_written_as_browsers_send_them(text: str, origin: str) -> None:
    assert values.allowed_origins(text) == (origin,)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("*", "any page"),
        ("null", "any page"),
        ("app.example", "no scheme"),
        ("https://app.example/", "has a path.*write https://app.example$"),
        ("https://app.example/x", "has a path"),
        ("https://u:hunter2@app.example", "user name"),
        ("https://app.example?", "query"),
        ("https://", "no host"),
    ],
)
def test_an_origin_is_scheme_host_and_port(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        values.allowed_origins(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("on", True),
        ("False", False),
        ("0", False),
        ("no", False),
        ("off", False),
    ],
)
def test_booleans_have_four_spellings(word: str, meaning: bool) -> None:
    assert values.boolean(word) is meaning


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("http://u:p@proxy:3128", "http://u:********@proxy:3128"),
        ("u:p@proxy:3128", "u:********@proxy:3128"),
        ("proxy:3128", "proxy:3128"),
        ("u:a//b@proxy", "u:********@proxy"),
        ("redis://:p@h/0", "redis://:********@h/0"),
        ("redis://u:p/q@r@h", "redis://u:********@h"),
        ("redis://u:12345@h", "redis://u:********@h"),
        ("redis://u:12,3@h", "redis://u:********@h"),
        ("http://u:@h", "http://u:********@h"),
        ("https://user@h/x", "https://user@h/x"),
        ("https://h:8443/a@b", "https://h:8443/a@b"),
        ("https://[::1]:8443/a@b", "https://[::1]:8443/a@b"),
        ("https://h/a:b@c", "https://h/a:b@c"),
        ("unix:/run/a@b", "unix:/run/a@b"),
        ("redis://h/0?password=pw1", "redis://h/0?password=********"),
        ("redis://h?db=1&PASSWORD=a&b#c", "redis://h?db=1&PASSWORD=********"),
        ("unix:/run/r?password=p@q", "unix:/run/r?password=********"),
        ("u:p@h?client_secret=s", "u:********@h?client_secret=********"),
        ("redis:/u:pw1@h", "redis:********@h"),
        ("rediss://h?ssl_certfile=f&ssl_keyfile=g", "rediss://h?ssl_certfile=f&ssl_keyfile=g"),
        ("https://h/?compass=north", "https://h/?compass=north"),
    ],
)
def test_a_password_in_a_url_is_masked_and_nothing_else(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert mask_url(masked) == masked


@given(st.text(string.printable, min_size=1), st.sampled_from(["https://u:", "redis://:", "u:"]))
def test_no_password_survives_masking(password: str, before: str) -> None:
    masked = mask_url(f"{before}~{password}~@host.example")
    assert masked == f"{before}********@host.example"


@given(
    st.text(string.printable), st.sampled_from(["redis://h/0?password=", "unix:/r?db=1&password=", "h?pwd="])
)
def test_no_password_in_a_query_survives_masking(password: str, before: str) -> None:
    assert mask_url(f"{before}~{password}~") == f"{before}********"
