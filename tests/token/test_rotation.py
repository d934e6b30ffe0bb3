"""Contract section 2, client_secret: a new secret proves itself, only then replaces the old."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.rules.errors import CredentialsRefused, TokenError
from proxy.settings import read_secret
from proxy.token.rotation import POLL, Rotation
from proxy.token.source import TokenSource
from tests.support.clock import FakeClock, settle
from tests.support.emr import EMR, form, refuse
from tests.support.upstream import Seen, Wire, reply
from tests.token.client import Client, leaks
from tests.token.script import Script, Start, down

REFUSED = CredentialsRefused("no")


class Kiosk:
    """A secret file, the grants made of what it says, and what was told of them."""

    def __init__(self, clock: FakeClock, source: TokenSource) -> None:
        self.clock = clock
        self.text: str | ValueError | Path = "old"
        self.answers: dict[str, TokenError | float] = {}
        self.grants: list[Script] = []
        self.events: list[tuple[str, str | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.rotation = Rotation(
            source,
            secret="old",
            read=self.read,
            make_grant=self.grant,
            clock=clock,
            random=lambda: 0.5,
            on_event=lambda event, why: self.events.append((event, why)),
        )

    def read(self) -> str:
        if isinstance(self.text, ValueError):
            raise self.text
        if isinstance(self.text, Path):
            return read_secret(self.text)
        return self.text

    def grant(self, secret: str) -> Script:
        grant = Script(self.clock)
        grant.identity = secret
        grant.lifetime = self.answers.get(secret, 1000.0)
        grant.gate = self.gate
        self.grants.append(grant)
        return grant

    @property
    def told(self) -> list[str]:
        return [event for event, _ in self.events]


@pytest.fixture
def kiosk(clock: FakeClock, source: TokenSource) -> Kiosk:
    return Kiosk(clock, source)


async def test_a_new_secret_is_tried_within_seconds_while_the_old_token_serves(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    start(kiosk.rotation.run())
    old = await source.get()
    await clock.advance(1)
    kiosk.text = "new"
    kiosk.gate.clear()
    await clock.advance(POLL)
    assert kiosk.grants[0].busy
    assert source.current() is old
    assert not script.closed
    kiosk.gate.set()
    await settle()
    assert source.current() is kiosk.grants[0].issued[0]
    assert script.closed
    assert kiosk.events == [("rotated", None)]
    await clock.advance(100)
    assert len(kiosk.grants) == 1
    assert script.requests == 1


async def test_a_path_that_leads_nowhere_for_a_while_is_told_once_and_then_read(
    tmp_path: Path, source: TokenSource, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    kiosk.text = tmp_path / "folder" / "secret"
    (tmp_path / "folder").symlink_to("x" * 300)
    watching = start(kiosk.rotation.run())
    await clock.advance(3 * POLL)
    assert not watching.done()
    (event, why) = kiosk.events.pop()
    assert (event, "cannot be read: File name too long" in str(why), kiosk.events) == (
        "rotation failed",
        True,
        [],
    )
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").mkdir()
    kiosk.text.write_text("new")
    await clock.advance(POLL)
    assert kiosk.events == [("rotated", None)]


async def test_the_new_grant_gets_the_later_tokens(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    script.answers.append((1000.0, "a refresh token of the old client"))
    start(source.run())
    start(kiosk.rotation.run())
    kiosk.text = "new"
    await clock.advance(POLL)
    token = source.current()
    assert token
    assert await source.replace(token, clock.now()) is kiosk.grants[0].issued[1]
    await clock.advance(500)
    assert [refresh for _, refresh in kiosk.grants[0].asked] == [None] * 3
    assert script.requests == 1


@pytest.mark.parametrize("error", [REFUSED, down()], ids=["refused", "down"])
async def test_a_secret_that_fails_does_not_disturb_the_old_and_is_told_once(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk, error: TokenError
) -> None:
    start(source.run())
    start(kiosk.rotation.run())
    kiosk.text, kiosk.answers["new"] = "new", error
    await clock.advance(400)
    assert source.current() is script.issued[0]
    assert source.last_error is None
    assert kiosk.told == ["rotation failed"]
    assert all(grant.closed for grant in kiosk.grants)
    await clock.advance(150)
    assert source.current() is script.issued[1]
    assert not script.closed


async def test_a_refused_secret_is_not_asked_again_within_30_s_and_taken_once_the_emr_knows_it(
    source: TokenSource, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    await source.get()
    start(kiosk.rotation.run())
    kiosk.text, kiosk.answers["new"] = "new", REFUSED
    await clock.advance(POLL + 29.9)
    assert len(kiosk.grants) == 1
    del kiosk.answers["new"]
    await clock.advance(POLL)
    assert [grant.requests for grant in kiosk.grants] == [1, 1]
    assert kiosk.told == ["rotation failed", "rotated"]


async def test_another_new_secret_is_tried_at_once_and_the_same_one_again_is_not(
    source: TokenSource, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    await source.get()
    start(kiosk.rotation.run())
    kiosk.answers |= {"bad": REFUSED, "worse": REFUSED}
    for text in ("bad", "old", "bad", "worse"):
        kiosk.text = text
        await clock.advance(POLL)
    assert [grant.identity for grant in kiosk.grants] == ["bad", "worse"]
    kiosk.text = "good"
    await clock.advance(POLL)
    assert source.current() is kiosk.grants[2].issued[0]


async def test_an_unreadable_or_empty_file_disturbs_nothing_and_is_told_once_each_time(
    source: TokenSource, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    old = await source.get()
    start(kiosk.rotation.run())
    empty, gone = ValueError("it is empty"), ValueError("it cannot be read")
    for text in (empty, gone, "old", gone):
        kiosk.text = text
        await clock.advance(3 * POLL)
    assert kiosk.events == [("rotation failed", str(error)) for error in (empty, gone, gone)]
    assert source.current() is old
    assert not kiosk.grants


async def test_the_old_secret_may_come_back(
    source: TokenSource, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    await source.get()
    start(kiosk.rotation.run())
    for text in ("new", "old"):
        kiosk.text = text
        await clock.advance(POLL)
    assert [grant.closed for grant in kiosk.grants] == [True, False]
    assert kiosk.told == ["rotated", "rotated"]


async def test_a_new_secret_ends_the_pause_of_a_refused_one(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    script.lifetime = REFUSED
    start(source.run())
    start(kiosk.rotation.run())
    await clock.advance(1)
    with pytest.raises(CredentialsRefused):
        await source.get()
    kiosk.text = "new"
    await clock.advance(POLL)
    assert source.current() is kiosk.grants[0].issued[0]
    assert source.last_error is None
    await clock.advance(100)
    assert script.requests == 1


@pytest.mark.parametrize("answer", [1000.0, REFUSED], ids=["a token", "a refusal"])
async def test_a_fetch_under_way_with_the_old_secret_changes_nothing_afterwards(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk, answer: Any
) -> None:
    start(source.run())
    start(kiosk.rotation.run())
    script.gate.clear()
    script.lifetime = answer
    waiters = [start(source.get()) for _ in range(10)]
    kiosk.text = "new"
    await clock.advance(POLL)
    new = kiosk.grants[0].issued[0]
    assert await asyncio.gather(*waiters) == [new] * 10
    script.gate.set()
    await clock.advance(100)
    assert source.current() is new
    assert source.last_error is None
    assert script.closed
    assert not script.busy


async def test_an_answer_that_arrives_in_the_same_moment_changes_nothing_either(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    script.gate = kiosk.gate
    kiosk.gate.clear()
    adopting = start(source.adopt(kiosk.grant("new")))
    waiter = start(source.get())
    await settle()
    kiosk.gate.set()
    assert await adopting is None
    assert source.current() is kiosk.grants[0].issued[0]
    assert await waiter in (source.current(), *script.issued)


async def test_a_waiter_in_a_pause_gets_the_new_token_at_once(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    script.lifetime = down(2.0)
    start(source.run())
    await clock.advance(0)
    waiter = start(source.get())
    await settle()
    assert await source.adopt(kiosk.grant("new")) is None
    assert await waiter is kiosk.grants[0].issued[0]
    await settle()
    assert clock.sleepers == 1


async def test_the_new_token_takes_the_place_of_a_rejected_one(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    old = await source.get()
    script.gate.clear()
    replacing = start(source.replace(old, clock.now()))
    await settle()
    assert await source.adopt(kiosk.grant("new")) is None
    assert await replacing is kiosk.grants[0].issued[0]


async def test_the_refresh_follows_the_new_token(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    start(source.run())
    await clock.advance(0)
    kiosk.answers["new"] = 20.0
    assert await source.adopt(kiosk.grant("new")) is None
    await clock.advance(10)
    assert kiosk.grants[0].requests == 2


async def test_an_end_in_the_middle_closes_the_new_grant_and_keeps_the_old(
    source: TokenSource, script: Script, clock: FakeClock, start: Start, kiosk: Kiosk
) -> None:
    old = await source.get()
    run = start(kiosk.rotation.run())
    kiosk.text = "new"
    kiosk.gate.clear()
    await clock.advance(POLL)
    run.cancel()
    await settle()
    assert kiosk.grants[0].closed
    assert not script.closed
    assert source.current() is old


# --- with real files and an EMR ---


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _rename(file: Path, text: str) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text(text)
    fresh.replace(file)


def _swap(file: Path, text: str) -> None:
    """As Kubernetes' kubelet does: secret -> ..data/secret, and ..data -> a directory with a time stamp."""
    data = file.with_name("..data")
    count = sum(1 for _ in file.parent.iterdir())
    fresh = file.with_name(f"..2026_{count}")
    fresh.mkdir()
    (fresh / file.name).write_text(text)
    os.utime(fresh / file.name, (1, 1))  # a time stamp need not tell anything
    file.with_name("..data_tmp").symlink_to(fresh.name)
    file.with_name("..data_tmp").replace(data)
    if not file.is_symlink():
        file.symlink_to(Path("..data") / file.name)


@pytest.mark.parametrize("put", [_write, _rename, _swap])
async def test_a_file_that_changes_changes_the_secret_that_the_emr_gets(
    tmp_path: Path, clock: FakeClock, start: Start, put: Callable[[Path, str], None]
) -> None:
    file = tmp_path / "secret"
    put(file, "secret-one\n")

    async with EMR() as emr:
        known = {"secret-one"}

        async def answer(seen: Seen, wire: Wire) -> None:
            secret = form(seen)["client_secret"]
            token = reply(200, json.dumps({"access_token": f"for-{secret}"}).encode())
            await (token if secret in known else refuse())(seen, wire)

        emr.answer = answer
        told: asyncio.Queue[tuple[str, str | None]] = asyncio.Queue()

        def grant(secret: str) -> Client:
            return Client(emr.token_url, client_secret=secret, clock=clock)

        source = TokenSource(grant("secret-one"), refresh_margin=60, clock=clock)
        start(
            Rotation(
                source,
                secret="secret-one",
                read=lambda: read_secret(file),
                make_grant=grant,
                clock=clock,
                on_event=lambda event, why: told.put_nowait((event, why)),
            ).run()
        )
        assert (await source.get()).access_token == "for-secret-one"
        known.add("secret-three")
        events = []
        for text in ("secret-two\n", "", "secret-three"):
            put(file, text)
            await clock.advance(POLL)
            events.append(await told.get())
        assert (await source.get()).access_token == "for-secret-three"
        assert [event for event, _ in events] == ["rotation failed", "rotation failed", "rotated"]
        assert not [why for _, why in events if why and "secret-t" in why]
        await source.close()


async def test_a_refusal_shows_no_secret(clock: FakeClock) -> None:
    async with EMR() as emr:
        emr.answer = refuse()
        source = TokenSource(Script(clock), refresh_margin=60, clock=clock)
        error = await source.adopt(Client(emr.token_url, client_secret="s3cr3t-new", clock=clock))
        assert isinstance(error, CredentialsRefused)
        assert not leaks(error, "s3cr3t")
        await source.close()
