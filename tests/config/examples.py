"""What the examples under config/ start, taken from their own text: a command line and an environment.

Replaced is only what belongs to the machine: the place of the program, the secret's file, the ports, and the
Canvas instance, for which the embedded sandbox stands.
"""

import argparse
import json
import re
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from proxy.sandbox import Sandbox
from proxy.settings import load
from tests.product.command import COMMAND, Running, running
from tests.support import unused_port

ROOT = Path(__file__).parent.parent.parent
CONFIG = ROOT / "config"
NAME = "fumage-proxy"
SECRET_FILE = "CANVAS_API_CLIENT_SECRET_FILE"
ADMIN_LISTEN = "FUMAGE_PROXY_ADMIN_LISTEN"
TOKEN_STORE = "FUMAGE_PROXY_TOKEN_STORE"
NOBODY = "redis://127.0.0.1:9"  # no store listens there


@dataclass(frozen=True)
class Example:
    argv: Sequence[str]  # begins with the name of the program
    env: Mapping[str, str]

    def here(self, sandbox: Sandbox, folder: Path, store: str = NOBODY) -> "Here":
        """On this machine, before this sandbox and with this store; `folder` gets the secrets that it lacks,
        and the command for shell lines."""
        ports = {3447: unused_port(), 3448: unused_port()}
        env = dict(self.env)
        for name in ("FUMAGE_PROXY_LISTEN", ADMIN_LISTEN):
            default = "127.0.0.1:3447" if name == "FUMAGE_PROXY_LISTEN" else "127.0.0.1:3448"
            env[name] = re.sub(r"344[78]", lambda m: str(ports[int(m[0])]), env.get(name, default))
        env |= secrets(self, folder, sandbox.client_secret)
        env |= {TOKEN_STORE: store} if TOKEN_STORE in env else {}
        env |= {name: value for name, value in sandbox.settings().items() if name in env}
        env["FUMAGE_PROXY_TOKEN_URL"] = sandbox.token_url
        shim = folder / NAME
        shim.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        shim.chmod(0o755)
        env |= {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        return Here(replace(self, env=env), ports, folder)


@dataclass(frozen=True)
class Here:
    example: Example
    ports: Mapping[int, int]  # by those of the example
    folder: Path

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Running]:
        async with self.execute(*self.example.argv) as proxy:
            await proxy.says("Listening on")
            yield proxy

    @asynccontextmanager
    async def execute(self, *command: str) -> AsyncIterator[Running]:
        """A command in the environment of the example, as `exec` in its container would run it."""
        prefix = COMMAND if command[0] == NAME else command[:1]
        async with running(*command[1:], cwd=self.folder, env=self.example.env, prefix=prefix) as process:
            yield process

    def local(self, text: str) -> str:
        """The same text with the ports of this machine."""
        return re.sub(r"(?<=:)344[78]\b", lambda m: str(self.ports[int(m[0])]), text)


def secrets(example: Example, folder: Path, client_secret: str) -> dict[str, str]:
    """The settings that name a secret's file, each with such a file in `folder`."""
    found = {}
    for name, path in example.env.items():
        if name.endswith("_FILE"):
            file = folder / Path(path).name
            if not file.exists():
                file.write_text((client_secret if name == SECRET_FILE else "5" * 64) + "\n")
            found[name] = str(file)
    return found


def read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONFIG / path).read_text())
    return found


def image() -> tuple[list[str], list[str]]:
    """ENTRYPOINT and CMD of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    entrypoint, command = (
        re.search(rf"^{word} (\[.*\])$", text, re.MULTILINE) for word in ("ENTRYPOINT", "CMD")
    )
    assert entrypoint
    assert command
    return json.loads(entrypoint[1]), json.loads(command[1])


def settings_of(example: Example, folder: Path) -> Any:
    """As the proxy reads them, exactly as they stand in the example but for the secrets' files."""
    env = {**example.env, **secrets(example, folder, "s")}
    return load(argparse.Namespace(), env, cwd=folder).settings
