import gzip
import json
import zlib
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import (
    BODY_LIMIT,
    LIFETIME_LIMIT,
    OAUTH_ERRORS,
    RETRY_AFTER_LIMIT,
    Token,
    decoded,
    read_answer,
    read_retry_after,
)

GOOD = {"access_token": "tok", "token_type": "Bearer", "expires_in": 36000}


def read(body: object, status: int = 200, *, refreshing: bool = False) -> Token | TokenError:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(
        status, data, refreshing=refreshing, retry_after=None, requested_at=5.0, requested_wall=1e9
    )


def good(**fields: Any) -> dict[str, Any]:
    """`...` leaves a field out."""
    return {name: value for name, value in (GOOD | fields).items() if value is not ...}


def test_a_token_knows_its_field_value_and_when_its_life_began() -> None:
    token = read(good(refresh_token="again", scope="system/*.*"))
    assert isinstance(token, Token)
    assert token.authorization == b"Bearer tok"
    assert (token.lifetime, token.requested_at, token.requested_wall) == (36000.0, 5.0, 1e9)
    assert token.refresh_token == "again"


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [
        (..., 300.0),
        (None, 300.0),
        (1, 1.0),
        (0.5, 0.5),
        ("3600", 3600.0),
        (" 3600 ", 3600.0),
        ("3.6e3", 3600.0),
        (10**12, LIFETIME_LIMIT),
        (10**400, LIFETIME_LIMIT),
        ("99999999999999", LIFETIME_LIMIT),
    ],
    ids=str,
)
def test_a_lifetime_is_a_positive_number_or_numeric_string(expires_in: object, lifetime: float) -> None:
    token = read(good(expires_in=expires_in))
    assert isinstance(token, Token)
    assert token.lifetime == lifetime


@pytest.mark.parametrize(
    "expires_in",
    [0, -1, 0.0, True, False, "", "0", "-5", "soon", "1_000", "٣٦٠٠", "nan", "inf", "1e999", [], {}, [3600]],
    ids=repr,
)
def test_any_other_lifetime_makes_the_answer_unusable(expires_in: object) -> None:
    assert isinstance(read(good(expires_in=expires_in)), TokenEndpointUnavailable)


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"1e999", b"-Infinity", b"9" * 5000])
def test_a_lifetime_that_json_should_not_hold_is_unusable(literal: bytes) -> None:
    body = b'{"access_token": "tok", "expires_in": ' + literal + b"}"
    assert isinstance(read(body), TokenEndpointUnavailable)


@pytest.mark.parametrize(
    "token", [..., None, "", 7, ["tok"], "a b", "tok\n", "tok\r\nX: y", "tök", "\x7f", "\0"]
)
def test_an_access_token_is_visible_ascii(token: object) -> None:
    assert isinstance(read(good(access_token=token)), TokenEndpointUnavailable)


@pytest.mark.parametrize("kind", [..., None, "Bearer", "bearer", "BEARER"])
def test_the_token_type_may_be_missing_or_bearer_in_any_case(kind: object) -> None:
    assert isinstance(read(good(token_type=kind)), Token)


@pytest.mark.parametrize("kind", ["", "DPoP", "mac", " Bearer", 1, ["Bearer"]])
def test_another_token_type_is_unusable(kind: object) -> None:
    assert isinstance(read(good(token_type=kind)), TokenEndpointUnavailable)


@pytest.mark.parametrize("refresh", [None, "", 7, "a\nb", "tök"])
def test_a_refresh_token_that_is_none_is_left_alone(refresh: object) -> None:
    token = read(good(refresh_token=refresh))
    assert isinstance(token, Token)
    assert token.refresh_token is None


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(GOOD).encode("utf-8-sig"),
        json.dumps(GOOD).encode("utf-16"),
        json.dumps(GOOD).encode("utf-32-le"),
        json.dumps(good(scope="für alle"), ensure_ascii=False).encode("latin-1"),
    ],
    ids=["UTF-8 with a mark", "UTF-16", "UTF-32", "latin-1"],
)
def test_the_charset_does_not_matter(body: bytes) -> None:
    assert isinstance(read(body), Token)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"tok"', b"<html>", b"access_token=tok", b"[" * 100_000, b"\xff\xfe\xff"]
)
def test_what_is_no_json_object_is_unusable(body: bytes) -> None:
    assert isinstance(read(body), TokenEndpointUnavailable)


@pytest.mark.parametrize("status", [201, 202, 204, 206, 301, 302, 307, 400, 403, 404, 429, 500, 503])
def test_a_token_counts_with_status_200_alone(status: int) -> None:
    error = read(GOOD, status)
    assert isinstance(error, TokenEndpointUnavailable)
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("status", "body", "refreshing", "refused"),
    [
        (400, {"error": "invalid_client"}, False, True),
        (401, {"error": "invalid_client"}, False, True),
        (403, {"error": "invalid_client"}, False, True),
        (400, {"error": "unauthorized_client"}, False, True),
        (400, {"error": "invalid_scope"}, False, True),
        (401, b"", False, True),
        (401, b"<html>", False, True),
        (400, {"error": "invalid_request"}, False, False),
        (400, {"error": "invalid_grant"}, False, False),
        (400, {"error": ["invalid_client"]}, False, False),
        (400, {"error": "INVALID_CLIENT"}, False, False),
        (400, b"", False, False),
        (403, b"<html>blocked", False, False),
        (200, {"error": "invalid_client"}, False, False),
        (500, {"error": "invalid_client"}, False, False),
        (400, {"error": "invalid_grant"}, True, True),
        (401, {"error": "invalid_grant"}, True, True),
        (403, {"error": "invalid_grant"}, True, True),
        (400, b"", True, True),
        (503, {"error": "temporarily_unavailable"}, True, False),
        (200, {}, True, False),
    ],
)
def test_refused_credentials_are_told_from_weather(
    status: int, body: object, refreshing: bool, refused: bool
) -> None:
    error = read(body, status, refreshing=refreshing)
    assert type(error) is (CredentialsRefused if refused else TokenEndpointUnavailable)


@given(st.text(min_size=4), st.text(), st.sampled_from([200, 302, 400, 401, 403, 429, 500]))
def test_no_text_of_an_answer_is_repeated_but_the_codes_of_the_standard(
    code: str, description: str, status: int
) -> None:
    error = read({"error": code, "error_description": description, "access_token": ""}, status)
    same = read({"error": code if code in OAUTH_ERRORS else "", "access_token": ""}, status)
    assert isinstance(error, TokenError)
    assert (str(error), error.__dict__) == (str(same), same.__dict__)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12), st.booleans())
def test_a_token_is_not_in_its_repr(secret: str, refresh: bool) -> None:
    token = read(good(access_token=secret, refresh_token=secret if refresh else None))
    assert secret not in repr(token)
    assert secret not in f"{token}"


@given(st.binary(max_size=300), st.integers(200, 599), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(body: bytes, status: int, refreshing: bool) -> None:
    assert isinstance(read(body, status, refreshing=refreshing), Token | TokenError)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("", b"{}"),
        ("identity", b"{}"),
        ("gzip", gzip.compress(b"{}")),
        ("X-GZIP ", gzip.compress(b"{}")),
        ("deflate", zlib.compress(b"{}")),
    ],
)
def test_a_content_encoding_is_undone(coding: str, body: bytes) -> None:
    assert decoded(body, coding) == b"{}"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"{}"),
        ("gzip, gzip", b"{}"),
        ("gzip", b"{}"),
        ("gzip", b""),
        ("gzip", gzip.compress(b"{}")[:-9]),
        ("gzip", gzip.compress(bytes(BODY_LIMIT + 1))),
    ],
    ids=["unknown", "twice", "not what it says", "empty", "cut off", "a bomb"],
)
def test_a_content_encoding_that_cannot_be_undone_is_told(coding: str, body: bytes) -> None:
    assert decoded(body, coding) is None


WALL = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "86400"}, RETRY_AFTER_LIMIT),
        ({"Retry-After": "9" * 6000}, RETRY_AFTER_LIMIT),
        ({"Retry-After": formatdate(WALL + 20, usegmt=True)}, 20.0),
        ({"Retry-After": formatdate(WALL + 20)}, 20.0),
        ({"Retry-After": "Fri Jan 15 08:00:20 2027"}, 20.0),
        ({"Retry-After": formatdate(WALL - 20, usegmt=True)}, 0.0),
        ({"Retry-After": formatdate(WALL + 9999, usegmt=True)}, RETRY_AFTER_LIMIT),
        ({"Retry-After": formatdate(20, usegmt=True), "Date": formatdate(0, usegmt=True)}, 20.0),
        ({"Retry-After": formatdate(WALL + 20, usegmt=True), "Date": "today"}, 20.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:20 +9999999"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(headers, WALL) == seconds


@given(st.text(), st.text())
def test_no_retry_after_breaks_anything(value: str, date: str) -> None:
    seconds = read_retry_after({"Retry-After": value, "Date": date}, WALL)
    assert seconds is None or 0 <= seconds <= RETRY_AFTER_LIMIT
