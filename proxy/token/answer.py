"""What the token endpoint answered: a token, or the error that says why there is none. No I/O, no clock."""

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError

BODY_LIMIT = 1024 * 1024  # bytes, after decompression too; a token is a few kilobytes at most
LIFETIME_DEFAULT = 300.0  # s, without expires_in: the longest that SMART Backend Services allows
LIFETIME_LIMIT = 366 * 86400.0  # s; more than that says nothing but "long"
RETRY_AFTER_LIMIT = 300.0  # s
NEVER = -inf

# Credentials, not weather: asking again soon changes nothing (RFC 6749 section 5.2).
REFUSED = frozenset({"invalid_client", "unauthorized_client", "invalid_scope"})
# The codes that may be shown; any other text of an answer could repeat what was sent.
OAUTH_ERRORS = REFUSED | {
    "access_denied",
    "invalid_grant",
    "invalid_request",
    "invalid_target",  # RFC 8707
    "server_error",
    "temporarily_unavailable",
    "unsupported_grant_type",
}
# The statuses whose body says something; for the others it is not read.
TELLING = frozenset({200, 400, 401, 403})

VISIBLE = re.compile(r"[\x21-\x7e]+")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(slots=True, eq=False)
class Token:
    """A bearer token; compared by identity, since an EMR may issue the same characters twice.

    Times in seconds: `requested_at` by the boot clock, `requested_wall` since the epoch, both taken before
    the token request was sent, so that `lifetime` counts from the earliest moment it can have begun.
    """

    access_token: str = field(repr=False)
    lifetime: float
    requested_at: float
    requested_wall: float
    refresh_token: str | None = field(default=None, repr=False)
    authorization: bytes = field(init=False, repr=False)  # the whole field value
    accepted_at: float = field(default=NEVER, init=False)  # last answer other than 401, by the boot clock
    rejected: bool = field(default=False, init=False)  # some request sent with it got a 401
    struck: bool = field(default=False, init=False)  # it has counted for the ration
    forced: bool = field(default=False, init=False)  # fetched because its predecessor was rejected

    def __post_init__(self) -> None:
        self.authorization = b"Bearer " + self.access_token.encode("ascii")


def read_answer(
    status: int,
    body: bytes,
    *,
    refreshing: bool,
    retry_after: float | None,
    requested_at: float,
    requested_wall: float,
) -> Token | TokenError:
    """Judge an answer by RFC 6749 section 5; `body` is decoded, `refreshing` tells the refresh_token grant.

    Errors are returned, not raised: no traceback then holds the body.
    """
    answer = _json_object(body)
    if status != 200:
        return _refusal(status, answer, refreshing, retry_after)
    if answer is None:
        return unusable("answered with something that is not a JSON object")
    access_token = answer.get("access_token")
    if not isinstance(access_token, str) or not VISIBLE.fullmatch(access_token):
        return unusable("answered without an access_token of visible ASCII")
    token_type = answer.get("token_type")
    if token_type is not None and not (isinstance(token_type, str) and token_type.lower() == "bearer"):
        return unusable("answered with a token_type that is not Bearer")
    lifetime = _lifetime(answer.get("expires_in"))
    if lifetime is None:
        return unusable("answered with an expires_in that is not a positive number")
    refresh_token = answer.get("refresh_token")
    if not isinstance(refresh_token, str) or not VISIBLE.fullmatch(refresh_token):
        refresh_token = None
    return Token(access_token, lifetime, requested_at, requested_wall, refresh_token)


def unusable(what: str, retry_after: float | None = None) -> TokenEndpointUnavailable:
    """The error for an answer that is no token; `what` completes "The EMR's token endpoint …"."""
    return TokenEndpointUnavailable(f"The EMR's token endpoint {what}.", retry_after=retry_after or 1.0)


def _refusal(
    status: int, answer: dict[str, object] | None, refreshing: bool, retry_after: float | None
) -> TokenError:
    code = answer.get("error") if answer else None
    if not isinstance(code, str) or code not in OAUTH_ERRORS:
        code = None
    told = f"{status} ({code})" if code else str(status)
    # A 401 is a refusal with any body; a bare 403 may be an edge block, which is weather. What is said of a
    # refresh token (invalid_grant as 400, at some servers as 403) never needs a pause.
    if status == 401 or (status in TELLING and (refreshing or code in REFUSED)):
        return CredentialsRefused(f"The EMR's token endpoint refused the credentials: {told}.")
    if 300 <= status < 400:
        return unusable(f"answered {told}, a redirect, which is not followed: check token_url", retry_after)
    return unusable(f"answered {told}", retry_after)


def _json_object(body: bytes) -> dict[str, object] | None:
    try:
        try:
            value = json.loads(body)  # finds UTF-8, -16 and -32, with or without a mark
        except UnicodeDecodeError:
            value = json.loads(body.decode("latin-1"))  # all that we use is ASCII
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lifetime(expires_in: object) -> float | None:
    if expires_in is None:
        return LIFETIME_DEFAULT
    if isinstance(expires_in, str) and _NUMBER.fullmatch(expires_in.strip()):
        expires_in = float(expires_in)
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return None
    return float(min(expires_in, LIFETIME_LIMIT)) if 0 < expires_in < inf else None


def decoded(body: bytes, content_encoding: str) -> bytes | None:
    """The body less its Content-Encoding, or None: unknown, broken, cut off or larger than BODY_LIMIT."""
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        return None
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    try:
        plain = inflate.decompress(body, BODY_LIMIT + 1)
    except zlib.error:
        return None
    return plain if inflate.eof and len(plain) <= BODY_LIMIT else None


def read_retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Retry-After (RFC 9110 section 10.2.3) in seconds, at most RETRY_AFTER_LIMIT; None if absent or not one.

    A date is counted from the answer's own Date where there is one: the two clocks may differ.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
    else:
        date = _http_date(value)
        if date is None:
            return None
        sent = _http_date(headers.get("Date", ""))
        seconds = date - (wall if sent is None else sent)
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)


def _http_date(value: str) -> float | None:
    try:
        # Without a zone (asctime form) it is naive; RFC 9110 section 5.6.7: every HTTP-date is UTC.
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
