"""Cancel at every await: a caller that is gone, at whatever stage, leaves nothing behind."""

import asyncio
import random
import select
from collections.abc import Awaitable, Callable

import pytest

from proxy.forward.answer import AnswerReader
from proxy.forward.replay import GATHER
from tests.forward.leftovers import nothing_left, ready, until
from tests.support import chunk
from tests.support.caller import Caller, Cut, build, fetch
from tests.support.clock import FakeClock
from tests.support.emr import EMR
from tests.support.product import Product
from tests.support.upstream import Seen, Wire, after, early, hang, raw, reply, unauthorized

needs_rdhup = pytest.mark.skipif(
    not hasattr(select, "POLLRDHUP"), reason="only Linux tells without reading that the other side has closed"
)
Leave = Callable[[Caller], None]
WAYS: dict[str, Leave] = {"reset": Caller.reset, "close": Caller.cut, "half-close": Caller.half_close}


class Later(Product):
    """With an event that some stages wait for."""

    def __init__(self, **settings: str):
        super().__init__(**settings)
        self.later = asyncio.Event()


Stage = Callable[[Later, Caller], Awaitable[None]]


async def in_the_body(product: Later, caller: Caller) -> None:
    caller.write(build("POST", "/A", [("Content-Length", "100")]) + b"x" * 50)
    await until(lambda: product.app._forwarder.replay_memory._free < product.app._settings.replay_memory)


async def waiting_for_a_new_token(product: Later, caller: Caller) -> None:
    product.emr.script += [after(product.later, product.emr.grant())]
    product.fumage.script += [unauthorized()]
    caller.write(build("POST", "/A", body=b"x"))
    await product.emr.until(lambda: product.emr.requests == 2)


async def waiting_for_a_connection(product: Later, caller: Caller) -> None:
    product.fumage.script += [hang()] * 2
    others = [await Caller.connect(product.port) for _ in range(2)]
    for other in others:
        other.write(build())
    await product.fumage.until(lambda: len(product.fumage.seen) == 2)
    caller.write(build("POST", "/A", body=b"x"))
    await until(lambda: product.app._pool._waiting)
    for other in others:
        other.reset()


async def waiting_for_the_answer(product: Later, caller: Caller) -> None:
    product.fumage.script += [hang()]
    caller.write(build("POST", "/A", body=b"x"))
    await product.fumage.until(lambda: product.fumage.seen)


async def after_an_interim_answer(product: Later, caller: Caller) -> None:
    async def interim(seen: Seen, wire: Wire) -> None:
        wire.write(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n")
        await wire.forever()

    product.fumage.script += [interim]
    caller.write(build())
    await caller.line()


async def in_the_upload(product: Later, caller: Caller) -> None:
    caller.write(build("POST", "/A", [("Content-Length", "300000")]) + b"x" * 200_000)
    await product.fumage.until(lambda: product.fumage.seen and len(product.fumage.seen[0].content) == 200_000)


async def waiting_for_the_second_answer(product: Later, caller: Caller) -> None:
    product.fumage.script += [unauthorized(), hang()]
    caller.write(build("POST", "/A", body=b"x"))
    await product.fumage.until(lambda: len(product.fumage.seen) == 2)


async def in_the_answer(product: Later, caller: Caller) -> None:
    async def half(seen: Seen, wire: Wire) -> None:
        await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")(seen, wire)
        await wire.forever()

    product.fumage.script += [half]
    caller.write(build("POST", "/A", body=b"x"))
    while await caller.line():
        pass


async def in_an_answer_that_it_does_not_read(product: Later, caller: Caller) -> None:
    product.fumage.script += [reply(200, b"x" * 30_000_000)]
    caller.transport.pause_reading()
    caller.write(build())
    await until(lambda: any(one._write_waiter is not None for one in product.app._callers.open))


async def in_an_early_answer_and_the_upload(product: Later, caller: Caller) -> None:
    async def half(seen: Seen, wire: Wire) -> None:
        await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")(seen, wire)
        await wire.body()

    product.fumage.script += [early(half)]
    caller.write(build("POST", "/A", [("Content-Length", "300000")]) + b"x" * 200_000)
    while await caller.line():
        pass


STAGES: list[Stage] = [
    in_the_body,
    waiting_for_a_new_token,
    waiting_for_a_connection,
    waiting_for_the_answer,
    after_an_interim_answer,
    in_the_upload,
    waiting_for_the_second_answer,
    in_the_answer,
    in_an_answer_that_it_does_not_read,
    in_an_early_answer_and_the_upload,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
async def test_a_caller_that_is_gone_leaves_nothing_behind(stage: Stage, way: str) -> None:
    async with Later(max_connections="2") as product:
        await ready(product)
        async with await Caller.connect(product.port) as caller:
            await stage(product, caller)
            WAYS[way](caller)
            if way == "half-close" and not caller.transport.is_reading():
                caller.transport.resume_reading()
            await nothing_left(product)
        product.later.set()
        product.fumage.script.clear()
        assert (await fetch(product.port, "POST", "/A", body=b"x")).status == 200
        await nothing_left(product)


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_that_is_gone_while_fumage_reads_nothing_is_noticed_within_idle_timeout(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Product(idle_timeout="200ms") as product:
        await ready(product)
        product.fumage.script += [early(hang())]
        async with await Caller.connect(product.port) as caller:
            caller.write(build("POST", "/A", [("Transfer-Encoding", "chunked")]) + chunk(b"x" * 30_000_000))
            await until(lambda: any(one._write_waiter is not None for one in product.app._pool._open))
            WAYS[way](caller)
            await until(lambda: not product.app._pool.counts["active"])
            monkeypatch.setattr(Wire, "limit", 2**40)  # or it would not see the end
            for wire in product.fumage.wires:
                wire.transport.resume_reading()
        await nothing_left(product)


async def behind_requests_that_wait(product: Product, caller: Caller) -> None:
    caller.write(build() * 2_500)


async def in_an_upload_that_fumage_does_not_take(product: Product, caller: Caller) -> None:
    caller.write(build("POST", "/A", [("Transfer-Encoding", "chunked")]) + chunk(b"x" * 30_000_000))


@needs_rdhup
@pytest.mark.parametrize(
    ("stage", "way"),
    [
        *((behind_requests_that_wait, way) for way in WAYS),
        # Its FIN does not even leave before all that it wrote: that is for idle_timeout, see above.
        (in_an_upload_that_fumage_does_not_take, "reset"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_caller_that_is_gone_is_noticed_although_it_is_not_read(
    stage: Callable[[Product, Caller], Awaitable[None]], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end stands behind bytes that have to wait; with the default timeouts that is a minute."""
    async with Product() as product:
        await ready(product)
        product.fumage.script += [early(hang())]
        async with await Caller.connect(product.port) as caller:
            await stage(product, caller)
            await until(lambda: any(not one._reading for one in product.app._callers.open))
            WAYS[way](caller)
            await until(lambda: not product.app._callers.open, seconds=15)
            monkeypatch.setattr(Wire, "limit", 2**40)  # or it would not see the end
            for wire in product.fumage.wires:
                wire.transport.resume_reading()
        await nothing_left(product)


@pytest.mark.parametrize("way", WAYS)
async def test_a_caller_that_is_gone_before_there_is_a_first_token_leaves_nothing_behind(way: str) -> None:
    emr = EMR()
    emr.answer = hang()
    async with emr, Product(emr=emr) as product, await Caller.connect(product.port) as caller:
        caller.write(build("POST", "/A", body=b"x"))
        await until(lambda: product.app._callers.open and product.app._forwarder.replay_memory._free < 2**26)
        WAYS[way](caller)
        await nothing_left(product)
        assert product.fumage.seen == []


async def test_a_caller_that_is_gone_while_a_connection_is_opened_leaves_nothing_behind() -> None:
    async with Product() as product:
        await ready(product)
        product.fumage.close_all()
        opening = asyncio.Event()
        dial = product.app._pool._dial

        async def slow_dial() -> object:
            opening.set()
            await asyncio.sleep(0)
            return await dial()

        product.app._pool._dial = slow_dial  # type: ignore[assignment]
        for turns in range(12):  # each await of the dialing gets its turn
            opening.clear()
            async with await Caller.connect(product.port) as caller:
                caller.write(build("POST", "/A", body=b"x"))
                await opening.wait()
                for _ in range(turns):
                    await asyncio.sleep(0)
                caller.reset()
            await nothing_left(product)
            product.fumage.close_all()
            await until(lambda: not product.fumage.open)


async def test_the_others_do_not_notice_a_caller_that_is_gone() -> None:
    async with Product(max_connections="4") as product:
        callers = [await Caller.connect(product.port) for _ in range(40)]
        for number, caller in enumerate(callers):
            caller.write(build("POST", "/A", body=b"%d" % number))
            if number % 2:
                caller.reset()
        for caller in callers[::2]:
            assert (await caller.answer()).status == 200
            caller.cut()
        await nothing_left(product)


@pytest.mark.parametrize("size", [1, 150_000], ids=["small body", "large body"])
async def test_a_caller_that_is_gone_at_any_turn_of_the_loop_leaves_nothing_behind(size: int) -> None:
    rejected: set[str | None] = set()

    async def answer(seen: Seen, wire: Wire) -> None:
        if seen.bearer in rejected:
            await unauthorized()(seen, wire)
        else:
            await reply(200, framing="chunked", chunks=[b"x" * 100] * 3)(seen, wire)

    clock = FakeClock()
    async with Product(clock=clock) as product:
        await ready(product)
        product.fumage.answer = early(answer) if size > GATHER else answer
        finished = 0
        turns = 0
        while finished < 10:  # the last ones had their answer before they left
            rejected.add(product.fumage.seen[-1].bearer if product.fumage.seen else "token-1")
            caller = await Caller.connect(product.port)
            async with caller:
                caller.write(build("POST", "/A", body=b"x" * size))
                for _ in range(turns):
                    await asyncio.sleep(0)
                finished += bytes(caller.buffer).endswith(b"0\r\n\r\n")
                caller.reset()
            await nothing_left(product)
            await clock.jump(60)  # so that no ration is used up
            turns += 1
        assert any(record.abandoned for record in product.records)  # how far they came depends on the machine


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_at_once_each_gets_its_own_answer_and_nothing_is_left(seed: int) -> None:
    chance = random.Random(seed)
    revoked: set[str | None] = set()

    async def answer(seen: Seen, wire: Wire) -> None:
        if not revoked and chance.random() < 0.02:
            revoked.add(seen.bearer)
        if seen.bearer in revoked:
            await unauthorized()(seen, wire)
            return
        body = seen.target + await wire.body()
        misfortune = chance.random()
        if misfortune < 0.05:
            wire.close()
        elif misfortune < 0.1:
            wire.reset()
        elif misfortune < 0.15:
            await raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", then="close")(seen, wire)
        else:
            framing = chance.choice(["length", "chunked", "close"])
            await reply(200, body, framing=framing)(seen, wire)  # type: ignore[arg-type]

    async def ask(product: Product, number: int) -> int:
        body = b"%d" % number * chance.choice([1, 1000, 30_000])
        method, chunked = chance.choice(["GET", "POST", "PUT"]), chance.random() < 0.5
        async with await Caller.connect(product.port) as caller:
            caller.write(build(method, f"/{number}/", body=body, chunked=chunked))
            if chance.random() < 0.2:
                for _ in range(chance.randrange(40)):
                    await asyncio.sleep(0)
                chance.choice(list(WAYS.values()))(caller)
                return 0
            try:
                got = await caller.answer()
            except Cut:
                return 0
            assert got.status in (200, 401, 502, 503)
            if got.status == 200:
                assert got.body == b"/%d/" % number + body
            return got.status

    async with Product(max_connections="5") as product:
        await ready(product)
        product.fumage.answer = early(answer)
        statuses = await asyncio.gather(*(ask(product, number) for number in range(300)))
        assert statuses.count(200) > 100
        product.fumage.answer = reply(200)
        await nothing_left(product)
        assert not any(record.defect for record in product.records)


def test_an_answer_that_nobody_took_is_never_that_to_the_next_request() -> None:
    """Its caller left when it was here already, and its connection is used again."""
    reader = AnswerReader()
    reader.expect(head_only=False)
    reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert reader.complete
    reader.expect(head_only=False)
    reader.feed(b"HTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nnew")
    assert [answer.status for answer in reader.answers] == [201]
    assert reader.take() == b"new"
