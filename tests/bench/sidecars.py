"""What many sidecars cost the EMR and a shared store, with and without it: figures, and a plot beside this.

    python -m tests.bench.sidecars [--sidecars 10000]

The sidecars are the product's own token sources and shared grants in simulated time (simulated.py). What a
question costs the store is measured first, on a real Valkey. Some minutes; SIDECARS.md has what came of it.
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.token.seal import Seal
from proxy.token.store import RedisStore
from tests.bench.simulated import Costs, Sidecars, run
from tests.bench.svg import COLOURS, Line, Panel, stacked
from tests.token.server import Server

ROLLOUT = 600.0  # s in which all are started
HOUR, DAY = 3600.0, 86400.0
CALLED = 5.0  # s between two requests that a sidecar gets
OUTAGE = 30.0  # s


# --- what a store costs, measured ---


@dataclass
class Measured:
    costs: Costs
    bytes: int  # of a token with its key, as MEMORY USAGE tells
    sealed: int
    connection: int  # bytes of memory for a client


async def measure(folder: Path, times: int = 2000) -> Measured:
    server = Server(folder)
    with server.ask() as redis:
        redis.execute_command("ACL", "SETUSER", "u", "on", ">p", "~fumage-proxy:*", "+@all")
        stores = [RedisStore(f"redis://u:p@127.0.0.1:{server.port}") for _ in range(20)]
        sealed = Seal(["k" * 32]).seal(
            b"identity",
            b'{"access_token": "%b", "lifetime": 36000.0, "expires_at": 1800036000.25}' % (b"t" * 30),
        )
        await stores[0].lease("n" * 32, "h" * 32, 3)
        await stores[0].publish("n" * 32, "h" * 32, sealed, 1000)
        size = sum(redis.memory_usage(key) for key in server.keys(":token"))

        def used() -> float:
            cpu = redis.info("cpu")
            return float(cpu["used_cpu_sys"] + cpu["used_cpu_user"])

        async def each(question: str) -> float:
            """Seconds of the server's CPU for one of these."""

            async def ask(store: RedisStore) -> None:
                for _ in range(times // len(stores)):
                    if question == "script":
                        await store.renew("n" * 32, "h" * 32, 3)
                    else:
                        await store.look(["n" * 32])
                    if question == "connect":
                        await store.rest()

            before = used()
            await asyncio.gather(*map(ask, stores))
            return (used() - before) / times

        await each("look")  # connected
        look, script = await each("look"), await each("script")
        memory = redis.info("memory")["mem_clients_normal"] // len(redis.client_list())
        connect = await each("connect") - look
        for store in stores:
            await store.rest()
    server.stop()
    return Measured(Costs(connect=connect, look=look, script=script), size, len(sealed), memory)


# --- scenarios ---


@dataclass
class Outcome:
    asked: list[float]  # when the EMR was
    commands: Counter[int]  # of the store, by second
    gave_up: int
    refused: int
    busy: float  # s of the store's CPU
    waits: list[float]


def _outcome(those: Sidecars, since: float, waits: Sequence[float] = ()) -> Outcome:
    commands: Counter[int] = Counter()
    store = those.store
    for at, count in store.asked if store else ():
        if at >= since:
            commands[int(at - since)] += count
    asked = [at - since for at in those.emr.asked if at >= since]
    return Outcome(
        asked,
        commands,
        store.gave_up if store else 0,
        those.refused,
        store.busy if store else 0.0,
        sorted(waits),
    )


async def day(number: int, costs: Costs | None, *, jitter: bool = True, hours: float = 24) -> Outcome:
    """A rollout, and what follows."""
    those = Sidecars(number, costs, jitter=jitter)
    those.start(ROLLOUT)
    await asyncio.sleep(hours * HOUR)
    outcome = _outcome(those, 0.0)
    await those.end()
    return outcome


async def revocation(
    number: int, costs: Costs | None, *, every: float = CALLED, down: float = 0.0
) -> Outcome:
    """All tokens are void of a sudden, an hour after the rollout; the EMR is `down` for so long from then."""
    those = Sidecars(number, costs)
    those.start(ROLLOUT)
    await asyncio.sleep(HOUR)
    began = those.clock.now()
    those.emr.down = down > 0
    up = asyncio.get_running_loop().call_later(down, setattr, those.emr, "down", False)
    waits = await those.revoke(every)
    up.cancel()
    outcome = _outcome(those, began, waits)
    await those.end()
    return outcome


async def store_outage(number: int, costs: Costs, minutes: float = 10) -> Outcome:
    """The store is away in the midst of the first refreshes."""
    those = Sidecars(number, costs)
    assert those.store
    those.start(ROLLOUT)
    await asyncio.sleep(4.8 * HOUR)
    began = those.clock.now()
    those.store.down = True
    await asyncio.sleep(minutes * 60)
    those.store.down = False
    await asyncio.sleep(12 * HOUR)
    outcome = _outcome(those, began)
    await those.end()
    return outcome


# --- what is told ---


def peak(times: Iterable[float]) -> int:
    return max(Counter(int(at) for at in times).values(), default=0)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(title: str, *cells: str) -> None:
    print(f"\n{title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def tell_days(number: int, costs: Costs) -> list[tuple[str, Outcome]]:
    days = [
        ("no store, no jitter", run(day(number, None, jitter=False))),
        ("no store", run(day(number, None))),
        ("shared store", run(day(number, costs))),
    ]
    head(
        f"A day of {number} sidecars that were rolled out within {ROLLOUT / 60:g} min",
        *("", "token requests", "most in 1 s after the rollout", "store: commands", "most in 1 s", "CPU s"),
    )
    for name, it in days:
        later = [at for at in it.asked if at > ROLLOUT + 60]
        row(
            *(name, len(it.asked), peak(later)),
            *(it.commands.total(), max(it.commands.values(), default=0), f"{it.busy:.1f}"),
        )
    return days


def tell_storms(number: int, costs: Costs) -> list[tuple[str, Outcome]]:
    head(
        f"All tokens revoked at once; each sidecar is called every {CALLED:g} s",
        *(
            "",
            "token requests",
            "half served after",
            "all after",
            "callers refused",
            "most store commands in 1 s",
        ),
        "gave up on the store",
    )
    storms = []
    for name, store, how in (
        ("no store", None, {}),
        ("shared store", costs, {}),
        ("shared store, called 10 times a second", costs, {"every": 0.1}),
        (f"no store, EMR down for {OUTAGE:g} s", None, {"down": OUTAGE}),
        (f"shared store, EMR down for {OUTAGE:g} s", costs, {"down": OUTAGE}),
    ):
        it = run(revocation(number, store, **how))
        storms.append((name, it))
        row(
            *(name, len(it.asked), f"{it.waits[len(it.waits) // 2]:.1f} s", f"{it.waits[-1]:.1f} s"),
            *(it.refused, max(it.commands.values(), default=0), it.gave_up),
        )
    return storms


def plot(days: Sequence[tuple[str, Outcome]], storms: Sequence[tuple[str, Outcome]]) -> str:
    def by_minutes(it: Outcome) -> list[tuple[float, float]]:
        counts = Counter(int(at // 300) for at in it.asked)
        return [(slot / 12, counts[slot] / 300) for slot in range(int(DAY / 300))]

    def served(it: Outcome) -> list[tuple[float, float]]:
        count = len(it.waits)
        step = max(1, count // 200)
        return [
            (max(it.waits[at], 0.1), 100 * (at + 1) / count) for at in (*range(0, count, step), count - 1)
        ]

    shared, alone, plain, often, *_ = COLOURS
    styles = ((alone, False), (shared, False), (often, False), (alone, True), (shared, True))
    return stacked(
        Panel(
            "Token requests a second (mean of 5 min), by hours since the rollout",
            [
                Line(name, by_minutes(it), colour)
                for (name, it), colour in zip(days, (plain, alone, shared), strict=True)
            ],
            labels=[0, 4, 8, 12, 16, 20, 24],
        ),
        Panel(
            "Sidecars with a valid token (%), by seconds since all tokens were revoked",
            [
                Line(name, served(it), colour, dashed)
                for (name, it), (colour, dashed) in zip(storms, styles, strict=True)
            ],
            labels=[0.1, 1, 10, 100, 1000, 2000],
            logarithmic=True,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sidecars", type=int, default=10_000)
    number: int = parser.parse_args().sidecars
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder)))
    costs = found.costs
    head("A real Valkey, measured", "", "CPU", "commands")
    for name, seconds, what in (
        ("connect, with user and password, and close", costs.connect, "connect"),
        ("look for the token", costs.look, "look"),
        ("renew or release a lease, publish or offer a token", costs.script, "script"),
    ):
        row(name, f"{seconds * 1e6:.0f} µs", costs.commands[what])
    print(f"\nA token: {found.sealed} bytes sealed, {found.bytes} with key and expiry; ", end="")
    print(f"a connection, open for some milliseconds at a refresh: {found.connection} bytes.")
    days, storms = tell_days(number, costs), tell_storms(number, costs)
    outage = run(store_outage(number, costs))
    during = sum(at <= 600 for at in outage.asked)
    print(f"\nThe store away for 10 min amid the refreshes: {during} token requests, and ", end="")
    print(f"{len(outage.asked) - during} in the 12 h after it was back.")
    Path(__file__).with_suffix(".svg").write_text(plot(days, storms))


if __name__ == "__main__":
    main()
