"""Hundreds of replicas in simulated time: how often they ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.bench.simulated import LIFETIME, Costs, Sidecars, run

MANY = 300
COSTS = Costs(connect=65e-6, look=15e-6, script=11e-6)


@asynccontextmanager
async def running(costs: Costs | None) -> AsyncIterator[Sidecars]:
    those = Sidecars(MANY, costs)
    those.start(within=60)
    yield those
    await those.end()


def test_one_token_request_at_start_and_one_a_refresh() -> None:
    async def scenario() -> None:
        async with running(COSTS) as those:
            await asyncio.sleep(LIFETIME * 0.4)
            assert len(those.emr.asked) == 1
            await asyncio.sleep(LIFETIME * 0.2)  # in which all refresh, each at a time of its own
            assert len(those.emr.asked) == 2
            await asyncio.sleep(LIFETIME * 2)
            assert len(those.emr.asked) <= 7

    run(scenario())


def test_one_token_request_a_revocation() -> None:
    async def scenario() -> None:
        async with running(COSTS) as those:
            await asyncio.sleep(3600)
            waits = await those.revoke(every=1.0)
            assert (len(those.emr.asked), those.refused) == (2, 0)
            assert max(waits) < 3

    run(scenario())


def test_after_an_outage_of_the_emr_the_first_token_that_anybody_gets_is_everybodys() -> None:
    async def scenario() -> None:
        async with running(COSTS) as those:
            await asyncio.sleep(3600)
            those.emr.down = True
            asyncio.get_running_loop().call_later(120, setattr, those.emr, "down", False)
            assert (
                max(await those.revoke(every=5.0)) < 120 + 75
            )  # the longest pause, with its jitter, and a call
            assert those.emr.issued < 10

    run(scenario())


def test_after_an_outage_of_the_store_they_share_again() -> None:
    async def scenario() -> None:
        async with running(COSTS) as those:
            assert those.store
            await asyncio.sleep(LIFETIME * 0.48)
            those.store.down = True
            await asyncio.sleep(600)
            those.store.down = False
            own = len(those.emr.asked)
            assert own < MANY / 2
            await asyncio.sleep(LIFETIME * 2)
            assert len(those.emr.asked) - own < 10

    run(scenario())


def test_without_a_store_jitter_spreads_the_refreshes() -> None:
    async def scenario() -> None:
        async with running(None) as those:
            await asyncio.sleep(LIFETIME * 0.6)
            first = [at for at in those.emr.asked if at > 60]
            assert len(first) == MANY
            assert max(first) - min(first) > LIFETIME * 0.09

    run(scenario())
