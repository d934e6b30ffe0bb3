"""It grows straight: CPU of a GET over https as connections become many, on either side of the proxy."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from tests.bench.figures import PRODUCT, Samples
from tests.bench.load import LOADS, apply_load
from tests.bench.machine import wait_for
from tests.bench.parties import parties
from tests.bench.rounds import Plan, Running, start, tell
from tests.bench.upstream import BODY, Upstream
from tests.bench.verify import PATIENT

CALLERS = (1, 4, 16, 64, 256, 1000)
POOLS = (10, 30, 100, 300, 1000)
FEW, MANY = 32, 1000  # callers, while the pool is the one that grows
IDLE_POOL = f"{PRODUCT}: connections in its pool, {FEW} callers"
BUSY_POOL = f"{PRODUCT}: connections in its pool, {MANY} callers"
_ROUNDS = 2
_SECONDS = 2  # of a load; a thousand connections take their time to open
_WITH_CALLERS = (PRODUCT, "envoy", "nginx")


def measure(upstream: Upstream, plan: Plan, python: str) -> dict[str, Samples]:
    """Curves by their title: how many connections -> µs CPU a GET, in each round."""
    names = [name for name in _WITH_CALLERS if name in plan.parties]
    curves: dict[str, Samples] = {each: {} for each in (*map(title, names), IDLE_POOL, BUSY_POOL)}
    for number in range(min(plan.rounds, _ROUNDS)):
        tell(f"growth: round {number + 1}")
        for name in names:
            _with_callers(upstream, plan, name, python, curves[title(name)])
        for size in POOLS:
            _with_pool(upstream, plan, python, size, curves)
    return curves


def title(name: str) -> str:
    """Of a party's curve over the number of callers."""
    return f"{name}: callers"


def _with_callers(upstream: Upstream, plan: Plan, name: str, python: str, curve: Samples) -> None:
    with _running(upstream, plan, name, python, pool=MANY) as one:
        for callers in CALLERS:
            _cost(one, plan, callers)  # opens what it needs: the handshakes are not what is asked for
            curve.setdefault(str(callers), []).append(_cost(one, plan, callers))


def _with_pool(upstream: Upstream, plan: Plan, python: str, size: int, curves: dict[str, Samples]) -> None:
    with _running(upstream, plan, PRODUCT, python, pool=size) as one:
        _cost(one, plan, MANY)  # fills the pool
        curves[BUSY_POOL].setdefault(str(size), []).append(_cost(one, plan, MANY))
        curves[IDLE_POOL].setdefault(str(size), []).append(_cost(one, plan, FEW))


@contextmanager
def _running(upstream: Upstream, plan: Plan, name: str, python: str, *, pool: int) -> Iterator[Running]:
    one = start(upstream, "https", replace(plan, parties=parties(python, pool=pool)), name)
    with closing(one.server):
        wait_for(f"http://127.0.0.1:{one.port}{PATIENT}", expect=BODY)
        yield one


def _cost(one: Running, plan: Plan, callers: int) -> float:
    return apply_load(
        one.server, one.port, LOADS["get"], connections=callers, seconds=_SECONDS, cpu=plan.cores.load
    )["cpu_us"]
