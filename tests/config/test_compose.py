"""config/compose: valid by the Compose specification's schema, and what it starts works."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from proxy.sandbox import Sandbox
from tests.config.examples import CONFIG, SECRET_FILE, Example, image, read, settings_of
from tests.support.caller import fetch


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read("compose/compose.yaml")["services"][name]
    return found


def example() -> Example:
    entrypoint, command = image()
    proxy = service("fumage-proxy")
    argv = [*proxy.get("entrypoint", entrypoint), *proxy.get("command", command)]
    return Example(argv, proxy["environment"])


def test_the_file_is_valid() -> None:
    schema = ["--builtin-schema", "vendor.compose-spec"]
    command = [sys.executable, "-m", "check_jsonschema", *schema, str(CONFIG / "compose" / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_is_hardened() -> None:
    proxy = service("fumage-proxy")
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in proxy


def test_its_values_are_settings_and_fhir_stays_with_the_app(tmp_path: Path) -> None:
    settings = settings_of(example(), tmp_path)
    assert not settings.unsafe_listen
    assert settings.drain_delay + settings.drain_timeout < int(
        service("fumage-proxy")["stop_grace_period"].rstrip("s")
    )
    secrets = [f"/run/secrets/{name}" for name in service("fumage-proxy")["secrets"]]
    assert secrets == [example().env[SECRET_FILE]]


async def test_the_app_reaches_the_proxy_and_docker_learns_that_it_is_healthy(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    app = service("legacy-app")
    assert app["network_mode"] == "service:fumage-proxy"
    here = example().here(sandbox, tmp_path)
    async with here.started() as proxy:
        async with here.execute("fumage-proxy", "wait") as wait:
            assert await wait.ended() == 0
        kind, *health = service("fumage-proxy")["healthcheck"]["test"]
        assert kind == "CMD"
        async with here.execute(*health) as check:
            assert await check.ended() == 0
        base = here.local(app["environment"]["FHIR_BASE_URL"])
        assert (await fetch(here.ports[3447], "GET", "/Patient", host=base.split("//")[1])).status == 200
        proxy.terminate()
        assert await proxy.ended() == 0
