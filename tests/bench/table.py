"""A run as Markdown. Pure."""

from collections.abc import Iterable, Sequence

from tests.bench.figures import FIGURES, PRODUCT, Results, Samples, ratios, spread
from tests.bench.goals import reached

_RATIO = "to ours"  # a column that is computed: a party's CPU of a GET to fumage-proxy's, round by round
_UNDER_LOAD = (
    "get.cpu_us",
    _RATIO,
    "get.requests",
    "get.p50_ms",
    "get.p99_ms",
    "post.cpu_us",
    "post.requests",
    "bulk.mb",
    "bulk.cpu_gb",
)
_BESIDE_THAT = ("single.p50_ms", "single.p99_ms", "rss.idle", "rss.loaded", "start.ms")
_HEADLINES = ("get.cpu_us", _RATIO, "single.p50_ms", "get.p99_ms", "bulk.cpu_gb", "rss.loaded", "start.ms")
_WITH_SPREAD = frozenset({"get.cpu_us", "post.cpu_us", "bulk.cpu_gb", "start.ms"})


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are figures."""
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def figures_table(parties: dict[str, Samples], tokens: dict[str, str], columns: Sequence[str]) -> str:
    """A line a party; columns that nobody has a figure for are left out."""
    ours = parties.get(PRODUCT, {}).get("get.cpu_us")
    shown = [name for name in columns if any(_cell(each, name, ours) for each in parties.values())]
    header = ["", "bearer", *(FIGURES[name].title if name in FIGURES else name for name in shown)]
    rows = [
        [party, tokens[party], *(_cell(samples, name, ours) or "-" for name in shown)]
        for party, samples in parties.items()
    ]
    return markdown(header, rows)


def _cell(samples: Samples, column: str, ours: list[float] | None) -> str:
    if column == _RATIO:
        theirs = samples.get("get.cpu_us")
        return f"{ratios(theirs, ours).median:.2f}" if theirs and ours else ""
    if column not in samples:
        return ""
    found, digits = spread(samples[column]), FIGURES[column].digits
    text = f"{found.median:,.{digits}f}"
    return f"{text} ± {found.half:.{digits}f}" if column in _WITH_SPREAD else text


def goals_table(results: Results) -> str:
    """What was aimed for, and what came of it."""
    return markdown(
        ["goal", "at most", "measured", "quartiles", ""],
        [
            [
                goal.title,
                f"{goal.limit:g}",
                f"{found.median:.3g}",
                f"{found.low:.3g} to {found.high:.3g}",
                "reached" if found.median <= goal.limit else "missed",
            ]
            for goal, found in reached(results["figures"], PRODUCT)
        ],
    )


def relay_table(relay: Samples) -> str:
    """The script without a session, 30 ms away from Fumage and the EMR."""
    rows = []
    for way, calls in relay.items():
        found = spread(calls)
        rows.append([way, f"{found.median:.0f}", f"{min(calls):.0f}", f"{max(calls):.0f}"])
    return markdown(["one call, 30 ms (round trip, TLS) from Fumage", "median ms", "least", "most"], rows)


def growth_table(growth: dict[str, Samples]) -> str:
    """Each curve at its points."""
    points = sorted({int(point) for curve in growth.values() for point in curve})
    rows = [[name, *(_median(curve.get(str(point))) for point in points)] for name, curve in growth.items()]
    return markdown(["µs CPU a GET over https, by connections", *map(str, points)], rows)


def _median(values: Sequence[float] | None) -> str:
    return f"{spread(values).median:.0f}" if values else ""


def circumstances(results: Results) -> str:
    """What the figures belong to, in a paragraph."""
    machine, python, plan = results["machine"], results["python"], results["plan"]
    peers = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"load before the run {machine['load_before']}. {python['implementation']} {python['version']} "
        f"(optimised build: {python['optimised']}; data path compiled: {python['compiled']}), uvloop "
        f"{python['uvloop']}, httptools {python['httptools']}, aiohttp {python['aiohttp']}, "
        f"{python['openssl']}; {peers}. Medians of {plan['rounds']} interleaved rounds of "
        f"{plan['seconds']} s at {plan['connections']} connections, ± half of the distance between the "
        f"quartiles."
    )


def report(results: Results) -> str:
    """The whole run: `results.md`."""
    parts = ["# What a run of `python -m tests.bench` gave", circumstances(results), _READING]
    if results["skipped"]:
        left_out = "; ".join(f"{who} ({why})" for who, why in results["skipped"].items())
        parts.append(f"Left out: {left_out}.")
    for scheme, parties in results["figures"].items():
        parts += [f"## Upstream over {scheme}"]
        for columns in (_UNDER_LOAD, _BESIDE_THAT):
            parts.append(figures_table(parties, results["tokens"], columns))
    if results["relay"]:
        parts += ["## A script without a session", relay_table(results["relay"])]
    if results["growth"]:
        parts += ["## Many connections", "![CPU of a request, by number of connections](growth.svg)"]
        parts.append(growth_table(results["growth"]))
    if any(reached(results["figures"], PRODUCT)):
        parts += ["## Goals", goals_table(results)]
    return "\n\n".join(parts) + "\n"


_READING = """\
Everybody writes a line a request into an access log (in memory: no disk is measured), and runs on one core,
which it shares with nobody; only `envoy-all-cores`, Envoy with as many workers as it starts by itself, may
run on all of them. Who sends a fixed header has no token logic. A second of load that is not measured goes
before, in each round, so that connections are open. CPU is that of all processes of a party, from the
scheduler's nanoseconds. Where a party needs less CPU than load and upstream, which share another core,
these bound its throughput. What a party adds at one connection is the difference to a direct connection to
the upstream, TLS and bearer included. Quote ratios: absolute figures belong to the machine and the moment."""


def readme_part(results: Results) -> str:
    """What the README shows."""
    parties = results["figures"].get("https", {})
    parts = [
        "![CPU of a request, by party](tests/bench/cpu.svg)",
        figures_table(parties, results["tokens"], _HEADLINES),
    ]
    if results["relay"]:
        parts.append(relay_table(results["relay"]))
    parts.append(
        "Over https, everything on: log, metrics, guard, timeouts. "
        f"{circumstances(results)} All figures, and how to read them: [results.md](tests/bench/results.md)."
    )
    return "\n\n".join(parts)
