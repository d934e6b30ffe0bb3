"""Connections that nobody uses do not keep others out of the admin listener."""

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from aiohttp import web

from proxy.admin.door import Door
from proxy.admin.server import CONNECTIONS
from tests.support.caller import Broken, Caller, fetch
from tests.support.product import Product

BEGUN = [
    b"",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: ",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
]


async def cut(caller: Caller) -> bool:
    """Whether the connection ends; answers before that do not count."""
    try:
        while await caller.answer():
            pass
    except Broken:
        return True
    return False


@pytest.mark.parametrize("begun", BEGUN, ids=["nothing", "half a head", "no body"])
async def test_idle_connections_do_not_keep_the_probes_out(begun: bytes) -> None:
    async with Product() as product, AsyncExitStack() as stack:
        await fetch(product.port)  # which waits for the first token
        idle = []
        for _ in range(CONNECTIONS + 9):
            idle.append(await stack.enter_async_context(await Caller.connect(product.admin_port)))
            await idle[-1].send(begun)
        assert (await fetch(product.admin_port, "GET", "/readyz")).status == 200
        for one in idle[:10]:
            assert await cut(one)
        assert not any(one.ending for one in idle[10:])


async def test_the_connection_that_has_been_silent_for_longest_has_to_go() -> None:
    async with Product() as product, AsyncExitStack() as stack:

        async def another() -> Caller:
            caller = await stack.enter_async_context(await Caller.connect(product.admin_port))
            assert (await caller.request("GET", "/livez")).status == 200
            return caller

        first, second, *_ = [await another() for _ in range(CONNECTIONS)]
        assert (await first.request("GET", "/livez")).status == 200
        await another()
        with pytest.raises(Broken):
            await second.answer()
        assert (await first.request("GET", "/livez")).status == 200


async def test_those_that_left_are_not_counted(tmp_path: Path) -> None:
    path = f"{tmp_path}/admin"
    async with Product(admin_listen=f"unix:{path}"), await Caller.connect(path=path) as first:
        for _ in range(CONNECTIONS + 9):
            assert (await fetch(None, "GET", "/livez", path=path)).status == 200
        assert (await first.request("GET", "/livez")).status == 200


async def test_an_answer_that_nobody_reads_does_not_keep_its_connection() -> None:
    size = 16 * 1024 * 1024  # more than kernels take

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(body=bytes(size))

    inside = web.Server(answer)
    listening = await asyncio.get_running_loop().create_server(Door(inside, 2), "127.0.0.1")
    readers, writers = [], []
    for _ in range(3):
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert await reader.readexactly(1) == b"H"
        readers.append(reader)
        writers.append(writer)
    read = 1
    with suppress(ConnectionError):
        while data := await readers[0].read(65536):
            read += len(data)
    assert read < size
    for writer in writers:
        writer.transport.abort()
    listening.close()
    await inside.shutdown()
