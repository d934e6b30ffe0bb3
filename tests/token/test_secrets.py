"""No secret in any error or log."""

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.rules.errors import TokenError
from tests.support.emr import EMR, form
from tests.support.upstream import Behaviour, Seen, Wire, reply
from tests.token.client import FAILURES, SECRET, client, leaks


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
    st.characters(min_codepoint=0x21, max_codepoint=0x17F, categories=["L", "N", "P", "S"])
).map("Xq7Zw9Yk".__add__)


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
    if error:
        assert not leaks(error, secret, plain)
    assert plain not in caplog.text


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
