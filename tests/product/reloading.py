"""A proxy whose settings lie in a folder, and are read again."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.settings import KEYS
from tests.product.command import Running, before, running
from tests.support.caller import fetch
from tests.support.emr import EMR
from tests.support.upstream import Upstream

NOTHING = "changed: nothing"


class Place:
    """A folder with a `.env`, and a proxy that knows what stands there and nothing else."""

    proxy: Running
    port: int
    admin: int

    def __init__(self, fumage: Upstream, emr: EMR, folder: Path):
        self.fumage, self.emr, self.folder = fumage, emr, folder
        self.env = before(fumage, emr)
        self.write()

    def write(self, **more: str) -> None:
        """The `.env`; `more` by key."""
        named = {KEYS[key].environment: value for key, value in more.items()}
        lines = [f"{name}='{value}'\n" for name, value in (self.env | named).items()]
        (self.folder / ".env").write_text("".join(lines))

    @asynccontextmanager
    async def started(self, *arguments: str, **env: str) -> AsyncIterator[Running]:
        async with running(*arguments, cwd=self.folder, env=env) as self.proxy:
            self.port, self.admin = await self.proxy.port(), await self.proxy.admin_port()
            await self.proxy.says("A new token is in use")
            yield self.proxy

    async def reload(self, **more: str) -> str:
        """Write `more` into the `.env`, have it read, and return what is told until that is over."""
        self.write(**more)
        return await self.again()

    async def again(self) -> str:
        self.proxy.err.clear()
        self.proxy.terminate(signal.SIGHUP)
        await self.proxy.says(r"The settings were read again|got no token: nothing was changed")
        return "\n".join(self.proxy.err)

    async def status(self, *request: str, **shape: str) -> int:
        return (await fetch(self.port, *request, **shape)).status  # type: ignore[arg-type]
