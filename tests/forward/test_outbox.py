"""Requests to Fumage that begin in one turn of the loop leave together at its end."""

import asyncio
import socket
from typing import Any

import pytest

from proxy.forward.outbound import Connection, Outbox
from proxy.rules.errors import FumageConnectionLost

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Wire:
    """A transport that notes what is written, in one list for all."""

    def __init__(self, written: list[bytes]):
        self._written = written
        self._sock = socket.socket()

    def write(self, data: bytes) -> None:
        self._written.append(data)

    def set_write_buffer_limits(self, high: int) -> None:
        assert high == 0

    def get_extra_info(self, name: str) -> socket.socket:
        return self._sock

    def abort(self) -> None:
        self._sock.close()


@pytest.fixture
def written() -> list[bytes]:
    return []


def connected(outbox: Outbox | None, written: list[bytes]) -> Connection:
    connection = Connection(outbox=outbox)
    wire: Any = Wire(written)
    connection.connection_made(wire)
    return connection


async def test_whole_requests_of_one_turn_leave_together_in_their_order(written: list[bytes]) -> None:
    outbox = Outbox()
    connections = [connected(outbox, written) for _ in range(3)]
    for number, connection in enumerate(connections):
        connection.begin(b"%d" % number + HEAD, head_only=False, whole=True)
    assert written == []
    await asyncio.sleep(0)
    assert written == [b"%d" % number + HEAD for number in range(3)]
    connections[1].begin(HEAD, head_only=False, whole=True)
    await asyncio.sleep(0)
    assert len(written) == 4
    for connection in connections:
        connection.abort()


async def test_the_beginning_of_a_longer_request_leaves_at_once(written: list[bytes]) -> None:
    connection = connected(Outbox(), written)
    connection.begin(HEAD, head_only=False, whole=False)
    connection.write(b"body")
    assert written == [HEAD, b"body"]
    connection.abort()


async def test_without_an_outbox_all_leaves_at_once(written: list[bytes]) -> None:
    connection = connected(None, written)
    connection.begin(HEAD, head_only=False, whole=True)
    assert written == [HEAD]
    connection.abort()


async def test_nothing_overtakes_what_waits(written: list[bytes]) -> None:
    connection = connected(Outbox(), written)
    connection.begin(HEAD, head_only=False, whole=True)
    connection.write(b"more")
    assert written == [HEAD, b"more"]
    await asyncio.sleep(0)
    assert written == [HEAD, b"more"], "and it leaves once"
    connection.abort()


async def test_a_connection_that_ends_meanwhile_sent_nothing_and_holds_up_nobody(
    written: list[bytes],
) -> None:
    outbox = Outbox()
    first, second = connected(outbox, written), connected(outbox, written)
    first.begin(b"lost" + HEAD, head_only=False, whole=True)
    second.begin(HEAD, head_only=False, whole=True)
    first.abort()
    await asyncio.sleep(0)
    assert written == [HEAD]
    with pytest.raises(FumageConnectionLost) as caught:
        first.answer()
    assert caught.value.details == "not-sent"
    second.abort()
