"""The header rules as tables and properties; whole messages are in tests/forward/test_fidelity.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.headers import (
    BROWSER,
    HOP_BY_HOP,
    OF_THE_BYTES,
    OVERRIDES,
    Fields,
    authorized,
    connection_options,
    loops,
    note_request,
    note_response,
    request_fields,
    request_head,
    trailer_lines,
    values_of,
    without,
    without_cors,
)

STRIPPED = sorted(HOP_BY_HOP | {b"authorization", b"cookie", b"cookie2", b"forwarded", b"host", b"expect"})
JUDGED = [
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
    b"if-none-exist",
    b"content-type",
    b"content-encoding",
]


def mixed(name: bytes) -> st.SearchStrategy[bytes]:
    cases = st.tuples(
        *(st.sampled_from([name[i : i + 1], name[i : i + 1].upper()]) for i in range(len(name)))
    )
    return cases.map(b"".join)


tokens = st.text("abcXYZ-_.09!", min_size=1, max_size=12).map(str.encode)
known = st.sampled_from(
    [
        *STRIPPED,
        b"x-forwarded-for",
        b"x-forwarded-",
        b"x-request-id",
        b"via",
        b"origin",
        b"sec-fetch-mode",
        b"etag",
        *JUDGED,
    ]
).flatmap(mixed)
names = tokens | known
values = st.binary(max_size=20).map(lambda value: value.translate(None, b"\r\n\0").strip(b" \t"))
connections = st.lists(names, max_size=4).map(b", ".join)
fields = st.lists(
    st.tuples(names, values)
    | st.tuples(mixed(b"connection"), connections)
    | st.tuples(mixed(b"x-request-id"), values),
    max_size=12,
)


@given(fields)
def test_nothing_that_must_not_go_on_survives(headers: Fields) -> None:
    lines, _ = note_request(headers)
    left = {name.lower() for name, _ in lines}
    assert not left & set(STRIPPED)
    assert not any(name.startswith(b"x-forwarded-") for name in left)


@given(fields)
def test_stripping_is_idempotent(headers: Fields) -> None:
    once = note_request(headers)[0]
    assert note_request(once)[0] == once
    once = note_response(headers)[0]
    assert note_response(once)[0] == once


@given(fields)
def test_what_survives_is_unchanged_and_in_order(headers: Fields) -> None:
    for note in (note_request, note_response):
        rest = iter(headers)
        assert all(field in rest for field in note(headers)[0])


@given(fields)
def test_what_connection_names_does_not_go_on(headers: Fields) -> None:
    named = {
        option
        for name, value in headers
        if name.lower() == b"connection"
        for option in connection_options(value)
    }
    for note in (note_request, note_response):
        left = {name.lower() for name, _ in note(headers)[0]}
        assert not left & (named - {b"close"})


@given(fields)
def test_whatever_comes_in_our_credential_goes_out_once_and_last(headers: Fields) -> None:
    lines, _ = note_request(headers)
    fields = request_fields(b"fumage", lines, [(b"Via", b"x")])
    head = authorized(request_head(b"GET", b"", b"/", fields, b"1"), b"Bearer ours")
    assert head.endswith(b"\r\nAuthorization: Bearer ours\r\n\r\n")
    assert head.lower().count(b"\r\nauthorization:") == 1
    assert head.lower().count(b"\r\nhost:") == 1
    assert head.index(b"\r\n\r\n") == len(head) - 4


@given(fields)
def test_guards_see_what_connection_would_hide(headers: Fields) -> None:
    hidden = [*headers, (b"Origin", b"https://evil"), (b"Connection", b"origin, via, sec-fetch-site")]
    _, noted = note_request([*hidden, (b"Sec-Fetch-Site", b"cross-site"), (b"Via", b"1.1 fumage-proxy")])
    assert noted[b"origin"].endswith(b"https://evil")
    assert noted[b"sec-fetch-site"].endswith(b"cross-site")
    assert loops(noted)


@given(fields)
def test_the_request_id_that_is_noted_is_the_one_that_goes_on(headers: Fields) -> None:
    lines, noted = note_request(headers)
    sent = [value for name, value in lines if name.lower() == b"x-request-id"]
    assert noted.get(b"x-request-id", b"") == b", ".join(sent)


@given(fields)
def test_trailers_are_stripped_like_headers(headers: Fields) -> None:
    trailers = trailer_lines(headers, b"x-named, abc")
    left = [line.split(b":", 1)[0].lower() for line in trailers.split(b"\r\n")[:-1]]
    assert not set(left) & {
        *STRIPPED,
        b"via",
        b"x-request-id",
        b"x-named",
        b"abc",
        b"set-cookie",
        b"content-length",
    }
    assert not any(name.startswith((b"x-forwarded-", b"sec-fetch-")) for name in left)


@pytest.mark.parametrize(
    ("via", "looped"),
    [
        (b"1.1 fumage-proxy", True),
        (b"1.0 a, HTTP/1.1 fumage-proxy (x)", True),
        (b"1.1 a,1.1 fumage-proxy", True),
        (b"1.1\tfumage-proxy", True),
        (b"1.1 fumage-proxy.example", False),
        (b"1.1 a (fumage-proxy)", False),
        (b"fumage-proxy", False),
        (b"", False),
        (b",,", False),
    ],
)
def test_our_name_in_via_is_a_loop(via: bytes, looped: bool) -> None:
    assert loops({b"via": via}) is looped


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (b"close", {b"close"}),
        (b"Keep-Alive, X-A", {b"keep-alive", b"x-a"}),
        (b" \tX-A\t,,x-b ", {b"x-a", b"x-b", b""}),
        (b"", {b""}),
    ],
)
def test_connection_is_a_list_of_names(value: bytes, options: set[bytes]) -> None:
    assert connection_options(value) == options


def test_repeated_fields_are_noted_as_their_list() -> None:
    names = (b"Via", b"Host", b"Origin", b"Sec-Fetch-Site", b"X-Request-Id")
    _, noted = note_request([(name, b"1") for name in names] + [(name.upper(), b"2") for name in names])
    assert {noted[name.lower()] for name in names} == {b"1, 2"}


@pytest.mark.parametrize("name", [b"Sec-Fetch-Site", b"sec-fetch-user", b"SEC-FETCH-ANYTHING"])
def test_any_field_that_only_browsers_send_tells_a_browser(name: bytes) -> None:
    lines, noted = note_request([(name, b"x")])
    assert lines == [(name, b"x")]
    assert BROWSER in noted
    assert BROWSER not in note_request([(b"X-" + name, b"x")])[1]


def test_without_and_without_cors_take_whole_fields() -> None:
    lines, _ = note_response([(b"Access-Control-Max-Age", b"1"), (b"A", b"b"), (b"C", b"d")])
    assert without_cors(lines) == [(b"A", b"b"), (b"C", b"d")]
    assert without(lines, {b"a"}) == [(b"Access-Control-Max-Age", b"1"), (b"C", b"d")]


def spelled(name: bytes) -> list[bytes]:
    return [name, name.title(), name.replace(b"-", b"_"), name.upper().replace(b"-", b"_", 1)]


@pytest.mark.parametrize("name", [spelling for name in JUDGED for spelling in spelled(name)])
def test_what_allow_judges_is_noted_and_goes_on_as_it_came(name: bytes) -> None:
    lines, noted = note_request([(name, b"1"), (b"A_b", b"2"), (name, b"3")])
    assert lines == [(name, b"1"), (b"A_b", b"2"), (name, b"3")]
    dashed = name.lower().replace(b"_", b"-")
    known = b"x-http-method*" if dashed.startswith(b"x-http-method") else dashed
    assert noted == {known: b"1, 3"}
    assert known in OVERRIDES or known in (b"if-none-exist", b"content-type", b"content-encoding")
    assert trailer_lines([(name, b"1"), (b"A", b"2")], None) == b"A: 2\r\n"


@pytest.mark.parametrize(
    "name", [b"content_length", b"transfer_encoding", b"HOST_", b"x_request_id", b"sec_fetch_site"]
)
def test_underscores_make_no_other_field(name: bytes) -> None:
    assert note_request([(name, b"1")]) == ([(name, b"1")], {})


def test_fields_are_found_in_lines() -> None:
    lines, _ = note_response([(b"Digest", b"1"), (b"A", b"2"), (b"DIGEST", b"3")])
    assert values_of(lines, OF_THE_BYTES) == {b"digest": b"1, 3"}


def test_trailers_of_a_body_that_is_changed_do_not_speak_of_it() -> None:
    trailers = [(b"Content-Digest", b"sha-256=:a:"), (b"A", b"2")]
    assert trailer_lines(trailers, None, OF_THE_BYTES) == b"A: 2\r\n"
    assert trailer_lines(trailers, b"a", OF_THE_BYTES) == b""
