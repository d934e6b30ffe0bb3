from collections.abc import AsyncIterator

import pytest

from tests.support.emr import EMR
from tests.support.upstream import Upstream


@pytest.fixture
async def fumage() -> AsyncIterator[Upstream]:
    async with Upstream() as double:
        yield double


@pytest.fixture
async def emr() -> AsyncIterator[EMR]:
    async with EMR() as double:
        yield double
