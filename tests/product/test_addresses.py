"""Names that stand for two addresses of which one is dead: the command, with a hosts file of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from proxy.listen import bind
from proxy.settings import TCP
from tests.product.command import COMMAND, before, running
from tests.support.caller import fetch
from tests.support.emr import EMR
from tests.support.upstream import Upstream

BOTH = ("::1", "127.0.0.1")
Dead = Callable[[str, int], AbstractContextManager[None]]
MOUNT = 'mount --bind "$0" /etc/hosts && exec "$@"'


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, ...]:
    """The command where localhost is ::1 and 127.0.0.1."""
    if {found[4][0] for found in socket.getaddrinfo("localhost", 1)}.issuperset(BOTH):
        return COMMAND
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{address} localhost\n" for address in BOTH))
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    mounted = ("unshare", "--mount", *as_root, "sh", "-c", MOUNT, str(hosts))
    try:
        tried = subprocess.run([*mounted, "true"], capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"localhost is one address alone, and there is no unshare: {error}")
    if tried.returncode:
        pytest.skip(f"localhost is one address alone, and no other hosts file may be mounted: {tried.stderr}")
    return (*mounted, *COMMAND)


@contextmanager
def nobody(host: str, port: int) -> Iterator[None]:
    """A connection there is refused."""
    yield


@contextmanager
def silence(host: str, port: int) -> Iterator[None]:
    """A connection there is neither accepted nor refused, as if the packets got lost."""
    (one,) = bind((TCP(host, port),), lenient=False)
    with closing(one):
        one.take_no_more()
        yield


SILENT = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets packets be dropped")


@pytest.mark.parametrize("dead", [nobody, pytest.param(silence, marks=SILENT)], ids=lambda how: how.__name__)
@pytest.mark.parametrize("alive", BOTH)
async def test_a_name_is_reached_by_whichever_of_its_addresses_answers(
    alive: str,
    dead: Dead,
    command: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """Whichever family is preferred here: one of the two runs has a dead address as the first one."""
    other = next(address for address in BOTH if address != alive)
    async with Upstream(host=alive) as fumage, EMR(host=alive) as emr:
        env = before(fumage, emr) | {
            "FUMAGE_BASE_URL": f"http://localhost:{fumage.port}",
            "FUMAGE_PROXY_TOKEN_URL": f"http://localhost:{emr.port}/auth/token/",
        }
        with dead(other, fumage.port), dead(other, emr.port):
            async with running(cwd=tmp_path, env=env, prefix=command) as proxy:
                port = await proxy.port()
                for method, body in (("GET", None), ("POST", b"{}")):
                    assert (await fetch(port, method, body=body)).status == 200
                assert fumage.seen[0].bearer == "token-1"
