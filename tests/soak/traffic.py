"""The local applications of the soak."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tests.soak import ID, LARGE, SIZE, pattern
from tests.soak.promises import Sent
from tests.support import Ended, chunk, head, last_chunk
from tests.support.caller import Answer, Broken, Caller, Closed, Reset

_PIECES = 5
_LEAVES = ("in the head", "in the body", "before the answer", "in the answer")


class Patient(Caller):
    patience = 40.0  # s; more than any wait that the proxy allows itself here


@dataclass
class Plan:
    """What one request is to be."""

    number: int
    method: str
    upload: int
    download: int
    chunked: bool
    slow: bool
    keep_alive: bool
    leaves: str  # one of _LEAVES, or empty

    @classmethod
    def draw(cls, number: int, chance: random.Random) -> "Plan":
        method = chance.choices(("GET", "HEAD", "POST"), (55, 5, 40))[0]
        size = LARGE if chance.random() < 0.06 else chance.randrange(0, 5000)
        return cls(
            number=number,
            method=method,
            upload=size if method == "POST" else 0,
            download=chance.randrange(0, 5000) if method == "POST" else size,
            chunked=chance.random() < 0.4,
            slow=chance.random() < 0.03,
            keep_alive=chance.random() < 0.7,
            leaves=chance.choice(_LEAVES) if chance.random() < 0.03 else "",
        )

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the request, as they are written."""
        fields = [("Host", "localhost"), (ID, str(self.number)), (SIZE, str(self.download))]
        if not self.keep_alive:
            fields.append(("Connection", "close"))
        line = f"{self.method} /Patient/{self.number} HTTP/1.1"
        if self.method != "POST":
            yield head(line, fields)
            return
        body = pattern(self.number, self.upload)
        framing = ("Transfer-Encoding", "chunked") if self.chunked else ("Content-Length", str(len(body)))
        yield head(line, [*fields, framing])
        step = len(body) // _PIECES + 1
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            yield chunk(piece) if self.chunked else piece
        if self.chunked:
            yield last_chunk()


class Traffic:
    """`workers` callers that together send about `rate` requests a second; `sent` is what became of them."""

    def __init__(self, port: int, seed: int, workers: int, rate: float):
        self.sent: dict[int, Sent] = {}
        self._port = port
        self._seed = seed
        self._workers = workers
        self._pause = workers / rate
        self._numbers = count(1)

    async def run(self, until: float) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in range(self._workers):
                group.create_task(self._work(random.Random(self._seed * 1000 + worker), until))

    async def _work(self, chance: random.Random, until: float) -> None:
        caller: Caller | None = None
        while time.monotonic() < until:
            await asyncio.sleep(chance.expovariate(1 / self._pause))
            plan = Plan.draw(next(self._numbers), chance)
            sent = self.sent[plan.number] = Sent(plan.method, plan.upload, time.monotonic())
            if caller is None:
                caller = await Patient.connect(self._port)
            elif caller.ending:
                sent.wrong = "an idle caller's connection was closed unasked"
            kept = await self._one(plan, sent, caller, chance)
            sent.ended = time.monotonic()
            if not kept:
                caller.cut()
                caller = None
        if caller is not None:
            caller.cut()

    async def _one(self, plan: Plan, sent: Sent, caller: Caller, chance: random.Random) -> bool:
        """Whether the connection serves on."""
        pieces = list(plan.pieces())
        if plan.leaves:
            await self._leave(plan, pieces, caller, chance)
            return False
        try:
            if plan.slow:
                await self._send_slowly(pieces, caller, chance)
            else:
                caller.write(b"".join(pieces))
            answer = await caller.answer(head=plan.method == "HEAD")
        except (Closed, Reset):
            sent.outcome = "none"
        except Broken as broken:
            sent.outcome = "cut" if broken.answer else "none"
        except AssertionError as wrong:
            sent.outcome, sent.wrong = "none", f"{type(wrong).__name__}: {wrong}"
        else:
            self._judge(plan, sent, answer)
            return plan.keep_alive and answer["Connection"] != "close" and not caller.ending
        return False

    async def _send_slowly(self, pieces: list[bytes], caller: Caller, chance: random.Random) -> None:
        for piece in pieces:
            if caller.buffer or caller.ending:
                return  # the answer is here already
            caller.write(piece)
            await asyncio.sleep(chance.uniform(0, 0.1))

    async def _leave(self, plan: Plan, pieces: list[bytes], caller: Caller, chance: random.Random) -> None:
        data = b"".join(pieces)
        most = {"in the head": len(pieces[0]) - 1, "in the body": len(data) * 3 // 4}
        caller.write(data[: most.get(plan.leaves, len(data))])
        if plan.leaves == "in the answer":
            try:
                await caller.some(1)
            except (Ended, AssertionError):
                pass
        else:
            await asyncio.sleep(chance.choice((0, 0, 0.002, 0.02)))
        (caller.reset if chance.random() < 0.5 else caller.cut)()

    def _judge(self, plan: Plan, sent: Sent, answer: Answer) -> None:
        sent.outcome, sent.status = "answer", answer.status
        status = answer.proxy_status
        sent.error, sent.details = status.get("error", ""), status.get("details", "")
        sent.own = bool(sent.error)
        if answer["X-Request-Id"] is None:
            sent.wrong = "the answer has no X-Request-Id"
        if sent.own:
            if plan.method != "HEAD" and answer.json()["resourceType"] != "OperationOutcome":
                sent.wrong = "an error is no OperationOutcome"
            return
        if answer[ID] != str(plan.number):
            sent.wrong = f"it got the answer to request {answer[ID]}"
        elif answer.status in (200, 201, 422, 503):
            size = plan.download if answer.status < 300 else 100
            if answer.body != (b"" if plan.method == "HEAD" else pattern(plan.number, size)):
                sent.wrong = "the body of its answer is not the one that was sent"
