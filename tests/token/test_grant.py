"""A token request on the wire, and each way in which it can fail."""

import asyncio
import base64
import contextlib
import gc
import gzip
import json
import logging
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.rules.errors import (
    CredentialsRefused,
    EgressProxyFailed,
    TokenEndpointUnavailable,
    TokenEndpointUntrusted,
    TokenError,
)
from proxy.token.answer import BODY_LIMIT
from proxy.token.grant import ClientCredentials
from tests.support.clock import FakeClock
from tests.support.emr import EMR, form, refuse
from tests.support.upstream import (
    Behaviour,
    Seen,
    Upstream,
    Wire,
    close_without_answer,
    hang,
    raw,
    reply,
    reset_without_answer,
)

SECRET = "s3cr3t+/:&=%é"
URL_PASSWORD = "egress-pa55"


class Client(ClientCredentials):
    """With values to start from, and a memory of what was observed."""

    def __init__(self, token_url: str, **changes: Any) -> None:
        self.observed: list[tuple[str, str]] = []
        values: dict[str, Any] = {
            "client_id": "my client:id",
            "client_secret": SECRET,
            "scope": None,
            "patient": None,
            "client_auth": "post",
            "timeout": 5.0,
            "ssl": None,
            "proxy": None,
            "clock": FakeClock(),
            "observe": lambda grant, outcome: self.observed.append((grant, outcome)),
        }
        super().__init__(token_url=token_url, **(values | changes))


@asynccontextmanager
async def client(emr: EMR | str, **changes: Any) -> AsyncIterator[Client]:
    asking = Client(emr if isinstance(emr, str) else emr.token_url, **changes)
    yield asking
    await asking.close()


# --- what is sent ---


async def test_the_secret_is_sent_in_the_form() -> None:
    async with EMR() as emr, client(emr) as asking:
        token = await asking.request()
        [seen] = emr.seen
        assert (token.access_token, token.lifetime) == ("token-1", 36000.0)
        assert (seen.method, seen.target) == ("POST", b"/auth/token/")
        assert form(seen) == {
            "grant_type": "client_credentials",
            "client_id": "my client:id",
            "client_secret": SECRET,
        }
        assert seen["Accept"] == "application/json"
        assert seen["Authorization"] is None
        assert asking.observed == [("client_credentials", "ok")]


async def test_with_basic_the_secret_is_sent_form_encoded_in_the_header_alone() -> None:
    async with EMR() as emr, client(emr, client_auth="basic") as asking:
        await asking.request()
        [seen] = emr.seen
        assert form(seen) == {"grant_type": "client_credentials"}
        scheme, _, pair = (seen["Authorization"] or "").partition(" ")
        assert scheme == "Basic"
        assert base64.b64decode(pair) == b"my+client%3Aid:s3cr3t%2B%2F%3A%26%3D%25%C3%A9"


async def test_scope_and_patient_are_sent_if_they_are_set() -> None:
    async with EMR() as emr, client(emr, scope="patient/*.rs x", patient="p 1") as asking:
        await asking.request()
        assert form(emr.seen[0])["scope"] == "patient/*.rs x"
        assert form(emr.seen[0])["patient"] == "p 1"


@pytest.mark.parametrize("client_auth", ["post", "basic"])
async def test_a_refresh_token_is_sent_with_its_own_grant(client_auth: str) -> None:
    async with EMR() as emr, client(emr, client_auth=client_auth, scope="system/*.*") as asking:
        await asking.request("r-1")
        fields = form(emr.seen[0])
        assert (fields["grant_type"], fields["refresh_token"]) == ("refresh_token", "r-1")
        assert "scope" not in fields
        assert ("client_secret" in fields) == (client_auth == "post")
        assert asking.observed == [("refresh_token", "ok")]


async def test_no_connection_and_no_cookie_is_kept() -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = reply(
            200, b'{"access_token": "t"}', [("Set-Cookie", "session=1; Path=/"), ("Set-Cookie", "b=2")]
        )
        await asking.request()
        await asking.request()
        assert [seen["Cookie"] for seen in emr.seen] == [None, None]
        assert emr.connections == 2
        await emr.until(lambda: emr.open == 0)


async def test_a_lifetime_counts_from_before_the_request() -> None:
    clock = FakeClock(now=50.0, wall=1e9)

    async def slow(seen: Seen, wire: Wire) -> None:
        await clock.advance(7)
        await emr.grant()(seen, wire)

    async with EMR() as emr, client(emr, clock=clock) as asking:
        emr.script.append(slow)
        token = await asking.request()
        assert (token.requested_at, token.requested_wall) == (50.0, 1e9)


@pytest.mark.parametrize(
    "change",
    [
        {"token_url": "https://b.example/auth/token/"},
        {"client_id": "b"},
        {"client_secret": "b"},
        {"scope": "b"},
        {"patient": "b"},
        {"client_auth": "basic"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_identity_holds_all_that_makes_a_token_another(change: dict[str, str]) -> None:
    one = Client("https://a.example/auth/token/")
    same = Client("https://a.example/auth/token/", timeout=1.0)
    other = Client(**({"token_url": "https://a.example/auth/token/"} | change))
    assert one.identity == same.identity != other.identity
    assert SECRET not in str(one.identity)


async def test_the_environment_does_not_redirect_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with EMR() as emr, client(emr) as asking:
        assert await asking.request()


# --- answers ---


def token_body(size: int = 0) -> bytes:
    return json.dumps({"access_token": "t", "pad": " " * size}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, token_body(), [("Content-Type", "text/html; charset=utf-7")]),
        reply(200, token_body(), framing="chunked"),
        reply(200, token_body(), framing="close"),
        reply(200, gzip.compress(token_body()), [("Content-Encoding", "gzip")]),
        reply(200, token_body(BODY_LIMIT - 100)),
    ],
    ids=["Content-Type", "chunked", "until the close", "gzip that nobody asked for", "large"],
)
async def test_the_wrapping_of_an_answer_does_not_matter(answer: Behaviour) -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.script.append(answer)
        assert (await asking.request()).access_token == "t"


async def flood(seen: Seen, wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            wire.write(b" " * 65536)
            await wire.drain()


FAILURES: list[tuple[str, Behaviour, type[TokenError], str]] = [
    ("too large", reply(200, token_body(BODY_LIMIT)), TokenEndpointUnavailable, "unusable"),
    ("endless", flood, TokenEndpointUnavailable, "unusable"),
    (
        "a bomb",
        reply(200, gzip.compress(token_body(BODY_LIMIT)), [("Content-Encoding", "gzip")]),
        TokenEndpointUnavailable,
        "unusable",
    ),
    ("not JSON", reply(200, b"<html>"), TokenEndpointUnavailable, "unusable"),
    ("created", reply(201, token_body()), TokenEndpointUnavailable, "unusable"),
    ("no content", reply(204), TokenEndpointUnavailable, "unusable"),
    ("moved", reply(301, b"", [("Location", "/elsewhere")]), TokenEndpointUnavailable, "unusable"),
    ("see other", reply(307, b"", [("Location", "/elsewhere")]), TokenEndpointUnavailable, "unusable"),
    ("throttled", reply(429, b"{}"), TokenEndpointUnavailable, "unusable"),
    ("broken", reply(500), TokenEndpointUnavailable, "unusable"),
    ("unavailable", reply(503, b"x" * (BODY_LIMIT + 9)), TokenEndpointUnavailable, "unusable"),
    ("blocked at the edge", reply(403, b"<html>"), TokenEndpointUnavailable, "unusable"),
    ("invalid_client", refuse(), CredentialsRefused, "refused"),
    ("a bare 401", reply(401), CredentialsRefused, "refused"),
    ("unauthorized_client", refuse("unauthorized_client", 400), CredentialsRefused, "refused"),
    ("invalid_scope", refuse("invalid_scope", 400), CredentialsRefused, "refused"),
    ("invalid_request", refuse("invalid_request", 400), TokenEndpointUnavailable, "unusable"),
    ("407 without a proxy", reply(407), TokenEndpointUnavailable, "unusable"),
    ("closed", close_without_answer(), TokenEndpointUnavailable, "unreachable"),
    ("reset", reset_without_answer(), TokenEndpointUnavailable, "unreachable"),
    (
        "cut off",
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "close"),
        TokenEndpointUnavailable,
        "unusable",
    ),
    ("not HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n", "close"), TokenEndpointUnavailable, "unusable"),
]


@pytest.mark.parametrize(
    ("answer", "error", "outcome"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
async def test_each_failure_has_its_type_and_its_outcome(
    answer: Behaviour, error: type[TokenError], outcome: str
) -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = answer
        with pytest.raises(TokenError) as caught:
            await asking.request()
        assert type(caught.value) is error
        assert asking.observed == [("client_credentials", outcome)]
        assert emr.requests == 1
        await emr.until(lambda: emr.open == 0)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refused_refresh_token_is_told_as_refused(status: int) -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = refuse("invalid_grant", status)
        with pytest.raises(CredentialsRefused):
            await asking.request("r-1")
        assert asking.observed == [("refresh_token", "refused")]


@pytest.mark.parametrize(
    ("value", "seconds"), [("17", 17.0), ("Fri, 15 Jan 2027 08:00:25 GMT", 25.0), ("x", 1.0)]
)
async def test_retry_after_reaches_the_error_in_both_forms(value: str, seconds: float) -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = reply(429, b"", [("Retry-After", value)])
        with pytest.raises(TokenEndpointUnavailable) as caught:
            await asking.request()
        assert caught.value.retry_after == seconds


async def slow_body(seen: Seen, wire: Wire) -> None:
    wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    await wire.forever()


@pytest.mark.parametrize("answer", [hang(), slow_body], ids=["no answer", "half an answer"])
async def test_the_timeout_covers_the_whole_request(answer: Behaviour) -> None:
    async with EMR() as emr, client(emr, timeout=0.05) as asking:
        emr.answer = answer
        with pytest.raises(TokenEndpointUnavailable, match=r"within 0\.05 s"):
            await asking.request()
        assert asking.observed == [("client_credentials", "timeout")]
        await emr.until(lambda: emr.open == 0)


async def test_a_cancelled_request_leaves_no_connection_and_is_not_counted() -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = hang()
        task = asyncio.create_task(asking.request())
        await emr.until(lambda: emr.requests == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await emr.until(lambda: emr.open == 0)
        assert asking.observed == []


async def test_a_refused_connection_and_an_unknown_name_are_unreachable() -> None:
    async with EMR() as emr:
        gone = emr.token_url
    async with client(gone) as asking:
        with pytest.raises(TokenEndpointUnavailable, match=r"could not be reached \(ECONNREFUSED\)"):
            await asking.request()
        assert asking.observed == [("client_credentials", "unreachable")]
    async with client("http://nowhere.invalid/auth/token/") as asking:
        with pytest.raises(TokenEndpointUnavailable, match="does not resolve"):
            await asking.request()
        assert asking.observed == [("client_credentials", "unreachable")]


# --- TLS and the egress proxy ---

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    authority = trustme.CA()
    server, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(trusting)
    return server, trusting


async def test_a_trusted_certificate_is_accepted_and_an_unknown_one_is_not(contexts: Contexts) -> None:
    async with EMR(tls=contexts[0]) as emr:
        async with client(emr, ssl=contexts[1]) as asking:
            assert await asking.request()
        async with client(emr) as asking:
            with pytest.raises(TokenEndpointUntrusted, match="unable to get local issuer"):
                await asking.request()
            assert asking.observed == [("client_credentials", "unreachable")]
        async with client(emr.token_url.replace("localhost", "127.0.0.1"), ssl=contexts[1]) as asking:
            with pytest.raises(TokenEndpointUntrusted, match="mismatch"):
                await asking.request()
        assert emr.requests == 1


async def test_a_port_that_speaks_no_tls_is_unreachable() -> None:
    async with Upstream(on_connect=lambda wire: _say(wire, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as plain:
        async with client(f"https://localhost:{plain.port}/") as asking:
            with pytest.raises(TokenEndpointUnavailable, match="TLS handshake failed"):
                await asking.request()
            assert asking.observed == [("client_credentials", "unreachable")]


async def _say(wire: Wire, data: bytes) -> None:
    wire.write(data)
    wire.close()


@asynccontextmanager
async def tunnel() -> AsyncIterator[tuple[str, list[str]]]:
    """An egress proxy that lets everything through: its URL, and the heads that it saw."""
    heads: list[str] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        host, _, port = heads[-1].split()[1].rpartition(":")
        further = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, further[1]), pump(further[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield f"http://me:{URL_PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


async def test_the_egress_proxy_gets_its_credentials_and_never_the_secret(contexts: Contexts) -> None:
    async with EMR(tls=contexts[0]) as emr, tunnel() as (proxy, heads):
        async with client(emr, ssl=contexts[1], proxy=proxy, client_auth="basic") as asking:
            assert await asking.request()
        [seen] = heads
        assert seen.startswith(f"CONNECT localhost:{emr.port} HTTP/1.1\r\n")
        assert base64.b64encode(f"me:{URL_PASSWORD}".encode()).decode() in seen
        assert "\r\nAuthorization" not in seen
        assert "Proxy-Authorization" not in str(emr.seen[0].headers)
        async with client(emr, proxy=proxy) as asking:  # the EMR's certificate, not the proxy's
            with pytest.raises(TokenEndpointUntrusted):
                await asking.request()


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize(
    ("status", "error"),
    [
        (407, EgressProxyFailed),
        (403, EgressProxyFailed),
        (502, TokenEndpointUnavailable),
        (504, TokenEndpointUnavailable),
    ],
)
async def test_what_the_egress_proxy_answers(scheme: str, status: int, error: type[TokenError]) -> None:
    if scheme == "http" and status == 403:
        pytest.skip("without a tunnel it cannot be told whose 403 it is")
    async with Upstream(answer=reply(status, b"no")) as proxy:
        url = f"http://me:{URL_PASSWORD}@127.0.0.1:{proxy.port}"
        async with client(f"{scheme}://emr.example/auth/token/", proxy=url) as asking:
            with pytest.raises(TokenError, match=str(status)) as caught:
                await asking.request()
            assert type(caught.value) is error
        assert proxy.seen[0].method == ("CONNECT" if scheme == "https" else "POST")
        await proxy.until(lambda: proxy.open == 0)


async def test_an_egress_proxy_that_is_not_there_is_named(contexts: Contexts) -> None:
    async with Upstream() as proxy:
        gone = proxy.port
    async with Upstream(tls=contexts[0]) as untrusted:
        for url in (
            f"http://me:{URL_PASSWORD}@127.0.0.1:{gone}",
            f"http://me:{URL_PASSWORD}@nowhere.invalid:3128",
            f"https://me:{URL_PASSWORD}@localhost:{untrusted.port}",
        ):
            async with client("https://emr.example/auth/token/", proxy=url) as asking:
                with pytest.raises(EgressProxyFailed, match="could not be reached") as caught:
                    await asking.request()
                assert asking.observed == [("client_credentials", "unreachable")]
                assert not leaks(caught.value, URL_PASSWORD)


# --- no secret anywhere ---


def leaks(error: BaseException, *secrets: str) -> list[str]:
    """Secrets in anything that could be printed of an error: its chain is followed even where `from None` hides
    it, and the variables of its frames are looked at as an error reporter would."""
    seen: list[str] = []
    chain: list[BaseException | None] = [error]
    while chain:
        one = chain.pop()
        if one is None:
            continue
        chain += [one.__cause__, one.__context__]
        trace = traceback.TracebackException.from_exception(one, capture_locals=True)
        seen += [str(one), repr(one), repr(one.args), repr(vars(one)), "".join(trace.format())]
    text = "\n".join(line for part in seen for line in part.splitlines() if "/tests/" not in line)
    return [secret for secret in secrets if secret in text]


def echoing(kind: int, status: int, phrase: bool) -> Behaviour:
    """An EMR that repeats all it was sent wherever an answer has room for it."""

    async def answer(seen: Seen, wire: Wire) -> None:
        told = form(seen)
        sent = told.get("client_secret", "") + told.get("refresh_token", "")
        plain = "".join(character for character in sent if character.isalnum() and character.isascii())
        bodies: list[Any] = [
            {"error": sent, "error_description": sent},
            {"error": "invalid_client", "error_description": sent},
            {"access_token": sent + " ", "expires_in": sent},
            {"access_token": plain, "expires_in": sent},
            {"access_token": plain, "token_type": sent},
            sent,
        ]
        fields = [("X-Echo", plain), ("Location", f"http://127.0.0.1:9/?{plain}"), ("Retry-After", plain)]
        if kind == len(bodies):
            wire.write(f"HTTP/1.1 {plain} {plain}\r\n{plain}\r\n\r\n".encode())
            wire.close()
            return
        await reply(status, json.dumps(bodies[kind]).encode(), fields, reason=plain if phrase else None)(
            seen, wire
        )

    return answer


SECRETS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x17F, categories=["L", "N", "P", "S"]), min_size=14
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SECRETS,
    st.integers(0, 6),
    st.sampled_from([200, 302, 400, 401, 403, 429, 500]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["post", "basic"]),
)
def test_no_error_and_no_log_holds_a_secret(
    caplog: pytest.LogCaptureFixture,
    secret: str,
    kind: int,
    status: int,
    phrase: bool,
    refreshing: bool,
    client_auth: str,
) -> None:
    refresh = f"refresh{secret}" if refreshing else None

    async def ask() -> TokenError | None:
        async with EMR() as emr, client(emr, client_secret=secret, client_auth=client_auth) as asking:
            emr.answer = echoing(kind, status, phrase)
            try:
                token = await asking.request(refresh)
            except TokenError as error:
                return error
            assert token.access_token not in repr(token)
            return None

    with caplog.at_level(logging.DEBUG):
        error = asyncio.run(ask())
    plain = "".join(character for character in secret if character.isalnum() and character.isascii())
    secrets = [secret, *([plain] if len(plain) > 6 else [])]
    if error:
        assert not leaks(error, *secrets)
    assert not any(secret in caplog.text for secret in secrets)


async def raised_by(ask: Callable[[], Awaitable[object]]) -> TokenError:
    with pytest.raises(TokenError) as caught:
        await ask()
    return caught.value


@pytest.mark.parametrize("answer", [case[1] for case in FAILURES], ids=[case[0] for case in FAILURES])
async def test_no_failure_drags_its_cause_along(answer: Behaviour) -> None:
    async with EMR() as emr, client(emr) as asking:
        emr.answer = answer
        error = await raised_by(lambda: asking.request("refresh-t0ken"))
        assert (error.__cause__, error.__context__) == (None, None)
        assert not leaks(error, SECRET, "refresh-t0ken", "s3cr3t")
    gc.collect()  # what is left unclosed would warn, and a warning fails the test
