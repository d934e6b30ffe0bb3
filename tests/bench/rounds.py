"""Interleaved rounds: every party is measured in every round, so that a slow minute is everybody's."""

import sys
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from tests.bench.figures import PRODUCT, Samples
from tests.bench.load import LOADS, apply_load
from tests.bench.machine import Cores, Server, wait_for
from tests.bench.parties import Party
from tests.bench.single import Caller, added, direct, percentiles
from tests.bench.upstream import BODY, Upstream
from tests.bench.verify import PATIENT, WrongAnswer, verify
from tests.support import unused_port

# What is kept of a load, under which name. Half the time is enough for what is no GET.
_KEPT = {
    "get": ("cpu_us", "requests", "p50_ms", "p99_ms"),
    "post": ("cpu_us", "requests"),
    "bulk": ("mb", "cpu_gb"),
}
MEASURES = (*_KEPT, "single", "start")  # of figures.MEASURES, those that are done here
_START_ROUNDS = 5


@dataclass(frozen=True)
class Plan:
    """How long, and of whom; `measures` are names of figures.MEASURES."""

    parties: Mapping[str, Party]
    measures: Collection[str]
    rounds: int
    seconds: int
    connections: int
    cores: Cores

    @property
    def short(self) -> int:
        """Seconds of a load that matters less."""
        return max(1, self.seconds // 2)

    def core(self, party: Party) -> int | None:
        return None if party.on_any_core else self.cores.party


@dataclass(frozen=True)
class Running:
    server: Server
    port: int


def tell(words: str) -> None:
    """Progress, which is no result: to stderr."""
    print(words, file=sys.stderr, flush=True)


def measure(upstream: Upstream, scheme: str, plan: Plan, skipped: dict[str, str]) -> dict[str, Samples]:
    """All figures of all parties; who does not do its job is left out, and said in `skipped`."""
    found: dict[str, Samples] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        running = _start_all(stack, upstream, scheme, plan, skipped)
        for name, one in running.items():
            found[name]["rss.idle"].append(one.server.memory() / 1e6)
        for number in range(plan.rounds):
            tell(f"{scheme}: round {number + 1} of {plan.rounds}")
            _round(upstream, scheme, plan, _rotated(running, number), found)
        for name, one in running.items():
            found[name]["rss.loaded"].append(one.server.memory() / 1e6)
    if "start" in plan.measures:
        _starts(upstream, scheme, plan, list(found), found)
    return {name: dict(samples) for name, samples in found.items()}


def start(upstream: Upstream, scheme: str, plan: Plan, name: str) -> Running:
    party, port = plan.parties[name], unused_port()
    return Running(party.start(upstream, scheme, port, plan.core(party)), port)


def _start_all(
    stack: ExitStack, upstream: Upstream, scheme: str, plan: Plan, skipped: dict[str, str]
) -> dict[str, Running]:
    running = {}
    for name in plan.parties:
        one = start(upstream, scheme, plan, name)
        stack.enter_context(closing(one.server))
        try:
            wait_for(f"http://127.0.0.1:{one.port}{PATIENT}", expect=BODY)
            verify(one.port)
        except (TimeoutError, WrongAnswer) as error:
            if name == PRODUCT:
                raise
            tell(f"{name} is left out: {error}")
            skipped[f"{name} ({scheme})"] = str(error)
        else:
            running[name] = one
    return running


def _rotated(running: Mapping[str, Running], by: int) -> list[tuple[str, Running]]:
    """Nobody is always the one that follows the heaviest."""
    pairs = list(running.items())
    by %= len(pairs)
    return pairs[by:] + pairs[:by]


def _round(
    upstream: Upstream,
    scheme: str,
    plan: Plan,
    running: Sequence[tuple[str, Running]],
    found: Mapping[str, Samples],
) -> None:
    for name, one in running:
        _load(one, "get", plan, 1)  # opens the connections anew that have been idle for too long meanwhile
        for kind, kept in _KEPT.items():
            if kind in plan.measures:
                cost = _load(one, kind, plan, plan.seconds if kind == "get" else plan.short)
                for figure in kept:
                    found[name][f"{kind}.{figure}"].append(cost[figure])
    if "single" in plan.measures:
        directly = _latencies(direct(upstream, scheme), plan)
        for name, one in running:
            for figure, value in added(_latencies(Caller(one.port), plan), directly).items():
                found[name][f"single.{figure}"].append(value)


def _load(one: Running, kind: str, plan: Plan, seconds: int) -> dict[str, float]:
    return apply_load(
        one.server,
        one.port,
        LOADS[kind],
        connections=plan.connections,
        seconds=seconds,
        cpu=plan.cores.load,
    )


def _latencies(caller: Caller, plan: Plan) -> dict[str, float]:
    with closing(caller):
        return percentiles(caller.latencies(plan.short))


def _starts(
    upstream: Upstream, scheme: str, plan: Plan, names: Sequence[str], found: Mapping[str, Samples]
) -> None:
    for number in range(min(plan.rounds, _START_ROUNDS)):
        tell(f"{scheme}: start {number + 1}")
        for name in names:
            found[name]["start.ms"].append(_start_to_answer(upstream, scheme, plan, name))


def _start_to_answer(upstream: Upstream, scheme: str, plan: Plan, name: str) -> float:
    began = time.monotonic()
    one = start(upstream, scheme, plan, name)
    with closing(one.server):
        wait_for(f"http://127.0.0.1:{one.port}{PATIENT}", expect=BODY)
        return (time.monotonic() - began) * 1e3
