"""config/kubernetes: valid by Kubernetes' own schema, and what they start works."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.sandbox import Sandbox
from tests.config.examples import ADMIN_LISTEN, CONFIG, Example, image, read, settings_of
from tests.support.caller import Answer, Caller, fetch

STORE = "token-store.yaml"  # has tests of its own
FILES = sorted({path.name for path in (CONFIG / "kubernetes").iterdir()} - {STORE})
NATIVE = ("native-sidecar.yaml", "job.yaml", "shared-token.yaml")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not an address")
every_file = pytest.mark.parametrize("name", FILES)


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(f"kubernetes/{name}")["spec"]["template"]["spec"]
    return spec


def sidecar(name: str) -> dict[str, Any]:
    spec = pod(name)
    found = [
        container
        for container in (*spec.get("initContainers", ()), *spec["containers"])
        if container["name"] == "fumage-proxy"
    ]
    assert len(found) == 1
    only: dict[str, Any] = found[0]
    return only


def example(name: str) -> Example:
    container = sidecar(name)
    entrypoint, command = image()
    argv = [*container.get("command", entrypoint), *container.get("args", command)]
    return Example(argv, {each["name"]: each["value"] for each in container["env"]})


@every_file
def test_the_manifest_is_valid(name: str) -> None:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(CONFIG / "kubernetes" / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@every_file
def test_it_is_hardened(name: str) -> None:
    spec, container = pod(name), sidecar(name)
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["enableServiceLinks"] is False
    assert container["resources"].keys() == {"requests", "limits"}
    assert not any("subPath" in mount for mount in container["volumeMounts"]), "a new secret would not arrive"


@every_file
def test_its_values_are_settings_and_fhir_stays_in_the_pod(name: str, tmp_path: Path) -> None:
    settings = settings_of(example(name), tmp_path)
    assert str(settings.token_url) == "https://example.canvasmedical.com/auth/token/"
    assert not settings.unsafe_listen
    grace = pod(name)["terminationGracePeriodSeconds"]
    assert grace > settings.drain_delay + settings.drain_timeout
    mounted = [mount["mountPath"] for mount in sidecar(name)["volumeMounts"]]
    assert str(Path(example(name).env["CANVAS_API_CLIENT_SECRET_FILE"]).parent) in mounted


@pytest.mark.parametrize("name", NATIVE)
def test_a_native_sidecar_is_an_init_container_that_keeps_running(name: str) -> None:
    assert [each["restartPolicy"] for each in pod(name)["initContainers"]] == ["Always"]
    assert "startupProbe" in sidecar(name), "else the app starts before the proxy listens"


def test_the_strict_choice_is_valid_as_well() -> None:
    text = (CONFIG / "kubernetes" / "native-sidecar.yaml").read_text()
    commented = re.findall(r"^ +# (httpGet: .*|failureThreshold: .*)$", text, re.MULTILINE)
    strict = {**sidecar("native-sidecar.yaml")["startupProbe"], **yaml.safe_load("\n".join(commented))}
    usual = sidecar("job.yaml")["startupProbe"]
    assert strict == usual, "a job waits for the first token"


@on_linux
@every_file
async def test_the_app_is_pointed_at_the_proxy_and_the_kubelet_at_its_probes(
    name: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    here = example(name).here(sandbox, tmp_path)
    app = next(each for each in pod(name)["containers"] if each["name"] != "fumage-proxy")
    base = next(each["value"] for each in app["env"] if each["name"] == "FHIR_BASE_URL")
    assert base == "http://localhost:3447"
    async with here.started():
        async with here.execute("fumage-proxy", "wait") as wait:
            assert await wait.ended() == 0
        found = await fetch(
            here.ports[3447], "GET", "/Patient?name=Briddle", host=here.local(base).split("//")[1]
        )
        assert (found.status, found.json()["total"]) == (200, 1)
        for path in probes(name):
            assert (await from_elsewhere(here.ports[3448], path)).status == 200
        with pytest.raises(ConnectionRefusedError):
            await from_elsewhere(here.ports[3447], "/Patient")


def probes(name: str) -> set[str]:
    container = sidecar(name)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    asked = [container[kind]["httpGet"] for kind in container if kind.endswith("Probe")]
    assert {f":{ports[get['port']]}" for get in asked} == {example(name).env[ADMIN_LISTEN]}
    return {get["path"] for get in asked}


async def from_elsewhere(port: int, path: str) -> Answer:
    """To an address that a listener on 127.0.0.1 does not have, with the pod's address as Host."""
    async with await Caller.connect(port, "127.0.0.2") as caller:
        return await caller.request("GET", path, host="10.1.2.3:3448")


@pytest.mark.parametrize("name", [name for name in FILES if name not in NATIVE])
async def test_the_hook_that_holds_the_app_back_ends_once_the_proxy_is_ready(
    name: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    assert pod(name)["containers"][0]["name"] == "fumage-proxy", "containers start in this order"
    here = example(name).here(sandbox, tmp_path)
    async with (
        here.started(),
        here.execute(*sidecar(name)["lifecycle"]["postStart"]["exec"]["command"]) as hook,
    ):
        await hook.says("ready")
        assert await hook.ended() == 0


async def test_a_plain_sidecar_still_serves_newcomers_after_it_was_told_to_stop(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    here = example("plain-sidecar.yaml").here(sandbox, tmp_path)
    async with here.started() as proxy:
        proxy.terminate()
        await proxy.says("Stopping")
        assert (await fetch(here.ports[3447], "GET", "/Patient")).status == 200
        assert (await fetch(here.ports[3448], "GET", "/readyz")).status == 503


@pytest.mark.parametrize("code", [0, 3])
async def test_a_plain_sidecar_of_a_job_ends_with_the_app(
    code: int, sandbox: Sandbox, tmp_path: Path
) -> None:
    here = example("plain-sidecar-job.yaml").here(sandbox, tmp_path)
    shell, option, script = pod("plain-sidecar-job.yaml")["containers"][1]["command"]
    job = tmp_path / "legacy-job"
    job.write_text(f"#!/bin/sh\nexit {code}\n")
    job.chmod(0o755)
    async with here.started() as proxy, here.execute(shell, option, here.local(script)) as app:
        assert await app.ended() == code
        assert await proxy.ended() == 0
