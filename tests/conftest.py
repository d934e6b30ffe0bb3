"""Tests run on the loop that the product runs on; FUMAGE_TEST_LOOP=asyncio takes asyncio's own instead."""

import asyncio
import os
from collections.abc import Callable, Mapping

from hypothesis import HealthCheck, settings

from proxy.loop import loop_factory

# A busy machine is no finding.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    wanted = os.environ.get("FUMAGE_TEST_LOOP") != "asyncio" and loop_factory()
    return {"loop": wanted or asyncio.new_event_loop}
