"""A store that is of no use for a while: each replica has a token of its own, and they share again by
themselves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.token.replica import Replica, text, until
from tests.token.script import Start
from tests.token.server import Server


class Front:
    """A way to a server, which can be slow or answer with something else."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = ""
        self.delay = 0.0  # s, of each answer
        self.nonsense = b""
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open[task] = writer
        try:
            there = await asyncio.open_connection("127.0.0.1", self.server.port)
        except ConnectionRefusedError:
            writer.transport.abort()
            return
        await asyncio.gather(self._copy(reader, there[1]), self._answer(there[0], writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(65536)) and not writer.is_closing():
                writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay)
                if writer.is_closing():
                    break
                writer.write(self.nonsense or data)
        writer.close()

    async def close(self) -> None:
        for writer in self._open.values():
            writer.transport.abort()
        await asyncio.gather(*self._open)


@asynccontextmanager
async def front(path: Path) -> AsyncIterator[Front]:
    server = Server(path)
    front = Front(server)
    listening = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield front
    finally:
        listening.close()
        await front.close()
        server.stop()


def configure(**config: str) -> Callable[[Front], None]:
    def change(front: Front) -> None:
        with front.server.ask() as redis:
            for name, value in config.items():
                redis.config_set(name, value)

    return change


def follow(*whom: str | int) -> Callable[[Front], None]:
    def change(front: Front) -> None:
        with front.server.ask() as redis:
            redis.replicaof(*whom)

    return change


def slow(seconds: float) -> Callable[[Front], None]:
    return lambda front: setattr(front, "delay", seconds)


def talk(nonsense: bytes) -> Callable[[Front], None]:
    return lambda front: setattr(front, "nonsense", nonsense)


OUTAGES: dict[str, tuple[Callable[[Front], None], str, Callable[[Front], None]]] = {
    "stopped": (lambda f: f.server.stop(), "could not be reached", lambda f: f.server.restart()),
    "paused": (lambda f: f.server.pause(), "did not answer", lambda f: f.server.resume()),
    "slow": (slow(0.25), "did not answer within 0.25 s", slow(0)),
    "full": (configure(maxmemory="1"), "is full", configure(maxmemory="0")),
    "a replica until it is promoted": (follow("127.0.0.1", 1), "is read-only", follow("NO", "ONE")),
    "nonsense": (talk(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), "not Redis", talk(b"")),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_each_replica_has_its_own_token_meanwhile_and_they_share_again_afterwards(
    outage: str, tmp_path: Path
) -> None:
    begin, why, end = OUTAGES[outage]
    async with front(tmp_path) as there:
        one, two = Replica(there.url, "a"), Replica(there.url, "b")
        assert text(await one.source.get()) == text(await two.source.get()) == "a-tok-1"
        begin(there)
        assert text(await one.grant.request()) == "a-tok-2"
        assert text(await two.grant.request()) == "b-tok-1"
        for each in (one, two):
            assert each.told[-1] == "fallback"
            assert why in (each.why[-1] or "")
            await each.clock.advance(100)
        end(there)
        assert text(await one.grant.request()) == text(await two.grant.request()) == "a-tok-3"
        assert (one.told[-1], two.told[-1]) == ("fetched", "hit")


@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_revocation_in_an_outage_costs_each_replica_one_token_request(
    outage: str, tmp_path: Path
) -> None:
    begin, _, end = OUTAGES[outage]
    async with front(tmp_path) as there:
        replicas = [Replica(there.url, name) for name in "abc"]
        old = [await each.source.get() for each in replicas]
        begin(there)
        own = [await each.reject(token) for each, token in zip(replicas, old, strict=True)]
        assert [text(token) for token in own] == ["a-tok-2", "b-tok-1", "c-tok-1"]
        end(there)
        new = [await each.reject(token) for each, token in zip(replicas, own, strict=True) if token]
        assert {text(token) for token in new} == {"a-tok-3"}
        assert [each.script.requests for each in replicas] == [3, 1, 1]


async def test_while_the_store_hangs_the_old_token_serves_on(tmp_path: Path, start: Start) -> None:
    server = Server(tmp_path)
    one = Replica(server.url)
    old = await one.source.get()
    server.pause()
    start(one.source.run())
    await one.clock.advance(500)
    for _ in range(5):
        assert await one.source.get() is old
    await until(lambda: text(one.source.current()) == "a-tok-2")
    assert one.told == ["fetched", "fallback"]
    server.resume()
    server.stop()


async def test_what_a_store_was_asked_before_it_hung_does_no_harm_when_it_wakes(
    tmp_path: Path, start: Start
) -> None:
    server = Server(tmp_path)
    one, two = Replica(server.url, "a"), Replica(server.url, "b")
    server.pause()
    assert text(await one.source.get()) == "a-tok-1"
    server.resume()
    assert text(await two.source.get()) == "b-tok-1"
    assert two.told == ["fetched"]
    assert not server.keys(":lease")
    server.stop()
