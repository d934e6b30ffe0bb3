"""What must not be there when a request is over."""

import asyncio
import json
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from tests.support.caller import Answer, fetch
from tests.support.product import Product


def left(product: Product) -> dict[str, object]:
    """What still belongs to some request."""
    app = product.app
    counts = app._pool.counts
    memory = app._forwarder.replay_memory
    found: dict[str, object] = {
        "active": counts["active"],
        "opening": counts["opening"],
        "waiting": len(app._pool._waiting),
        "memory": app._settings.replay_memory - memory._free,
        "callers": len(app._callers.open),
        "connections that the pool does not know": product.fumage.open - counts["idle"],
    }
    return {name: value for name, value in found.items() if value}


async def until(
    predicate: Callable[[], object], told: Callable[[], object] = lambda: "in vain", *, seconds: float = 10
) -> None:
    """Turn the loop until it is true: what is looked at is inside the product, and beats for nobody."""
    try:
        async with asyncio.timeout(seconds):
            while not predicate():  # noqa: ASYNC110
                await asyncio.sleep(0)
    except TimeoutError:
        raise AssertionError(told()) from None


async def nothing_left(product: Product) -> None:
    """Fails unless all connections are idle or closed, and all memory is given back, in a moment."""
    await until(lambda: not left(product), lambda: f"left over: {left(product)}")


async def ready(product: Product) -> None:
    """One request has been served: token-1 is in use, and a connection waits."""
    assert (await fetch(product.port)).status == 200
    product.fumage.seen.clear()
    product.records.clear()


def issue(answer: Answer) -> tuple[str, str]:
    """Severity and code of an answer that is the proxy's own OperationOutcome."""
    assert answer["Content-Type"] == "application/fhir+json"
    assert parsedate_to_datetime(answer["Date"] or "")
    told = answer.json()
    assert told["resourceType"] == "OperationOutcome"
    (only,) = told["issue"]
    assert answer["X-Request-Id"] in only["diagnostics"]
    json.dumps(told).encode("ascii")
    return only["severity"], only["code"]
