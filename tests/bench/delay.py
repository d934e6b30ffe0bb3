"""A wire with a length: a relay that gives every connection a round-trip time.

`python -m tests.bench.delay PORT TARGET_PORT MILLISECONDS` (of one direction). Bytes are held for that long
in each direction. The kernel accepts at once, so what the caller sends first is held for the handshake as
well: on a real wire the caller could not have sent it before SYN and SYN-ACK had crossed.
"""

import asyncio
import sys

_BLOCK = 1 << 16
_Held = asyncio.Queue[tuple[float, bytes]]  # when it is to arrive, and what; b"" is the end


class Wire:
    def __init__(self, target: int, one_way: float):
        self._target, self._one_way = target, one_way

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both of its directions have ended."""
        established = asyncio.get_running_loop().time() + 2 * self._one_way
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._direction(reader, there_writer, established))
            both.create_task(self._direction(there_reader, writer, 0))

    async def _direction(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, not_before: float
    ) -> None:
        held: _Held = asyncio.Queue()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._take(reader, held, not_before))
            both.create_task(_deliver(held, writer))

    async def _take(self, reader: asyncio.StreamReader, held: _Held, not_before: float) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            try:
                data = await reader.read(_BLOCK)
            except ConnectionError:
                data = b""
            held.put_nowait((max(clock(), not_before) + self._one_way, data))
            if not data:
                return


async def _deliver(held: _Held, writer: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due, data = await held.get()
        await asyncio.sleep(due - clock())
        if not data:
            writer.close()
            return
        writer.write(data)


async def main() -> None:
    port, target, milliseconds = (float(argument) for argument in sys.argv[1:])
    wire = Wire(int(target), milliseconds / 1e3)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", int(port), backlog=128)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
