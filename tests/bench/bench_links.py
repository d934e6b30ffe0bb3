"""What rewriting the links of an answer costs, beside copying it: `python -m tests.bench.bench_links`.

First the whole exchange, as `fumage-proxy serve` with each `links` pays for it, of an answer that comes over
loopback HTTP or HTTPS: CPU microseconds per megabyte of JSON, medians of interleaved rounds, and how many
times that is what copying takes (`links = off`, nothing compressed). Then the rewriting alone: "to memory"
compares with one memcpy of each 64 KiB block, "to sockets" with a recv and a send of each over loopback TCP.
"""

import gzip
import hashlib
import json
import re
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import trustme

from proxy.rules.bundle import BodyLinks
from proxy.rules.coding import Inflater
from proxy.rules.links import Base
from tests.bench.machine import Server
from tests.support import unused_port

HOST = "fumage-acme.canvasmedical.com"
BASE = Base(b"https", HOST.encode(), None, b"")
CALLER = b"127.0.0.1:3447"
BLOCK = 64 * 1024
ROUNDS = 15
MODES = ("off", "bundle", "all", "all,absolute")
ASKED = 10  # times a round, for each Bundle and mode
TOKEN = b'{"access_token":"x","expires_in":36000,"token_type":"Bearer"}'


def patient(number: int) -> dict[str, object]:
    """About 1.5 KB as Canvas writes them: many extensions, one photo."""
    digest = hashlib.md5(b"%d" % number).hexdigest()  # so that it compresses like real data
    core = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
    race = {"system": "urn:oid:2.16.840.1.113883.6.238", "code": "2131-1", "display": "Other Race"}
    return {
        "resourceType": "Patient",
        "id": digest,
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">Anna "B" Smith</div>',
        },
        "extension": [
            {
                "url": core + "race",
                "extension": [
                    {"url": "ombCategory", "valueCoding": race},
                    {"url": "text", "valueString": digest[9:15]},
                ],
            },
            {"url": core + "birthsex", "valueCode": "F"},
            {"url": "http://hl7.org/fhir/StructureDefinition/tz-code", "valueCode": "America/New_York"},
        ],
        "identifier": [{"use": "usual", "system": "http://canvasmedical.com", "value": digest[:9]}],
        "name": [{"use": "official", "family": digest[3:11], "given": [digest[5:9], "Bo"]}],
        "telecom": [{"system": "phone", "value": str(number * 7919), "use": "mobile", "rank": 1}],
        "gender": "female",
        "birthDate": "1980-11-13",
        "address": [
            {"line": [f"{number * 31 % 1999} Main St"], "city": "Los Angeles", "state": "CA", "country": "US"}
        ],
        "photo": [{"url": f"https://{HOST}/Patient/{number}/files/photo"}],
    }


def lab(number: int) -> dict[str, object]:
    """An Observation: no url below the base at all."""
    coding = {"system": "http://loinc.org", "code": "2339-0", "display": "Glucose [Mass/volume] in Blood"}
    return {
        "resourceType": "Observation",
        "id": f"{number:032x}",
        "status": "final",
        "code": {"coding": [coding]},
        "subject": {"reference": "Patient/b8dfa97bdcdf4754bcd8197ca78ef0f0", "type": "Patient"},
        "effectiveDateTime": "2024-01-02T03:04:05.678901+00:00",
        "valueQuantity": {"value": 97.0, "unit": "mg/dL", "system": "http://unitsofmeasure.org"},
    }


def document(number: int) -> dict[str, object]:
    """A DocumentReference as Canvas writes it: its file is below the base."""
    key = hashlib.md5(b"%d" % number).hexdigest()
    system = "http://schemas.canvasmedical.com/fhir/document-reference-"
    return {
        "resourceType": "DocumentReference",
        "id": key,
        "extension": [{"url": f"{system}comment", "valueString": "Reviewed"}],
        "identifier": [{"system": f"{system}identifier", "value": key}],
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34895-3", "display": "Education note"}]},
        "category": [{"coding": [{"system": f"{system}category", "code": "educationalmaterial"}]}],
        "subject": {"reference": f"Patient/{key}", "type": "Patient"},
        "date": "2023-09-18T14:36:47.412581+00:00",
        "author": [{"reference": f"Practitioner/{key}", "type": "Practitioner"}],
        "custodian": {"reference": f"Organization/{key}", "type": "Organization"},
        "content": [
            {
                "attachment": {
                    "contentType": "application/pdf",
                    "url": f"https://{HOST}/DocumentReference/{key}/files/content",
                },
                "format": {"system": "http://ihe.net/fhir/ValueSet/formatcode", "code": "urn:ihe:iti:xds"},
            }
        ],
    }


def scan(number: int) -> dict[str, object]:
    """A DocumentReference that carries 300 KB."""
    data = "JVBERi0xLjcKJcOkw7zDtsOfCjIgMCBvYmoKPDwvTGVuZ3RoIDMg" * 6000
    attachment = {"contentType": "application/pdf", "data": data[number : -8 + number]}
    return {"resourceType": "DocumentReference", "id": str(number), "content": [{"attachment": attachment}]}


def bundle(make: Callable[[int], dict[str, object]], size: int = 1_000_000) -> bytes:
    """A page of a search of about that size, with absolute paging links."""
    link = [
        {"relation": one, "url": f"https://{HOST}/X?_count=10&_offset={one}"}
        for one in ("self", "first", "next")
    ]
    count = size // len(json.dumps(make(0)))
    entry = [{"resource": make(number)} for number in range(count + 1)]
    whole = {"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entry}
    return json.dumps(whole, separators=(",", ":")).encode()


def bundles() -> dict[str, bytes]:
    """A megabyte each, but for the page that Canvas's largest `_count` gives."""
    hundred = 100 * len(json.dumps(document(0)))
    return {
        "Patients with a photo each": bundle(patient),
        "DocumentReferences with a file each": bundle(document),
        "100 of them": bundle(document, hundred),
        "Observations": bundle(lab),
        "base64 of 300 KB": bundle(scan),
    }


def cheapest(action: Callable[[], object], megabytes: float) -> float:
    """CPU microseconds per megabyte."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        for _ in range(5):
            action()
        best = min(best, time.process_time_ns() - start)
    return best / 5 / 1000 / megabytes


def over_sockets(megabytes: int = 64) -> float:
    """CPU microseconds per megabyte of one thread that receives and sends on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = []
        for _ in range(2):
            ends += [socket.create_connection(server.getsockname()), server.accept()[0]]
    source, left, right, sink = ends

    def drain() -> None:
        while sink.recv(1 << 18):
            pass

    def fill() -> None:
        source.sendall(bytes(megabytes * 1_000_000))
        source.close()

    threads = [threading.Thread(target=fill), threading.Thread(target=drain)]
    for thread in threads:
        thread.start()
    start = time.thread_time_ns()
    while block := left.recv(BLOCK):
        right.sendall(block)
    spent = time.thread_time_ns() - start
    right.close()
    left.close()
    for thread in threads:
        thread.join()
    sink.close()
    return spent / 1000 / megabytes


# --- the whole exchange ---


def answer(body: bytes, coding: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/fhir+json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        coding,
        len(body),
        body,
    )


@contextmanager
def fumage(answers: dict[bytes, bytes], context: ssl.SSLContext | None) -> Iterator[int]:
    """Serves answers by path, and a token to every POST; the port."""

    def serve(sock: socket.socket) -> None:
        received = b""
        try:
            with sock if context is None else context.wrap_socket(sock, server_side=True) as wire:
                while data := wire.recv(65536):
                    received += data
                    head, end, body = received.partition(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    if end and len(body) >= int(length[1] if length else 0):
                        wire.sendall(answer(TOKEN) if head.startswith(b"POST") else answers[head.split()[1]])
                        received = b""
        except OSError:
            pass  # the proxy is gone

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


class Asked:
    """A proxy and a caller's connection to it."""

    def __init__(self, base: str, token_url: str, links: str, folder: Path):
        port = unused_port()
        settings = {
            "FUMAGE_BASE_URL": base,
            "CANVAS_API_CLIENT_ID": "bench",
            "CANVAS_API_CLIENT_SECRET": "bench-secret",
            "FUMAGE_PROXY_TOKEN_URL": token_url,
            "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}",
            "FUMAGE_PROXY_ADMIN_LISTEN": "off",
            "FUMAGE_PROXY_LINKS": links,
            "FUMAGE_PROXY_CA_FILE": str(folder / "ca.pem"),
        }
        self._server = Server([sys.executable, "-m", "proxy"], folder / "proxy.log", settings)
        self._wire = self._connected(port)

    def _connected(self, port: int) -> socket.socket:
        began = time.monotonic()
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port))
            except OSError:
                if time.monotonic() - began > 15:
                    raise
                time.sleep(0.05)

    def cost(self, path: bytes, megabytes: float, accept: bytes) -> float:
        """CPU microseconds per megabyte of JSON."""
        before = self._server.cpu_seconds()
        for _ in range(ASKED):
            self._ask(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, accept))
        return (self._server.cpu_seconds() - before) / ASKED * 1e6 / megabytes

    def _ask(self, request: bytes) -> None:
        self._wire.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._wire.recv(1 << 18)
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode("latin-1"))
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            missing = int(length[1]) - len(body)
            while missing:
                missing -= len(self._wire.recv(1 << 18))
        while not length and not body.endswith(b"0\r\n\r\n"):
            body = body[-8:] + self._wire.recv(1 << 18)

    def close(self) -> None:
        self._wire.close()
        self._server.close()


def exchanges(scheme: str, folder: Path, context: ssl.SSLContext) -> None:
    """Print a table of what whole exchanges cost."""
    answers: dict[bytes, bytes] = {}
    with ExitStack() as stack:
        port = stack.enter_context(fumage(answers, context if scheme == "https" else None))
        token_port = stack.enter_context(fumage({}, None))
        base, token_url = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{token_port}/"
        found = {
            name: body.replace(f"https://{HOST}".encode(), base.encode()) for name, body in bundles().items()
        }
        for number, body in enumerate(found.values()):
            answers[b"/%d" % number] = answer(body)
            answers[b"/%d/gzip" % number] = answer(gzip.compress(body, 6), b"Content-Encoding: gzip\r\n")
        asked = {
            links: stack.enter_context(closing(Asked(base, token_url, links, folder))) for links in MODES
        }
        print(f"\n| {scheme} | MB | {' | '.join(MODES)} |\n|---|---|{'---|' * len(MODES)}")
        for number, (name, body) in enumerate(found.items()):
            copying = 0.0
            for path, accept in ((b"", b""), (b"/gzip", b"Accept-Encoding: gzip\r\n")):
                costs: dict[str, list[float]] = {links: [] for links in MODES}
                for _ in range(ROUNDS):
                    for links, one in asked.items():
                        costs[links].append(one.cost(b"/%d%b" % (number, path), len(body) / 1e6, accept))
                medians = [statistics.median(figures) for figures in costs.values()]
                copying = copying or medians[0]
                row = [f"{median:.0f} ({median / copying:.1f})" for median in medians]
                print(f"| {name}{', gzip' if path else ''} | {len(body) / 1e6:.2f} | {' | '.join(row)} |")


# --- the rewriting alone ---


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, authority = Path(name), trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        for scheme in ("http", "https"):
            exchanges(scheme, folder, context)
    _rewriting()
    _codings(bundle(patient))


def _rewriting() -> None:
    sockets = min(over_sockets() for _ in range(5))
    print(f"\ncopying through sockets: {sockets:.0f} µs/MB\n")
    print("| Bundle | links | µs/MB | to sockets | to memory |")
    print("|---|---|---|---|---|")
    modes = {
        "bundle": BodyLinks(BASE),
        "all": BodyLinks(BASE, attachments=True),
        "all,absolute": BodyLinks(BASE, attachments=True, absolute=True),
    }
    for name, body in bundles().items():
        megabytes = len(body) / 1e6
        blocks = [body[at : at + BLOCK] for at in range(0, len(body), BLOCK)]
        memory = cheapest(lambda blocks=blocks: [bytearray(block) for block in blocks], megabytes)  # type: ignore[misc]
        for mode, links in modes.items():

            def rewrite(links: BodyLinks = links, blocks: list[bytes] = blocks) -> None:
                rewriter = links.rewriter(CALLER)
                for block in blocks:
                    rewriter.feed(block)
                rewriter.end()

            cost = cheapest(rewrite, megabytes)
            print(f"| {name} | {mode} | {cost:.0f} | {cost / sockets:.1f} | {cost / memory:.0f} |")


def _codings(body: bytes) -> None:
    megabytes = len(body) / 1e6
    print("\n| gzip | µs/MB of JSON | size to identity |\n|---|---|---|")
    for level in (1, 6):

        def deflate(level: int = level) -> bytes:
            packer = zlib.compressobj(level, wbits=31)
            return packer.compress(body) + packer.flush()

        packed = deflate()
        print(
            f"| deflate, level {level} | {cheapest(deflate, megabytes):.0f} | {len(packed) / len(body):.2f} |"
        )
    inflate = cheapest(lambda: list(Inflater().feed(packed)), megabytes)
    print(f"| inflate | {inflate:.0f} | |")


if __name__ == "__main__":
    main()
