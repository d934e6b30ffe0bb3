"""A token request on the wire, and what its answers mean."""

import asyncio
import base64
import gzip

import pytest

from proxy.rules.errors import CredentialsRefused, TokenEndpointUnavailable, TokenError
from proxy.token.answer import BODY_LIMIT
from tests.support.clock import FakeClock
from tests.support.emr import EMR, form, refuse
from tests.support.upstream import Behaviour, Seen, Wire, hang, reply
from tests.token.client import FAILURES, SECRET, Client, client, token_body

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


async def test_with_basic_the_header_holds_the_client_even_if_the_url_names_a_user() -> None:
    async with EMR() as emr, client(emr.token_url.replace("//", "//u:p@"), client_auth="basic") as asking:
        assert await asking.request()
        assert b"s3cr3t" in base64.b64decode((emr.seen[0]["Authorization"] or "").removeprefix("Basic "))


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
    async with EMR() as emr, client(emr.token_url.replace("127.0.0.1", "localhost")) as asking:
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
