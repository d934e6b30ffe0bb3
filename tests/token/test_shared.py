"""One token for all replicas, by a real server."""

import asyncio
import json
from collections.abc import Callable

import pytest

from proxy.clock import SystemClock
from proxy.rules.errors import TokenError
from proxy.token.seal import Seal
from proxy.token.shared import LEASE, RENEWAL
from tests.token.replica import KEY, OTHER_KEY, Replica, text, until
from tests.token.script import Start, down
from tests.token.server import Server

# --- taking what another has published ---


async def test_what_one_has_fetched_the_others_take(server: Server) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    two.clock.time += 77  # each machine has a boot clock of its own
    fetched = await one.source.get()
    await two.clock.advance(100)  # of which the wall clock knows
    taken = await two.source.get()
    assert taken.access_token == fetched.access_token == "a-tok-1"
    assert taken.lifetime == 1000
    assert taken.requested_wall == pytest.approx(fetched.requested_wall, abs=1)
    assert taken.requested_at == pytest.approx(two.clock.now() - 100, abs=1)
    assert (one.told, two.told) == (["fetched"], ["hit"])
    assert two.script.requests == 0


async def test_the_store_sees_neither_token_nor_identity_and_forgets_in_time(server: Server) -> None:
    one = Replica(server.url, identity=("https://emr/auth/token/", "my-client", None))
    one.script.answers.append((1000.0, "a-refresh-token"))
    await one.source.get()
    (key,) = server.keys()
    with server.ask() as redis:
        value = redis.get(key)
        assert 990 < redis.pttl(key) / 1000 <= 1000
    for secret in (b"tok-1", b"client", b"emr", b"refresh"):
        assert secret not in key + value


async def test_others_of_another_identity_or_key_do_not_meet(server: Server) -> None:
    replicas = [
        Replica(server.url, "a"),
        Replica(server.url, "b", identity="another client"),
        Replica(server.url, "c", keys=[OTHER_KEY]),
    ]
    assert [text(await each.source.get()) for each in replicas] == ["a-tok-1", "b-tok-1", "c-tok-1"]
    assert [each.told for each in replicas] == [["fetched"]] * 3


@pytest.mark.parametrize("keys", [[KEY, OTHER_KEY], [OTHER_KEY, KEY], [KEY]])
async def test_while_keys_are_rotated_tokens_are_still_shared(server: Server, keys: list[str]) -> None:
    one, two = Replica(server.url, "a", keys=[KEY, OTHER_KEY]), Replica(server.url, "b", keys=keys)
    await one.source.get()
    assert text(await two.source.get()) == "a-tok-1"


async def test_a_refresh_looks_for_a_newer_one_first(server: Server, start: Start) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    await two.source.get()
    for each in (one, two):
        await each.clock.advance(501)
    refreshed = await two.grant.request()
    assert text(refreshed) == "b-tok-1"
    assert text(await one.grant.request()) == "b-tok-1"
    assert (one.script.requests, two.script.requests) == (1, 1)


async def test_a_refresh_does_not_take_an_older_one(server: Server) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    await two.clock.advance(100)
    two.grant._handed.append(await two.script.request())  # as when the store was away
    assert text(await two.grant.request()) == "b-tok-2"


async def test_the_last_seconds_of_a_token_are_not_worth_taking(server: Server) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    await two.clock.advance(941)
    assert text(await two.source.get()) == "b-tok-1"


# --- rejected tokens ---


async def test_a_token_rejected_everywhere_is_replaced_once(server: Server) -> None:
    replicas = [Replica(server.url, name) for name in "abcde"]
    old = [await each.source.get() for each in replicas]
    new = [await each.reject(token) for each, token in zip(replicas, old, strict=True)]
    assert {text(token) for token in new} == {"a-tok-2"}
    assert [each.script.requests for each in replicas] == [2, 0, 0, 0, 0]


async def test_a_rejected_token_that_is_put_back_is_not_taken_again(server: Server) -> None:
    one = Replica(server.url)
    first = await one.source.get()
    (key,) = server.keys()
    with server.ask() as redis:
        stored = redis.get(key)
        for number in (2, 3):
            old = await one.source.get()
            redis.set(key, stored, px=1_000_000)
            assert text(await one.reject(old)) == f"a-tok-{number}"
            await one.clock.advance(31)
    assert first.rejected


@pytest.mark.parametrize("wall", [-200, 200])
async def test_another_replicas_replacement_is_taken_whatever_its_clock_says(
    server: Server, wall: float
) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    two.clock.wall_time += wall
    mine, yours = await one.source.get(), await two.source.get()
    await one.reject(mine)
    assert text(await two.reject(yours)) == "a-tok-2"
    assert two.script.requests == 0


async def test_a_refreshed_token_that_may_have_died_with_the_rejected_one_does_not_take_its_place(
    server: Server, start: Start
) -> None:
    one, two, three = (Replica(server.url, name) for name in "abc")
    start(one.source.run())
    await until(one.source.current)
    old, older = await two.source.get(), await three.source.get()
    await one.clock.advance(500)
    await until(lambda: text(one.source.current()) == "a-tok-2")
    assert text(await two.reject(old)) == "b-tok-1"  # all have been revoked
    assert text(await three.reject(older)) == "b-tok-1"
    assert text(await one.reject(one.script.issued[1])) == "b-tok-1"
    assert (one.script.requests, two.script.requests, three.script.requests) == (2, 1, 0)


# --- until when ---


@pytest.mark.parametrize(
    ("by_the_store", "wall", "left"),
    [
        (1000.0, 0.0, 1000.0),
        (100.0, 0.0, 100.0),
        (9000.0, 0.0, 1000.0),
        (1000.0, 300.0, 700.0),
        (1000.0, -300.0, 1000.0),
        (9000.0, -300.0, 1000.0),
    ],
)
async def test_the_earlier_of_what_was_sealed_and_what_the_store_says(
    server: Server, by_the_store: float, wall: float, left: float
) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    two.clock.wall_time += wall
    with server.ask() as redis:
        redis.pexpire(server.keys()[0], int(by_the_store * 1000))
    token = await two.grant.request()
    assert text(token) == "a-tok-1"
    assert token.requested_at + token.lifetime - two.clock.now() == pytest.approx(left, abs=1)
    assert token.requested_wall + token.lifetime - two.clock.wall() == pytest.approx(left, abs=1)


async def test_a_token_without_an_end_in_the_store_is_not_taken(server: Server) -> None:
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    await one.source.get()
    with server.ask() as redis:
        redis.persist(server.keys()[0])
    assert text(await two.source.get()) == "b-tok-1"
    assert two.told == ["unreadable", "fetched"]


# --- what is not ours ---


def _cut(value: bytes) -> bytes:
    return value[:-1]


def _changed(value: bytes) -> bytes:
    return value[:20] + bytes([value[20] ^ 1]) + value[21:]


@pytest.mark.parametrize("change", [_cut, _changed, lambda value: b"", lambda value: value * 9])
async def test_a_value_that_was_tampered_with_is_told_once_and_replaced(
    server: Server, change: Callable[[bytes], bytes]
) -> None:
    one, two, three = (Replica(server.url, name) for name in "abc")
    await one.source.get()
    (key,) = server.keys()
    with server.ask() as redis:
        redis.set(key, change(redis.get(key)), px=1_000_000)
    assert text(await two.source.get()) == "b-tok-1"
    assert text(await three.source.get()) == "b-tok-1"
    assert two.told == ["unreadable", "fetched"]


async def test_a_token_cannot_be_passed_off_as_another_identitys(server: Server) -> None:
    one, two = Replica(server.url, "a", identity="one"), Replica(server.url, "b", identity="two")
    await one.source.get()
    (key,) = server.keys()
    await two.source.get()
    (other,) = set(server.keys()) - {key}
    with server.ask() as redis:
        redis.set(other, redis.get(key), px=1_000_000)
    three = Replica(server.url, "c", identity="two")
    assert text(await three.source.get()) == "c-tok-1"
    assert three.told == ["unreadable", "fetched"]


@pytest.mark.parametrize(
    "told", [[], {}, {"access_token": "t\n", "lifetime": 9, "expires_at": 9e9}, {"access_token": 1}]
)
async def test_what_another_version_has_sealed_is_not_taken(server: Server, told: object) -> None:
    one = Replica(server.url)
    await one.source.get()
    sealed = Seal([KEY]).seal(json.dumps("one client").encode(), json.dumps(told).encode())
    with server.ask() as redis:
        redis.set(server.keys()[0], sealed, px=1_000_000)
    two = Replica(server.url, "b")
    assert text(await two.source.get()) == "b-tok-1"


# --- the lease ---


async def test_others_wait_for_the_one_that_fetches(server: Server, start: Start) -> None:
    replicas = [Replica(server.url, name, clock=SystemClock()) for name in "abcd"]
    replicas[0].script.gate.clear()
    first = start(replicas[0].source.get())
    await until(lambda: replicas[0].script.busy)
    rest = [start(each.source.get()) for each in replicas[1:]]
    await until(lambda: all(each.told == ["waited"] for each in replicas[1:]))
    replicas[0].script.gate.set()
    assert {text(token) for token in await asyncio.gather(first, *rest)} == {"a-tok-1"}
    assert all(each.told == ["waited", "hit"] for each in replicas[1:])
    assert not server.keys(":lease")


async def test_a_fetch_that_takes_longer_than_a_lease_keeps_it(server: Server, start: Start) -> None:
    one = Replica(server.url)
    one.script.gate.clear()
    fetching = start(one.source.get())
    await until(lambda: one.script.busy)
    (lease,) = server.keys(":lease")
    with server.ask() as redis:
        assert 0 < redis.pttl(lease) <= LEASE * 1000
        for _ in range(3):
            redis.pexpire(lease, 500)
            await one.clock.advance(RENEWAL)
            await until(lambda: redis.pttl(lease) > 2000)
    one.script.gate.set()
    assert text(await fetching) == "a-tok-1"
    assert one.clock.sleepers == 0


async def test_one_that_dies_while_it_fetches_costs_seconds_and_nothing_while_the_old_token_is_valid(
    server: Server, start: Start
) -> None:
    two = Replica(server.url, "b", clock=SystemClock())
    old = await two.source.get()
    (key,) = server.keys()
    with server.ask() as redis:
        redis.set(key.replace(b":token", b":lease"), "a dead one's", px=500)
    refreshing = start(two.grant.request())
    await until(lambda: "waited" in two.told)
    assert two.source.current() is old
    async with asyncio.timeout(10):
        assert text(await refreshing) == "b-tok-2"
    assert two.told[-1] == "fetched"


async def test_one_that_fell_asleep_does_not_overwrite_its_successors_token(
    server: Server, start: Start
) -> None:
    one, two, three = (Replica(server.url, name) for name in "abc")
    one.script.gate.clear()
    sleeping = start(one.source.get())
    await until(lambda: one.script.busy)
    with server.ask() as redis:
        redis.delete(*server.keys(":lease"))  # it has lapsed
    assert text(await two.source.get()) == "b-tok-1"
    one.script.gate.set()
    assert text(await sleeping) == "a-tok-1"
    assert one.told == ["fallback"]
    assert text(await three.source.get()) == "b-tok-1"


async def test_a_failure_and_an_end_give_the_lease_back(server: Server, start: Start) -> None:
    one = Replica(server.url)
    one.script.answers.append(down())
    with pytest.raises(TokenError) as failure:
        await one.grant.request()
    assert (failure.value.__context__, failure.value.__cause__) == (None, None)
    assert not server.keys()
    one.script.gate.clear()
    fetching = start(one.grant.request())
    await until(lambda: one.script.busy)
    assert server.keys(":lease")
    fetching.cancel()
    await asyncio.wait([fetching])
    assert not server.keys()
    assert one.clock.sleepers == 0


async def test_a_lease_without_end_is_waited_for_as_long_as_a_token_request_may_take(
    server: Server,
) -> None:
    one = Replica(server.url, clock=SystemClock(), patience=0.2)
    await one.source.get()
    (key,) = server.keys()
    with server.ask() as redis:
        redis.rename(key, key.replace(b":token", b":lease"))
        redis.persist(key.replace(b":token", b":lease"))
    assert text(await one.grant.request()) == "a-tok-2"
    assert one.told[1:] == ["waited", "fallback"]


async def test_what_one_gets_beside_a_lease_of_which_nothing_comes_reaches_the_others(
    server: Server, start: Start
) -> None:
    stuck = Replica(server.url, "s")
    old = await stuck.source.get()
    two, three = (Replica(server.url, name, clock=SystemClock(), patience=0.2) for name in "bc")
    mine, yours = await two.source.get(), await three.source.get()
    stuck.script.gate.clear()
    waiting = start(stuck.reject(old))
    await until(lambda: stuck.script.busy)
    assert text(await two.reject(mine)) == "b-tok-1"
    assert text(await three.reject(yours)) == "b-tok-1"
    assert (two.told, three.told) == (["hit", "waited", "fallback"], ["hit", "hit"])
    stuck.script.gate.set()
    assert text(await waiting) == "s-tok-2"  # its lease is good all the same
    assert stuck.told == ["fetched", "fetched"]


async def test_what_one_gets_beside_a_lease_does_not_replace_what_was_put_there_meanwhile(
    server: Server, start: Start
) -> None:
    one, three = Replica(server.url, "a"), Replica(server.url, "c")
    two = Replica(server.url, "b", clock=SystemClock(), patience=0.2)
    one.script.gate.clear()
    first = start(one.source.get())
    await until(lambda: one.script.busy)
    two.script.gate.clear()
    second = start(two.source.get())
    await until(lambda: two.script.busy)
    one.script.gate.set()
    assert text(await first) == "a-tok-1"
    two.script.gate.set()
    assert text(await second) == "b-tok-1"
    assert text(await three.source.get()) == "a-tok-1"


async def test_no_connection_stays_behind(server: Server) -> None:
    one = Replica(server.url)
    await one.source.get()
    await one.reject(await one.source.get())
    with server.ask() as redis:
        await until(lambda: len(redis.client_list()) == 1)


async def test_wherever_it_is_cancelled_no_connection_and_no_task_stays_behind(server: Server) -> None:
    tasks = asyncio.all_tasks()
    for delay in range(100):
        one = Replica(server.url)
        one.script.gate.clear()
        asking = asyncio.create_task(one.grant.request())
        await asyncio.sleep(delay / 20_000)
        asking.cancel()
        await asyncio.wait([asking])
        await one.grant.close()
        assert asyncio.all_tasks() == tasks
        assert one.clock.sleepers == 0
    with server.ask() as redis:
        await until(lambda: len(redis.client_list()) == 1)
