"""`fumage-proxy serve`, from outside."""

import json
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.forward.fumage import authority, server
from tests.product.command import COMMAND, SECRET, Running, before, run, running
from tests.support.caller import Caller, fetch
from tests.support.emr import EMR, refuse
from tests.support.upstream import Upstream


def taken() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


async def text(path: str, port: int | None, *, unix: str | None = None) -> tuple[int, str]:
    answer = await fetch(port, "GET", path, path=unix)
    return answer.status, answer.body.decode()


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["default", "serve"])
async def test_a_plain_request_comes_back_with_what_fumage_answered(
    command: list[str], fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    async with running(*command, cwd=tmp_path, env=before(fumage, emr)) as proxy:
        answer = await fetch(await proxy.port())
        assert (answer.status, answer.json()) == (200, {"resourceType": "Patient"})
        assert fumage.seen[0].bearer == "token-1"
        proxy.terminate()
        assert await proxy.ended() == 0
        assert SECRET not in "\n".join(proxy.err)


async def test_it_trusts_who_the_system_trusts(emr: EMR, tmp_path: Path) -> None:
    (tmp_path / "system.pem").write_bytes(authority().cert_pem.bytes())
    trust = {"SSL_CERT_FILE": str(tmp_path / "system.pem")}
    async with (
        Upstream(tls=server()) as fumage,
        running(cwd=tmp_path, env=before(fumage, emr) | trust) as proxy,
    ):
        assert (await fetch(await proxy.port())).status == 200


async def test_settings_come_from_the_env_file_of_the_folder(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    lines = [f"{name}={value}\n" for name, value in before(fumage, emr).items()]
    (tmp_path / ".env").write_text("".join(lines))
    async with running(cwd=tmp_path) as proxy:
        assert (await fetch(await proxy.port())).status == 200


async def test_the_port_that_was_picked_is_told_at_every_log_level(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    async with running("--log-level", "error", cwd=tmp_path, env=before(fumage, emr)) as proxy:
        assert (await fetch(await proxy.port())).status == 200
        assert await text("/livez", await proxy.admin_port()) == (200, "ok\n")
        proxy.terminate()
        await proxy.ended()
    assert len(proxy.err) == 2, "nothing else is told at that level"


async def test_the_log_is_json_lines_where_nobody_sits(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    async with running(cwd=tmp_path, env=before(fumage, emr)) as proxy:
        await fetch(await proxy.port(), "GET", "/Patient/secret-id?name=Briddle")
        await proxy.says('"message": "request"')
        proxy.terminate()
        await proxy.ended()
    lines = [json.loads(line) for line in proxy.err]
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    request = next(line for line in lines if line["message"] == "request")
    assert (request["method"], request["status"], request["origin"]) == ("GET", 200, "fumage")
    assert "secret-id" not in "\n".join(proxy.err)
    assert "Briddle" not in "\n".join(proxy.err)


async def test_the_log_is_text_on_request(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    async with running("--log-format", "text", cwd=tmp_path, env=before(fumage, emr)) as proxy:
        await fetch(await proxy.port())
        await proxy.says(r"info +GET Patient/\{id\} -> 200 from fumage")
        assert not any(line.startswith("{") for line in proxy.err)


async def test_a_second_instance_says_what_is_in_its_way(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    env = before(fumage, emr)
    async with running(cwd=tmp_path, env=env) as first:
        port, admin = await first.port(), await first.admin_port()
        for key, address in (("LISTEN", f"127.0.0.1:{port}"), ("ADMIN_LISTEN", f"127.0.0.1:{admin}")):
            async with running(cwd=tmp_path, env={**env, f"FUMAGE_PROXY_{key}": address}) as second:
                await second.says(
                    f"Cannot listen on {address}: Address already in use. Is another fumage-proxy"
                )
                assert await second.ended() == 1
                assert len(second.err) == 1
        assert (await fetch(port)).status == 200
    assert emr.requests == 1, "a second instance asks for no token before it has its sockets"


async def test_the_default_needs_its_ports_free(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    """A missing address family is skipped in the default, an occupied port never."""
    env = {key: value for key, value in before(fumage, emr).items() if not key.endswith("LISTEN")}
    try:
        occupied = socket.create_server(("127.0.0.1", 3447))
    except OSError:
        pytest.skip("somebody else listens on 3447")
    with occupied:
        async with running(cwd=tmp_path, env=env) as proxy:
            await proxy.says(r"Cannot listen on 127\.0\.0\.1:3447")
            assert await proxy.ended() == 1


async def test_a_restart_gets_the_same_port_at_once(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    env = before(fumage, emr)
    async with running(cwd=tmp_path, env=env) as proxy:
        port = await proxy.port()
        async with await Caller.connect(port) as caller:
            assert (await caller.request()).status == 200
            proxy.terminate()
            assert await proxy.ended() == 0
    async with running(cwd=tmp_path, env={**env, "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}"}) as proxy:
        assert await proxy.port() == port
        assert (await fetch(port)).status == 200


async def test_a_port_alone_means_all_addresses_of_both_families(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    with taken() as free:
        port = free.getsockname()[1]
    env = {**before(fumage, emr), "FUMAGE_PROXY_LISTEN": f":{port}"}
    refused = run(cwd=tmp_path, env=env)
    assert refused.returncode == 78
    assert "FUMAGE_PROXY_UNSAFE_LISTEN" in refused.stderr
    async with running("--unsafe-listen", cwd=tmp_path, env=env) as proxy:
        await proxy.says(rf"Listening on http://0\.0\.0\.0:{port}, http://\[::\]:{port}")
        assert (await fetch(port)).status == 200
        async with await Caller.connect(port, "::1") as caller:
            assert (await caller.request()).status == 200


async def test_allowed_hosts_are_added_to_the_defaults(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    env = before(fumage, emr)
    async with running("--allowed-hosts", "fhir.internal", cwd=tmp_path, env=env) as proxy:
        port = await proxy.port()
        status = {
            host: (await fetch(port, host=host)).status
            for host in (
                "fhir.internal",
                "FHIR.internal:80",
                "localhost",
                "127.0.0.1:1",
                "[::1]",
                "evil.example",
            )
        }
    assert status.pop("evil.example") == 403
    assert set(status.values()) == {200}


async def test_a_log_that_nobody_reads_does_not_end_it(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    with taken() as free:
        port = free.getsockname()[1]
    env = {**before(fumage, emr), "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}"}
    deaf = ("bash", "-c", '("$0" "$@" 2>&3; echo "ended $?") 3> >(head -n 1 >&2)', *COMMAND)
    async with running(cwd=tmp_path, env=env, prefix=deaf) as proxy:
        await proxy.says("Listening on")
        for _ in range(3):
            assert (await fetch(port)).status == 200
        assert run("health", cwd=tmp_path, env=env).returncode == 1  # port 0
        pid = next(
            int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _listens(int(entry), port)
        )
        os.kill(pid, signal.SIGTERM)
        await proxy.says("ended 0")


def _listens(pid: int, port: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"FUMAGE_PROXY_LISTEN=127.0.0.1:%d" % port in words and command[1:3] == [b"-m", b"proxy"]


# Containers


async def _lines(fumage: Upstream, emr: EMR, folder: Path, **env: str) -> list[str]:
    """What is told at the start in a pod."""
    given = {**before(fumage, emr), "KUBERNETES_SERVICE_HOST": "10.0.0.1", **env}
    async with running(cwd=folder, env=given) as proxy:
        await proxy.says("This is fumage-proxy")
        return list(proxy.err)


HINT = "published ports cannot reach it"


@pytest.mark.parametrize(
    ("listen", "unsafe", "told"),
    [
        ("127.0.0.1:0", "false", True),
        ("127.0.0.1:0", "true", True),
        ("0.0.0.0:0", "true", False),
        ("unix:{}/socket", "false", False),
        ("unix:{}/socket,[::1]:0", "false", True),
    ],
)
async def test_in_a_container_loopback_alone_is_pointed_out(
    listen: str, unsafe: str, told: bool, fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    env = {"FUMAGE_PROXY_LISTEN": listen.format(tmp_path), "FUMAGE_PROXY_UNSAFE_LISTEN": unsafe}
    assert any(HINT in line for line in await _lines(fumage, emr, tmp_path, **env)) is told


# Unix sockets


async def test_a_unix_socket_serves_any_host_and_goes_at_the_end(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    path, admin = tmp_path / "fhir.sock", tmp_path / "admin.sock"
    env = before(fumage, emr)
    env |= {"FUMAGE_PROXY_LISTEN": f"unix:{path},mode=0660", "FUMAGE_PROXY_ADMIN_LISTEN": f"unix:{admin}"}
    async with running(cwd=tmp_path, env=env) as proxy:
        await proxy.says(f"Listening on unix:{path}")
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(admin.stat().st_mode)) == (0o660, 0o600)
        assert (await fetch(None, path=str(path), host="whatever.example")).status == 200
        assert await text("/readyz", None, unix=str(admin)) == (200, "ok\n")
        proxy.terminate()
        assert await proxy.ended() == 0
    assert not path.exists()
    assert not admin.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_refused(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    path = tmp_path / "fhir.sock"
    env = {**before(fumage, emr), "FUMAGE_PROXY_LISTEN": f"unix:{path}"}
    async with running(cwd=tmp_path, env=env) as first:
        await first.says("Listening on unix:")
        second = run(cwd=tmp_path, env=env)
        assert second.returncode == 1
        assert f"Cannot listen on unix:{path}: somebody listens there" in second.stderr
        assert (await fetch(None, path=str(path))).status == 200
        first.process.kill()
        await first.ended()
    assert path.exists()
    async with running(cwd=tmp_path, env=env) as third:
        await third.says("Listening on unix:")
        assert (await fetch(None, path=str(path))).status == 200


async def test_what_is_no_socket_is_left_alone(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    ended = run(cwd=tmp_path, env={**before(fumage, emr), "FUMAGE_PROXY_LISTEN": f"unix:{path}"})
    assert ended.returncode == 1
    assert "not a socket" in ended.stderr
    assert path.read_text() == "data"


async def test_a_relative_socket_path_is_78(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    ended = run(cwd=tmp_path, env={**before(fumage, emr), "FUMAGE_PROXY_LISTEN": "unix:fhir.sock"})
    assert ended.returncode == 78
    assert "absolute path" in ended.stderr


# Health


async def test_it_starts_while_the_emr_is_down_and_becomes_ready_by_itself(
    fumage: Upstream, emr: EMR, tmp_path: Path
) -> None:
    emr.script.append(refuse("server_error", 500))
    async with running(cwd=tmp_path, env=before(fumage, emr)) as proxy:
        admin = await proxy.admin_port()
        assert await text("/livez", admin) == (200, "ok\n")
        await proxy.says("No token: ")
        for path in ("/startupz", "/readyz"):
            status, reason = await text(path, admin)
            assert status == 503
            assert reason.startswith("no token yet: ")
        await proxy.says("A new token is in use", seconds=10)
        assert await text("/startupz", admin) == (200, "ok\n")
        await emr.stop()  # an outage afterwards is no reason to restart or to unready anything
        assert await text("/readyz", admin) == (200, "ok\n")


async def _health(proxy: Running, folder: Path, address: str, *arguments: str) -> tuple[int, str, str]:
    async with running(*arguments, cwd=folder, env={"FUMAGE_PROXY_ADMIN_LISTEN": address}) as command:
        code = await command.ended()
    return code, "\n".join(command.out), "\n".join(command.err)


async def test_health_and_wait_need_no_credentials(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    async with running(cwd=tmp_path, env=before(fumage, emr)) as proxy:
        address = f"127.0.0.1:{await proxy.admin_port()}"
        await proxy.says("A new token is in use")
        assert await _health(proxy, tmp_path, address, "health") == (0, "ready", "")
        assert await _health(proxy, tmp_path, address, "wait", "--max", "5s") == (0, "ready", "")
    code, _, told = await _health(proxy, tmp_path, address, "health")
    assert (code, "no proxy answers on " + address in told) == (1, True)


async def test_wait_sees_a_proxy_that_starts_later(fumage: Upstream, emr: EMR, tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin.sock"
    env = {**before(fumage, emr), "FUMAGE_PROXY_ADMIN_LISTEN": admin}
    async with (
        running("wait", "--admin-listen", admin, cwd=tmp_path) as waiting,
        running(cwd=tmp_path, env=env),
    ):
        assert await waiting.ended() == 0


async def test_health_imports_neither_asyncio_nor_aiohttp(tmp_path: Path) -> None:
    prefix = (COMMAND[0], "-X", "importtime", *COMMAND[1:])
    async with running("health", cwd=tmp_path, prefix=prefix) as command:
        assert await command.ended() == 1
    imported = {line.rpartition("|")[2].strip() for line in command.err}
    assert "socket" in imported
    assert not imported & {"asyncio", "aiohttp", "http.client", "importlib.metadata"}
