"""The user's own figure: what a call costs a script that opens a connection per call, far from Fumage.

    python -m tests.bench.relay [--python PYTHON]

Fumage and the EMR are 30 ms away (round trip, handshakes included; `tests.bench.delay`) and speak TLS. The
EMR answers at once here; a real one takes 0.3 to 0.4 s for a token, so a token per call costs that much more.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import requests

from tests.bench.figures import Samples
from tests.bench.installed import installed
from tests.bench.machine import Server, wait_for
from tests.bench.parties import start_fumage_proxy
from tests.bench.upstream import BODY, TOKEN, Upstream, start_upstream
from tests.bench.verify import PATIENT
from tests.support import unused_port

CALLS = 50
ONE_WAY_MS = 15
_STARTS = 5  # of a proxy, for the first call through it
_DIRECT = {"http": "", "https": ""}  # whatever the environment says of an egress proxy
_FORM = {"grant_type": "client_credentials", "client_id": "bench", "client_secret": "bench-secret"}
TOKEN_PER_CALL, TOKEN_REUSED = "a token per call", "one token, reused"
THROUGH, FIRST = "through the proxy", "the first call through a proxy that is just ready"


class Script:
    """No session, as scripts are: every call opens a connection."""

    def __init__(self, base: str, ca_file: Path):
        self._base, self._ca_file = base, str(ca_file)

    def token(self) -> str:
        answer = requests.post(
            f"{self._base}/auth/token/", data=_FORM, verify=self._ca_file, proxies=_DIRECT, timeout=10
        )
        token: str = answer.json()["access_token"]
        return token

    def call(self, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = requests.get(
            self._base + PATIENT, headers=headers, verify=self._ca_file, proxies=_DIRECT, timeout=10
        )
        if (answer.status_code, answer.content) != (200, BODY):
            raise RuntimeError(f"{answer.status_code}: {answer.content[:80]!r}")


def measure(upstream: Upstream, *, python: str, cpu: int | None = None) -> Samples:
    """Milliseconds of each call, by the way it goes."""
    port = unused_port()
    command = [sys.executable, "-m", "tests.bench.delay", str(port), str(upstream.https), str(ONE_WAY_MS)]
    with closing(Server(command, upstream.folder / "delay.log")):
        far = replace(upstream, https=port)
        script = Script(far.base("https"), upstream.ca_file)
        _until_it_answers(script)
        token = script.token()
        found = {
            TOKEN_PER_CALL: _times(CALLS, lambda: script.call(script.token())),
            TOKEN_REUSED: _times(CALLS, lambda: script.call(token)),
        }
        return found | _through_the_proxy(far, python, cpu)


def _through_the_proxy(far: Upstream, python: str, cpu: int | None) -> Samples:
    found: Samples = {THROUGH: [], FIRST: []}
    for _ in range(_STARTS):
        port, admin = unused_port(), unused_port()
        environ = {
            "FUMAGE_PROXY_TOKEN_URL": far.base("https") + "/auth/token/",
            "FUMAGE_PROXY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        }
        with closing(start_fumage_proxy(far, "https", port, cpu, python=python, environ=environ)):
            wait_for(f"http://127.0.0.1:{admin}/readyz", expect=b"ok\n")
            script = Script(f"http://127.0.0.1:{port}", far.ca_file)
            first, *others = _times(1 + CALLS // _STARTS, partial(script.call, None))
            found[FIRST].append(first)
            found[THROUGH] += others
    return found


def _times(calls: int, call: Callable[[], None]) -> list[float]:
    found = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return found


def _until_it_answers(script: Script) -> None:
    end = time.monotonic() + 15
    while True:
        try:
            script.call(TOKEN)
            return
        except requests.ConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def main() -> None:
    from tests.bench.table import relay_table

    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--python", default=sys.executable, help="runs the proxy")
    args = parser.parse_args()
    with installed(args.python) as python, tempfile.TemporaryDirectory() as folder:
        upstream, nginx = start_upstream(Path(folder), cpu=None)
        with closing(nginx):
            print(relay_table(measure(upstream, python=python)))


if __name__ == "__main__":
    main()
