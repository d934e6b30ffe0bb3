import argparse
import socket
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from proxy import sandbox as package
from proxy.sandbox import Sandbox, add_arguments, from_arguments


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(flags)


async def test_the_settings_point_a_proxy_at_the_sandbox(sandbox: Sandbox, http: httpx.AsyncClient) -> None:
    settings = sandbox.settings()
    assert list(settings) == [
        "FUMAGE_BASE_URL",
        "CANVAS_API_CLIENT_ID",
        "CANVAS_API_CLIENT_SECRET",
        "FUMAGE_PROXY_TOKEN_URL",
    ]
    form = {
        "grant_type": "client_credentials",
        "client_id": settings["CANVAS_API_CLIENT_ID"],
        "client_secret": settings["CANVAS_API_CLIENT_SECRET"],
    }
    token = (await http.post(settings["FUMAGE_PROXY_TOKEN_URL"], data=form)).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    answer = await http.get(f"{settings['FUMAGE_BASE_URL']}/Patient?name=Briddle", headers=bearer)
    assert answer.json()["total"] == 1


async def test_fixed_ports_are_taken() -> None:
    fumage, emr, control = free_ports(3)
    async with Sandbox(fumage_port=fumage, emr_port=emr, control_port=control) as sandbox:
        assert sandbox.fumage_url == f"http://127.0.0.1:{fumage}"
        assert sandbox.token_url == f"http://127.0.0.1:{emr}/auth/token/"
        assert sandbox.control_url == f"http://127.0.0.1:{control}"


async def test_an_occupied_port_is_an_error_that_leaves_nothing_open(sandbox: Sandbox) -> None:
    occupied = urlsplit(sandbox.control_url).port
    assert occupied is not None
    (fumage,) = free_ports(1)
    with pytest.raises(OSError, match="in use"):
        await Sandbox(fumage_port=fumage, control_port=occupied).start()
    async with Sandbox(fumage_port=fumage):
        pass


async def test_a_port_can_be_taken_again_at_once(http: httpx.AsyncClient) -> None:
    (fumage,) = free_ports(1)
    for _ in range(2):
        async with Sandbox(fumage_port=fumage) as sandbox:
            assert (await http.get(f"{sandbox.fumage_url}/metadata")).status_code == 200


async def test_a_closed_sandbox_does_not_answer_and_may_be_closed_again(http: httpx.AsyncClient) -> None:
    async with Sandbox() as sandbox:
        pass
    await sandbox.close()
    for url in (sandbox.fumage_url, sandbox.token_url, sandbox.control_url):
        with pytest.raises(httpx.ConnectError):
            await http.get(url)


async def test_two_sandboxes_hold_the_same_people(http: httpx.AsyncClient) -> None:
    async with Sandbox() as one, Sandbox() as other:
        ids = [
            [found["id"] for found in running.store.search("Patient", [], None)] for running in (one, other)
        ]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {"token_endpoint": None, "fumage": None, "slow_by": 5.0}),
        (
            ("--token-endpoint", "slow", "--slow-by", "250ms"),
            {"token_endpoint": {"kind": "slow", "times": None}, "fumage": None, "slow_by": 0.25},
        ),
        (
            ("--fumage", "always-401", "--times", "2"),
            {"token_endpoint": None, "fumage": {"kind": "always-401", "times": 2}, "slow_by": 5.0},
        ),
    ],
)
def test_faults_may_be_flags(flags: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert from_arguments(parse(*flags)).faults.state() == expected


async def test_ports_lifetime_and_client_id_may_be_flags(http: httpx.AsyncClient) -> None:
    (fumage,) = free_ports(1)
    flags = ("--fumage-port", str(fumage), "--token-lifetime", "5m", "--client-id", "me")
    async with from_arguments(parse(*flags)) as sandbox:
        assert sandbox.fumage_url == f"http://127.0.0.1:{fumage}"
        assert sandbox.client_id == "me"
        assert sandbox.tokens.lifetime == 300


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--token-lifetime", "soon"), "no duration"),
        (("--token-lifetime", "0"), "has to live"),
        (("--slow-by", "1h"), "no duration"),
        (("--fumage-port", "65536"), "no port"),
        (("--times", "0"), "no whole number"),
        (("--fumage", "explode"), "invalid choice"),
    ],
)
def test_wrong_flags_are_explained(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*flags)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_times_without_a_fault_is_an_error() -> None:
    with pytest.raises(ValueError, match="times needs a fault"):
        from_arguments(parse("--times", "2"))


def test_the_help_can_be_formatted() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert "--token-lifetime DURATION" in parser.format_help()


def test_flags_do_not_import_aiohttp() -> None:
    code = (
        "import argparse, sys; from proxy.sandbox import add_arguments;"
        "add_arguments(argparse.ArgumentParser()); print('aiohttp' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_package_has_no_other_late_names() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = package.Nothing  # type: ignore[attr-defined]
