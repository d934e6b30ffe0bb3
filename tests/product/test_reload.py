"""SIGHUP: `.env` and TOML are read again; what can change while the proxy runs does, or nothing at all."""

import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.settings import LIVE
from tests.product.command import SECRET
from tests.product.reloading import NOTHING, Place
from tests.support.caller import Broken, Caller, build, fetch
from tests.support.emr import EMR, form, refuse
from tests.support.upstream import Seen, Upstream, Wire, hang, reply


@pytest.fixture
def place(fumage: Upstream, emr: EMR, tmp_path: Path) -> Place:
    return Place(fumage, emr, tmp_path)


async def test_the_env_file_is_read_again(place: Place) -> None:
    async with place.started(), await Caller.connect(place.port) as kept:
        assert (await kept.request("POST", "/Patient", body=b"{}")).status == 200
        told = await place.reload(allow="*.rs")
        assert "changed: allow = *.rs (.env file ./.env)" in told
        assert (await kept.request("POST", "/Patient", body=b"{}")).status == 403
        assert (await kept.request()).status == 200, "its connection stays"
        await place.reload()
        assert (await kept.request("POST", "/Patient", body=b"{}")).status == 200
    assert place.emr.requests == 1


async def test_fields_that_were_admitted_before_are_judged_anew(place: Place) -> None:
    async with place.started(), await Caller.connect(place.port) as kept:
        await place.reload(allowed_hosts="fhir.internal")
        for _ in range(2):
            assert (await kept.request(host="fhir.internal")).status == 200
        await place.reload()
        assert (await kept.request(host="fhir.internal")).status == 403


async def test_a_toml_file_is_read_again(place: Place) -> None:
    config = place.folder / "proxy.toml"
    config.write_text('allow = "*.rs"\n')
    async with place.started("--config", "proxy.toml"):
        assert await place.status("DELETE") == 403
        config.write_text('allow = "*.cruds"\n')
        assert "changed: allow = *.cruds (TOML file proxy.toml)" in await place.again()
        assert await place.status("DELETE") == 200


async def test_flags_and_the_environment_keep_their_precedence(place: Place) -> None:
    async with place.started("--allow", "*.rs", FUMAGE_PROXY_MAX_BODY="1KiB"):
        assert NOTHING in await place.reload(allow="*.cruds", max_body="1MiB")
        assert await place.status("DELETE") == 403


async def test_without_any_file_nothing_changes(place: Place) -> None:
    (place.folder / ".env").unlink()
    async with place.started(**place.env):
        assert NOTHING in await place.again()
        assert await place.status() == 200
    assert place.emr.requests == 1


async def test_the_lines_of_requests_before_a_reload_stand_before_its_own(place: Place) -> None:
    async with place.started() as proxy, await Caller.connect(place.port) as kept:
        for _ in range(20):
            assert (await kept.request()).status == 200
        told = (await place.again()).splitlines()
        await proxy.says("The settings were read again")
        end = next(i for i, line in enumerate(told) if "The settings were read again" in line)
        proxy.terminate()
        assert await proxy.ended() == 0
        assert not [line for line in proxy.err[end:] if '"message": "request"' in line]


async def test_wrong_settings_are_all_told_and_change_nothing(place: Place) -> None:
    async with place.started() as proxy:
        told = await place.reload(allow="Patient.rs", max_body="much", idle_timeout="soon", client_secret="")
        for problem in ("MAX_BODY: .*much", "IDLE_TIMEOUT: .*soon", "client_secret is missing"):
            assert re.search(f'"error".*Settings: .*{problem}', told)
        assert "wrong: nothing was changed" in told
        assert await place.status("GET", "/Observation/1") == 200
        proxy.terminate()
        assert await proxy.ended() == 0


async def test_what_cannot_change_is_named_and_the_rest_changes(place: Place) -> None:
    async with place.started() as proxy:
        told = await place.reload(
            allow="*.rs", listen="127.0.0.1:1", max_connections="7", quit_endpoint="true"
        )
        assert "changed: allow = *.rs" in told
        await proxy.says(
            '"warning".*Changed as well, but needs a restart: listen, max_connections, quit_endpoint'
        )
        assert await place.status("DELETE") == 403
        await place.again()
        await proxy.says("needs a restart: listen, max_connections, quit_endpoint")


# Credentials


def known(**secrets: str) -> Callable[[Seen, Wire], Awaitable[None]]:
    """An EMR that knows these clients, by their ids."""

    async def answer(seen: Seen, wire: Wire) -> None:
        asked = form(seen)
        name = asked["client_id"]
        token = reply(200, f'{{"access_token": "of-{name}", "expires_in": 3600}}'.encode())
        await (token if secrets.get(name) == asked["client_secret"] else refuse())(seen, wire)

    return answer


async def test_new_credentials_are_used_once_they_got_a_token(place: Place) -> None:
    place.emr.answer = known(client=SECRET, other="hush")
    async with place.started():
        assert await place.status() == 200
        told = await place.reload(client_id="other", client_secret="hush")
        assert "client_id = other (.env file ./.env); client_secret = ********" in told
        assert await place.status() == 200
        assert "hush" not in told
    assert [seen.bearer for seen in place.fumage.seen] == ["of-client", "of-other"]


async def test_credentials_that_get_no_token_change_nothing_at_all(place: Place) -> None:
    place.emr.answer = known(client=SECRET, other="hush")
    async with place.started():
        told = await place.reload(allow="*.rs", client_secret="wrong")
        assert re.search('"error".*The new credentials got no token: nothing was changed', told)
        assert "wrong" not in told
        assert await place.status("DELETE") == 200
        assert "changed: allow = *.rs (" in await place.reload(allow="*.rs")
        assert await place.status("DELETE") == 403
    assert {seen.bearer for seen in place.fumage.seen} == {"of-client"}


async def test_requests_are_served_while_new_credentials_prove_themselves(place: Place) -> None:
    place.emr.answer = known(client=SECRET, other="hush")
    async with place.started() as proxy:
        asked = place.emr.requests
        place.emr.script.append(hang())
        place.write(client_id="other", client_secret="hush", token_timeout="300ms")
        proxy.terminate(signal.SIGHUP)
        await place.emr.until(lambda: place.emr.requests > asked)
        assert await place.status() == 200
        await proxy.says("did not answer within 0.3 s")
        assert await place.status() == 200
    assert {seen.bearer for seen in place.fumage.seen} == {"of-client"}


async def test_credentials_of_another_instance_are_not_shown_to_the_old_one(place: Place) -> None:
    async with Upstream() as elsewhere, place.started() as proxy:
        asked = place.emr.requests
        told = await place.reload(base_url=elsewhere.url, client_secret="of-the-other", allow="*.rs")
        assert "changed: allow = *.rs" in told
        await proxy.says("needs a restart: base_url, client_secret")
        assert place.emr.requests == asked


async def test_a_secret_may_move_into_a_file_which_is_watched_from_then_on(place: Place) -> None:
    place.emr.answer = known(client=SECRET)
    file = place.folder / "secret"
    file.write_text(SECRET)
    del place.env["CANVAS_API_CLIENT_SECRET"]
    place.write(client_secret=SECRET)
    async with place.started() as proxy:
        assert "client_secret_file = " in await place.reload(client_secret_file=str(file))
        place.emr.answer = known(client="rotated")
        file.write_text("rotated")
        await proxy.says("The client secret was rotated")
        asked = place.emr.requests
        assert NOTHING in await place.again()
        assert place.emr.requests == asked, "what the file's change brought is what runs"
        file.write_text("rotated again")
        place.emr.answer = known(client="rotated again")
        assert "client_secret = ********" in await place.again()
        asked = place.emr.requests
        assert NOTHING in await place.again()
        assert place.emr.requests == asked


# What each key that can change does


async def _allow(place: Place) -> bool:
    return await place.status("DELETE") == 403


async def _allowed_hosts(place: Place) -> bool:
    pages = [await fetch(port, "GET", "/status", host="fhir.test") for port in (place.port, place.admin)]
    return [page.status for page in pages] == [200, 200]


async def _allowed_origins(place: Place) -> bool:
    return (await fetch(place.port, headers=[("Origin", "https://app.test")])).status == 200


async def _links(place: Place) -> bool:
    url = place.fumage.url + "/Task/1"
    place.fumage.answer = reply(201, b"", [("Location", url)])
    return (await fetch(place.port, "POST", "/Task", body=b"{}"))["Location"] == url


async def _response_timeout(place: Place) -> bool:
    place.fumage.answer = hang()
    return await place.status() == 504


async def _idle_timeout(place: Place) -> bool:
    async def half(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await wire.forever()

    place.fumage.answer = half
    with pytest.raises(Broken):
        await fetch(place.port)
    async with await Caller.connect(place.port) as caller:
        await caller.send(build("POST", body=b"{}")[:-1])
        return (await caller.answer()).status == 408


async def _client_timeout(place: Place) -> bool:
    async with await Caller.connect(place.port) as caller:
        await caller.send(b"GET / HTTP/1.1\r\n")
        return (await caller.answer()).status == 408


async def _client_keepalive(place: Place) -> bool:
    async with await Caller.connect(place.port) as caller:
        await caller.request()
        return await caller.eof() == "eof"


async def _max_clients(place: Place) -> bool:
    async with await Caller.connect(place.port) as first:
        await first.request()
        return await place.status() == 503


async def _max_head(place: Place) -> bool:
    return (await fetch(place.port, headers=[("X-Long", "x" * 2000)])).status == 431


async def _max_body(place: Place) -> bool:
    return (await fetch(place.port, "POST", body=b"x" * 2000)).status == 413


async def _replayed(place: Place) -> bool:
    place.fumage.script.append(reply(401))
    return (await fetch(place.port, "POST", body=b"x" * 2000)).status == 503


async def _drain_delay(place: Place) -> bool:
    place.proxy.terminate()
    await place.proxy.says("what runs may take 25.2 s")
    return await place.proxy.ended() == 0


async def _drain_timeout(place: Place) -> bool:
    place.fumage.answer = hang()
    async with await Caller.connect(place.port) as caller:
        await caller.send(build())
        await place.fumage.until(lambda: place.fumage.seen)
        place.proxy.terminate()
        await place.proxy.says("drain_timeout is over")
        return await place.proxy.ended() == 0


async def _log_level(place: Place) -> bool:
    await fetch(place.port, "GET", "/Observation/1")
    place.proxy.terminate()
    await place.proxy.ended()
    return not any("Observation" in line for line in place.proxy.err)


async def _log_format(place: Place) -> bool:
    await fetch(place.port)
    await place.proxy.says(r"info +GET Patient/\{id\} -> 200")
    return True


def _asked(**fields: str) -> Callable[[Place], Awaitable[bool]]:
    async def asked(place: Place) -> bool:
        return fields.items() <= form(place.emr.seen[-1]).items()

    return asked


async def _basic(place: Place) -> bool:
    return place.emr.seen[-1]["Authorization"] is not None


async def _once_more(place: Place) -> bool:
    return place.emr.requests == 2


CHANGES: dict[str, tuple[str, Callable[[Place], Awaitable[bool]]]] = {
    "client_id": ("other", _asked(client_id="other")),
    "client_secret": ("other", _asked(client_secret="other")),
    "scope": ("system/*.read", _asked(scope="system/*.read")),
    "patient": ("a-patient", _asked(patient="a-patient")),
    "client_auth": ("basic", _basic),
    "token_timeout": ("9s", _once_more),
    "allow": ("*.rs", _allow),
    "allowed_hosts": ("fhir.test", _allowed_hosts),
    "allowed_origins": ("https://app.test", _allowed_origins),
    "links": ("off", _links),
    "response_timeout": ("50ms", _response_timeout),
    "idle_timeout": ("50ms", _idle_timeout),
    "client_timeout": ("50ms", _client_timeout),
    "client_keepalive": ("50ms", _client_keepalive),
    "max_clients": ("1", _max_clients),
    "max_head": ("1KiB", _max_head),
    "max_body": ("1KiB", _max_body),
    "replay_limit": ("1KiB", _replayed),
    "replay_memory": ("1KiB", _replayed),
    "drain_delay": ("200ms", _drain_delay),
    "drain_timeout": ("100ms", _drain_timeout),
    "log_level": ("warning", _log_level),
    "log_format": ("text", _log_format),
}


def test_every_key_that_can_change_has_its_effect_here() -> None:
    assert CHANGES.keys() | {"client_secret_file"} == LIVE


@pytest.mark.parametrize("key", CHANGES)
async def test_a_key_that_can_change_takes_effect(key: str, place: Place) -> None:
    value, took_effect = CHANGES[key]
    if key == "patient":
        place.write(scope="patient/*.read")
        place.env["FUMAGE_PROXY_SCOPE"] = "patient/*.read"
    async with place.started() as proxy:
        assert await place.status() == 200
        assert f"changed: {key} = " in await place.reload(**{key: value})
        assert not any("needs a restart" in line for line in proxy.err)
        assert await took_effect(place)
