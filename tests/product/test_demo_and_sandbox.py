"""The commands that need no settings."""

import re
import shlex
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.product.command import FREE_PORTS, running
from tests.support.caller import fetch

IN_THE_WAY = {
    "FUMAGE_BASE_URL": "not a URL",
    "CANVAS_API_CLIENT_SECRET": "s3cret",
    "FUMAGE_PROXY_NONSENSE": "1",
    "FUMAGE_PROXY_CONFIG": "/nowhere",
    "FUMAGE_PROXY_LISTEN": "127.0.0.1:1",
}


async def test_demo_tells_a_curl_line_that_works(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FUMAGE_PROXY_MAX_HEAD=much\n")
    async with running("demo", cwd=tmp_path, env=IN_THE_WAY) as demo:
        line = (await demo.says(r"curl '(http://[^']+/Patient\?name=Briddle)'"))[0]
        await demo.says("Ctrl-C ends both")
        url = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/\S+)", shlex.split(line)[1])
        assert url
        bundle = (await fetch(int(url[1]), "GET", url[2])).json()
        assert (bundle["resourceType"], bundle["total"]) == ("Bundle", 1)
        demo.terminate(signal.SIGINT)
        assert await demo.ended() == 0
    assert not any("Traceback" in line for line in demo.err)


async def test_demo_takes_other_ports_where_the_usual_ones_are_taken(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for port in (3447, 3448):
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                pass  # somebody else has it: as good
        async with running("demo", cwd=tmp_path) as demo:
            port = int((await demo.says(r"curl 'http://127\.0\.0\.1:(\d+)/"))[1])
            assert port != 3447
            assert (await fetch(port, "GET", "/Patient")).status == 200
            assert demo.out[0] == "The usual ports are taken, so these are others."


async def test_the_sandbox_prints_the_settings_that_point_a_proxy_at_it(tmp_path: Path) -> None:
    async with running("sandbox", cwd=tmp_path, env=IN_THE_WAY) as sandbox:
        await sandbox.says("control endpoint on http://127")
        await sandbox.says("FUMAGE_PROXY_TOKEN_URL=")
        (tmp_path / ".env").write_text("\n".join(sandbox.out) + "\n")
        async with running(cwd=tmp_path, env=FREE_PORTS) as proxy:
            assert (await fetch(await proxy.port(), "GET", "/Patient?name=Briddle")).json()["total"] == 1
        sandbox.terminate()
        assert await sandbox.ended() == 0


@pytest.mark.parametrize(
    "arguments", [["--fumage-port", "70000"], ["--token-lifetime", "0"], ["--fumage", "x"]]
)
async def test_a_wrong_sandbox_is_2(arguments: list[str], tmp_path: Path) -> None:
    async with running("sandbox", *arguments, cwd=tmp_path) as sandbox:
        assert await sandbox.ended() == 2


async def test_a_port_that_the_sandbox_cannot_have_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with running("sandbox", "--emr-port", port, cwd=tmp_path) as sandbox:
            assert await sandbox.ended() == 1
    assert len(sandbox.err) == 1
    assert port in sandbox.err[0]
