"""The other side of the soak, a process of its own: a Fumage and an EMR that misbehave at random.

`python -m tests.soak.fumage SEED SCHEME` says where both are, and whom to trust. Lines come in on stdin, an
answer goes out for each: `rest` ends all faults, `open` counts Fumage's open connections, `tell` gives what
was noted. Times are of the monotonic clock, which all processes share.
"""

import asyncio
import json
import random
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import trustme

from tests.soak import ID, SIZE, pattern
from tests.support.emr import EMR
from tests.support.upstream import (
    AUTHENTICATION_FAILED,
    FHIR,
    Framing,
    Seen,
    Upstream,
    Wire,
    early,
    reply,
)

LIFETIME = 6.0  # s of a token
FRAMINGS: tuple[Framing, ...] = ("length", "chunked", "close")
CLEAN = ("close",)
ABRUPT = {"http": ("reset",), "https": ("reset", "cut")}  # cut: without close_notify

# What becomes of a request whose token is good, and how often, in percent; the rest is served.
FATES = {
    "silent-early": 1.0,  # the connection ends before the body was read, without a byte of an answer
    "silent-late": 0.7,  # the same, but the request was carried out
    "cut-head": 0.4,
    "cut-body": 0.7,
    "garbage": 0.3,
    "hang": 0.05,
    "own-503": 0.5,
    "early-422": 1.0,  # an answer before the body was read
    "slow": 2.0,
    "interim": 1.0,
}


class Fate:
    """One arrival of a request at Fumage."""

    def __init__(self, kept: bool) -> None:
        self.name = "arriving"
        self.applied = False  # its body is here whole, and its token is good: the EMR has acted
        self.kept = kept  # the connection has carried an exchange before

    def told(self) -> list[object]:
        return [self.name, self.applied, self.kept]


class Misbehaving:
    def __init__(self, seed: int, tls: ssl.SSLContext | None) -> None:
        self.random = random.Random(seed)
        self.fumage = Upstream(answer=early(self.serve), tls=tls)
        self.emr = EMR(expires_in=LIFETIME, tls=tls)
        self.abrupt = ABRUPT["https" if tls else "http"]
        self.emr.answer = self.grant
        self.calm = False
        self.fates: dict[int, list[Fate]] = defaultdict(list)
        self.valid: dict[str, float] = {}  # tokens and when they expire
        self.restarts: list[tuple[float, float]] = []
        self.outages: list[tuple[float, float]] = []  # a failed token request is one, too
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self._emr_down = False
        self._busy: set[Wire] = set()
        self._served: dict[Wire, float] = {}  # open connections that carried an exchange, and when it ended

    # --- Fumage ---

    async def serve(self, seen: Seen, wire: Wire) -> None:
        self.fumage.seen.clear()
        fate = Fate(kept=wire in self._served)
        self._busy.add(wire)
        number = int(seen[ID] or 0)
        before = [one for one in self.fates[number] if one.name != "401"]
        self.fates[number].append(fate)
        try:
            if self.valid.get(seen.bearer or "", 0.0) < time.monotonic():
                await self._reject(seen, wire, fate)
            else:
                await self._play(seen, wire, fate, number, "ok" if before else self._draw(seen))
            if not wire.transport.is_closing():
                await wire.body()
        finally:
            self._busy.discard(wire)
            self._served = {one: at for one, at in self._served.items() if one in self.fumage.wires}
            self._served[wire] = time.monotonic()

    def _draw(self, seen: Seen) -> str:
        if self.calm:
            return "ok"
        point = self.random.uniform(0, 100)
        for name, share in FATES.items():
            if point < share:
                return "ok" if name == "early-422" and not seen.declared() else name
            point -= share
        return "ok"

    async def _reject(self, seen: Seen, wire: Wire, fate: Fate) -> None:
        keep_alive = True
        framing = self.random.choice(FRAMINGS)
        if self.random.random() < 0.5 or framing == "close":
            await wire.body()
            keep_alive = self.random.random() < 0.7
        fate.name = "401"
        fields = [FHIR, (ID, seen[ID] or "")]
        await reply(401, AUTHENTICATION_FAILED, fields, framing=framing, keep_alive=keep_alive)(seen, wire)

    async def _play(self, seen: Seen, wire: Wire, fate: Fate, number: int, name: str) -> None:
        if name in ("silent-early", "early-422"):
            fate.name = name
            if name == "silent-early":
                self._end(wire)
            else:
                await reply(422, pattern(number, 100), [FHIR, (ID, str(number))])(seen, wire)
            return
        await wire.body()
        if seen.method == "POST" and seen.body != pattern(number, len(seen.body)):
            self.wrong.append(f"request {number} arrived with a body that is not its own")
        fate.applied = True
        fate.name = name
        await self._answer(seen, wire, number, name)

    async def _answer(self, seen: Seen, wire: Wire, number: int, name: str) -> None:
        size = int(seen[SIZE] or 100)
        body, fields = pattern(number, size), [FHIR, (ID, str(number))]
        framing: Framing = self.random.choice(FRAMINGS)
        status = 201 if seen.method == "POST" else 200
        whole = reply(status, body, fields, framing=framing, keep_alive=self.random.random() < 0.98)
        if name == "silent-late":
            self._end(wire)
        elif name == "cut-head":
            wire.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            self._end(wire)
        elif name == "cut-body":
            await self._cut_body(seen, wire, body, framing)
        elif name == "garbage":
            wire.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            self._end(wire, CLEAN)
        elif name == "hang":
            await wire.forever()
        elif name == "own-503":
            await reply(503, pattern(number, 100), [*fields, ("Retry-After", "1")])(seen, wire)
        elif name == "slow":
            await self._slow(seen, wire, status, body, framing)
        else:
            if name == "interim":
                wire.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await whole(seen, wire)

    async def _cut_body(self, seen: Seen, wire: Wire, body: bytes, framing: Framing) -> None:
        cut: dict[Framing, bytes] = {
            "length": b"Content-Length: %d\r\n\r\n" % len(body) + body[: len(body) // 2],
            "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body[: len(body) // 2],
            "close": b"Connection: close\r\n\r\n" + body[: len(body) // 2],
        }
        head = b"HTTP/1.1 200 OK\r\n%b: %b\r\n" % (ID.encode(), (seen[ID] or "").encode())
        wire.write(head + cut[framing])
        await wire.drain()
        self._end(wire, self.abrupt if framing == "close" else ())

    async def _slow(self, seen: Seen, wire: Wire, status: int, body: bytes, framing: Framing) -> None:
        pieces = [body[at : at + len(body) // 5 + 1] for at in range(0, len(body), len(body) // 5 + 1)]
        head = f"HTTP/1.1 {status} OK\r\n{ID}: {seen[ID]}\r\n".encode()
        if framing == "length":
            head += b"Content-Length: %d\r\n" % len(body)
        else:
            head += b"Transfer-Encoding: chunked\r\n"
        wire.write(head + b"\r\n")
        if seen.method == "HEAD":
            return
        for piece in pieces:
            await asyncio.sleep(self.random.uniform(0, 0.05))
            wire.write(piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece))
            await wire.drain()
        if framing != "length":
            wire.write(b"0\r\n\r\n")

    def _end(self, wire: Wire, ways: Sequence[str] = ()) -> None:
        """In one of these ways, or in any."""
        way = self.random.choice(ways or (*CLEAN, *self.abrupt))
        self.counts[f"connections ended by {way}"] += 1
        {"close": wire.close, "reset": wire.reset, "cut": wire.cut}[way]()

    # --- the EMR ---

    async def grant(self, seen: Seen, wire: Wire) -> None:
        self.emr.seen.clear()
        now = time.monotonic()
        if self._emr_down or (not self.calm and self.random.random() < 0.03):
            self.outages.append((now, now))
            fault = self.random.choice((reply(500), reply(503, headers=[("Retry-After", "1")]), _gone, _late))
            await fault(seen, wire)
            return
        self.valid = {token: end for token, end in self.valid.items() if end > now}
        token = f"soak-token-{self.counts['tokens']}"
        self.counts["tokens"] += 1
        self.valid[token] = now + LIFETIME
        await self.emr.grant(token)(seen, wire)

    # --- what happens by itself ---

    async def close_idle(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.02, 0.3))
            idle = [wire for wire in self._served if wire in self.fumage.wires and wire not in self._busy]
            if idle and not self.calm:
                self.counts["idle closes"] += 1
                wire = self.random.choice(idle)
                # Others take back what the kernel has not sent yet: not so soon after an answer.
                settled = time.monotonic() - self._served[wire] > 0.5
                self._end(wire, () if settled else CLEAN)

    async def revoke(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(1.5, 4))
            if not self.calm:
                self.counts["revocations"] += 1
                self.valid.clear()

    async def restart(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(4, 10))
            if self.calm:
                continue
            began = time.monotonic()
            self.restarts.append((began, began + 60))
            await self.fumage.stop()
            await asyncio.sleep(self.random.uniform(0.05, 0.6))
            await self.fumage.restart()
            self.restarts[-1] = (began, time.monotonic())

    async def emr_outages(self) -> None:
        await asyncio.sleep(3)
        while True:
            if not self.calm:
                began = time.monotonic()
                self.outages.append((began, began + 60))
                at = len(self.outages) - 1
                self.counts["EMR outages"] += 1
                length = self.random.uniform(1, 3)
                if self.random.random() < 0.5:
                    await self.emr.stop()
                    await asyncio.sleep(length)
                    await self.emr.restart()
                else:
                    self._emr_down = True
                    await asyncio.sleep(length)
                    self._emr_down = False
                self.outages[at] = (began, time.monotonic())
            await asyncio.sleep(self.random.uniform(15, 25))

    def told(self) -> dict[str, object]:
        self.wrong += [f"Fumage got what is not HTTP: {error!r}" for error in self.fumage.failures]
        self.fumage.failures.clear()
        self.counts["restarts"] = len(self.restarts)
        return {
            "fates": {number: [fate.told() for fate in fates] for number, fates in self.fates.items()},
            "restarts": self.restarts,
            "outages": self.outages,
            "wrong": self.wrong,
            "counts": dict(self.counts),
        }


async def _gone(seen: Seen, wire: Wire) -> None:
    wire.reset()


async def _late(seen: Seen, wire: Wire) -> None:
    await wire.forever()


def _certified(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    return context


async def main(seed: int, scheme: str) -> None:
    ca = trustme.CA()
    parties = Misbehaving(seed, _certified(ca) if scheme == "https" else None)
    async with parties.fumage, parties.emr, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(spell())
            for spell in (parties.close_idle, parties.revoke, parties.restart, parties.emr_outages)
        ]
        trusted = ca.cert_pem.bytes().decode()
        _say({"fumage": parties.fumage.url, "token_url": parties.emr.token_url, "trusted": trusted})
        loop = asyncio.get_running_loop()
        while word := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            if word == "rest":
                parties.calm = True
                # An outage or a restart that runs is seen to its end.
                while any(end > time.monotonic() for _, end in (*parties.restarts, *parties.outages)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                _say({})
            elif word == "open":
                _say({"open": parties.fumage.open})
            elif word == "tell":
                _say(parties.told())
        for task in tasks:
            task.cancel()


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
