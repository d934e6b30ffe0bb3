"""What rewriting the links of an answer costs, beside copying it: `python -m tests.bench.bench_links`.

Times are CPU microseconds per megabyte, the smallest of several rounds. "to memory" compares with one memcpy
of each 64 KiB block, "to sockets" with what a proxy does at the least: a recv and a send of each block over
loopback TCP.
"""

import hashlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable

from proxy.rules.bundle import BodyLinks
from proxy.rules.coding import Inflater
from proxy.rules.links import Base

HOST = "fumage-acme.canvasmedical.com"
BASE = Base(b"https", HOST.encode(), None, b"")
CALLER = b"127.0.0.1:3447"
BLOCK = 64 * 1024
ROUNDS = 15


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
    return json.dumps({"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entry}).encode()


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


def main() -> None:
    sockets = min(over_sockets() for _ in range(5))
    print(f"copying through sockets: {sockets:.0f} µs/MB\n")
    print("| Bundle | links | µs/MB | to sockets | to memory |")
    print("|---|---|---|---|---|")
    modes = {
        "bundle": BodyLinks(BASE),
        "all": BodyLinks(BASE, attachments=True),
        "all,absolute": BodyLinks(BASE, attachments=True, absolute=True),
    }
    for name, make in (("Patients with photos", patient), ("Observations", lab), ("base64 of 300 KB", scan)):
        body = bundle(make)
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
    _codings(bundle(patient))


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
