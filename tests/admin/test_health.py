"""The health answers, and the client that asks for them."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.admin.health import Target, wait, why_not_ready
from tests.support.caller import fetch
from tests.support.emr import EMR
from tests.support.product import Product
from tests.support.upstream import hang

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
DRAINING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\ndraining\n"


@pytest.fixture
async def product() -> AsyncIterator[Product]:
    async with Product() as running:
        await fetch(running.port)  # which waits for the first token
        yield running


@pytest.mark.parametrize("path", ["/livez", "/startupz", "/readyz"])
@pytest.mark.parametrize("host", ["localhost", "10.1.2.3:3448", "any.example"])
async def test_health_answers_any_host(path: str, host: str, product: Product) -> None:
    answer = await fetch(product.admin_port, "GET", path, host=host)
    assert (answer.status, answer.body) == (200, b"ok\n")
    head = await fetch(product.admin_port, "HEAD", path, host=host)
    assert (head.status, head.body) == (200, b"")


async def test_before_the_first_token_it_lives_but_is_neither_started_nor_ready() -> None:
    async with EMR() as emr:
        emr.answer = hang()
        async with Product(emr=emr) as product:
            status = {}
            for path in ("/livez", "/startupz", "/readyz"):
                answer = await fetch(product.admin_port, "GET", path)
                status[path] = answer.status
            assert status == {"/livez": 200, "/startupz": 503, "/readyz": 503}
            assert answer.body == b"no token yet: the first one is being fetched\n"


async def test_there_may_be_no_admin_listener() -> None:
    async with Product(admin_listen="off") as product:
        assert product.app.admin_bound == []
        assert (await fetch(product.port)).status == 200


async def test_it_may_be_a_unix_socket(tmp_path: Path) -> None:
    async with Product(admin_listen=f"unix:{tmp_path}/admin") as product:
        answer = await fetch(None, "GET", "/livez", path=f"{tmp_path}/admin", host="any.example")
        assert answer.status == 200
        assert product.fumage.seen == []


# The client


@contextmanager
def answering(*answers: bytes, family: int = socket.AF_INET, at: str | None = None) -> Iterator[Target]:
    """A server that gives these answers, one a connection, and then refuses."""
    server = socket.socket(family)
    server.bind(at or (("::1" if family == socket.AF_INET6 else "127.0.0.1"), 0))
    server.listen()

    def serve() -> None:
        for answer in answers:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(4096).startswith(b"GET /readyz HTTP/1.1\r\nHost: ")
                connection.sendall(answer)
        server.close()

    thread = threading.Thread(target=serve)
    thread.start()
    name = server.getsockname()
    yield name if isinstance(name, str) else name[:2]
    thread.join(5)
    assert not thread.is_alive()


def test_ready_is_no_reason() -> None:
    with answering(OK) as target:
        assert why_not_ready([target]) is None


def test_the_reason_is_the_one_that_the_proxy_gives() -> None:
    with answering(DRAINING) as target:
        assert why_not_ready([target]) == "draining"


def test_over_ipv6() -> None:
    with answering(OK, family=socket.AF_INET6) as target:
        assert why_not_ready([target]) is None


def test_over_a_unix_socket(tmp_path: Path) -> None:
    with answering(OK, family=socket.AF_UNIX, at=str(tmp_path / "socket")) as target:
        assert why_not_ready([target]) is None


@pytest.mark.parametrize(
    ("host", "family"), [("", socket.AF_INET6), ("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]
)
def test_all_addresses_are_asked_on_loopback(host: str, family: int) -> None:
    with answering(OK, family=family) as target:
        assert why_not_ready([(host, int(target[1]))]) is None


def test_an_address_that_nobody_serves_gives_way_to_the_next() -> None:
    with answering(OK) as target:
        assert why_not_ready([("127.0.0.1", 1), target]) is None


def test_nobody_there(tmp_path: Path) -> None:
    reason = why_not_ready([("127.0.0.1", 1), f"{tmp_path}/none"])
    refused, missing = "127.0.0.1:1: Connection refused", f"unix:{tmp_path}/none: No such file or directory"
    assert reason == f"no proxy answers on {refused}; {missing}"


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1 200", b"x" * 200_000],
    ids=["nothing", "ssh", "404", "cut", "endless"],
)
def test_somebody_else_is_there(answer: bytes) -> None:
    with answering(answer) as target:
        reason = why_not_ready([target])
    assert reason is not None
    assert "is not fumage-proxy's admin listener" in reason


def test_silence_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reason = why_not_ready([silent.getsockname()], timeout=0.05)
    assert reason is not None
    assert "timed out" in reason


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_wait_asks_until_it_is_ready() -> None:
    time = Time()
    with answering(DRAINING, DRAINING, OK) as target:
        assert wait([target], 10, clock=time.clock, sleep=time.sleep) is None
    assert time.now == pytest.approx(0.2)


def test_wait_ends_when_its_time_is_over() -> None:
    time = Time()
    reason = wait([("127.0.0.1", 1)], 10, clock=time.clock, sleep=time.sleep)
    assert reason == "no proxy answers on 127.0.0.1:1: Connection refused"
    assert time.now == pytest.approx(10)


Ask = Callable[[list[Target]], str | None]


@pytest.mark.parametrize("ask", [why_not_ready, lambda targets: wait(targets, 1000)], ids=["health", "wait"])
@pytest.mark.parametrize(
    ("targets", "reason"),
    [([], "admin_listen is off"), ([("127.0.0.1", 0)], "port 0")],
    ids=["off", "port-0"],
)
def test_where_nobody_can_be_asked_that_is_told_at_once(ask: Ask, targets: list[Target], reason: str) -> None:
    told = ask(targets)
    assert told is not None
    assert reason in told
