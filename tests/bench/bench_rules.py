"""What naming and permitting a request costs: `python -m tests.bench.bench_rules [allow]`.

CPU microseconds a request, median and quartiles over several rounds. "route" is what the log line and the
figures need, "permit" what `allow` costs before the request goes on, "names" the names of the query's
parameters in the log line. Every request names another id, so that nothing is known from the one before.
"""

import statistics
import sys
import time
import uuid
from collections.abc import Callable

from proxy.rules.fhir import parameter_names, route
from proxy.rules.permissions import Permissions

ALLOW = "Patient.cruds Observation.cruds Practitioner.r Task.crus DiagnosticReport.$create-lab-report"
REQUESTS = 2000
ROUNDS = 25

JSON = {b"content-type": b"application/fhir+json", b"content-length": b"900", b"host": b"localhost:3447"}
FORM = JSON | {b"content-type": b"application/x-www-form-urlencoded"}
NONE = {b"host": b"localhost:3447"}
SEARCH_FORM = b"family=Smith&birthdate=1980-11-13&_count=50"

# Kind: method, target (`{}` is an id), fields.
KINDS: dict[str, tuple[bytes, str, dict[bytes, bytes]]] = {
    "read": (b"GET", "/Patient/{}", NONE),
    "vread": (b"GET", "/Patient/{}/_history/3", NONE),
    "attachment": (b"GET", "/Patient/{}/files/photo", NONE),
    "search": (b"GET", "/Observation?patient=Patient/{}&category=laboratory&_count=50", NONE),
    "search, encoded": (
        b"GET",
        "/Observation?patient=Patient%2F{}&code=http%3A%2F%2Floinc.org%7C2339-0&date=ge2024-01-01&_sort=-date",
        NONE,
    ),
    "next page": (b"GET", "/Patient?_count=10&_offset=120&_security={}", NONE),
    "include": (b"GET", "/Observation?patient={}&_include=Observation:patient", NONE),
    "POST _search": (b"POST", "/Patient/_search", FORM),
    "create": (b"POST", "/Task", JSON),
    "update": (b"PUT", "/Task/{}", JSON),
    "operation": (b"POST", "/DiagnosticReport/$create-lab-report", JSON),
    "operation on one": (b"GET", "/Patient/{}/$everything", NONE),
    "compartment": (b"GET", "/Patient/{}/Observation", NONE),
}


def cost(action: Callable[[bytes], object], targets: list[bytes]) -> tuple[float, float, float]:
    """Microseconds a call: lower quartile, median, upper quartile of the rounds."""
    for target in targets:
        action(target)
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        for target in targets:
            action(target)
        rounds.append((time.process_time_ns() - start) / len(targets) / 1000)
    low, middle, high = statistics.quantiles(rounds, n=4)
    return low, middle, high


def targets_of(pattern: str) -> list[bytes]:
    """As many as there are requests, each with an id of its own."""
    return [pattern.replace("{}", str(uuid.uuid4())).encode() for _ in range(REQUESTS)]


def actions(
    permissions: Permissions, method: bytes, noted: dict[bytes, bytes]
) -> dict[str, Callable[[bytes], object]]:
    """What is done with one request, by the name of its column."""

    def permit(target: bytes) -> None:
        permissions.check(method, target, noted)
        if permissions.needs_body(method, target) == "search form":
            permissions.check_search_form(target, SEARCH_FORM)

    return {
        "route": lambda target: route(method, target.partition(b"?")[0]),
        "permit": permit,
        "names": lambda target: parameter_names(target.partition(b"?")[2]),
    }


def main() -> None:
    permissions = Permissions.parse(sys.argv[1] if len(sys.argv) > 1 else ALLOW)
    empty = cost(lambda target: None, targets_of("/Patient/{}"))[1]
    print(f"Python {sys.version.split()[0]}; a call of nothing, {empty:.2f} µs, is taken off\n")
    print("| kind | route | permit | both | names | quartiles of both |")
    print("|---|---|---|---|---|---|")
    for kind, (method, pattern, noted) in KINDS.items():
        done = actions(permissions, method, noted)
        targets = targets_of(pattern)
        found = {name: cost(action, targets) for name, action in done.items()}
        both = [found["route"][at] + found["permit"][at] - 2 * empty for at in range(3)]
        row = [f"{found[name][1] - empty:.2f}" for name in done]
        print(f"| {kind} | {row[0]} | {row[1]} | {both[1]:.2f} | {row[2]} | {both[0]:.2f} to {both[2]:.2f} |")


if __name__ == "__main__":
    main()
