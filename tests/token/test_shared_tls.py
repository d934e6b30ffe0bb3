"""A store behind real TLS: Redis itself, with client certificates and an ACL user."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from proxy.token.store import COMMANDS, RedisStore
from tests.support import unused_port
from tests.token.replica import Replica
from tests.token.server import Server

REDIS = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="no redis-server is installed here")
USER, PASSWORD = "proxy", "a:password/with@signs"


@dataclass(frozen=True)
class Files:
    """Two authorities, of which the first signed the server's and the client's certificates."""

    folder: Path

    def __post_init__(self) -> None:
        ca, other = trustme.CA(), trustme.CA()
        ca.cert_pem.write_to_path(self.folder / "ca")
        other.cert_pem.write_to_path(self.folder / "other-ca")
        for name, who in (("server", "127.0.0.1"), ("client", "proxy.example")):
            cert = ca.issue_cert(who)
            cert.private_key_and_cert_chain_pem.write_to_path(self.folder / name)

    def __getattr__(self, name: str) -> Path:
        return self.folder / name.replace("_", "-")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def port(files: Files) -> Iterator[int]:
    """That of a Redis that speaks TLS alone, and only to who has a certificate."""
    assert REDIS
    port = unused_port()
    permitted = " ".join(f"+{command}" for command in COMMANDS.split())
    (files.folder / "redis.conf").write_text(
        f"""
        port 0
        bind 127.0.0.1
        tls-port {port}
        tls-cert-file {files.server}
        tls-key-file {files.server}
        tls-ca-cert-file {files.ca}
        tls-auth-clients yes
        save ""
        user default off
        user {USER} on >{PASSWORD} ~fumage-proxy:* resetchannels -@all {permitted}
        """
    )
    command = [REDIS, "redis.conf"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=files.folder)
    assert server.stdout
    log = []
    for line in server.stdout:
        log.append(line)
        if "accept connections" in line.lower():
            break
    else:
        pytest.skip(f"it speaks no TLS: {log}")
    yield port
    server.kill()
    server.communicate()


def url(port: int, host: str = "127.0.0.1", scheme: str = "rediss", **given: Path) -> str:
    query = "&".join(f"{name}={path}" for name, path in given.items())
    return f"{scheme}://{USER}@{host}:{port}" + (f"?{query}" if query else "")


async def outcome(url: str) -> tuple[str, str]:
    one = Replica(url, password=PASSWORD)
    await one.source.get()
    return one.told[-1], one.why[-1] or ""


@needs_redis
async def test_with_both_certificates_and_an_acl_user_tokens_are_shared(port: int, files: Files) -> None:
    whole = url(port, ssl_ca_certs=files.ca, ssl_certfile=files.client, ssl_keyfile=files.client)
    both = [Replica(whole, name, password=PASSWORD) for name in "ab"]
    for each in both:
        await each.source.get()
    old = [each.source.current() for each in both]
    for each, token in zip(both, old, strict=True):
        assert token
        await each.reject(token)
    assert [each.told for each in both] == [["fetched", "fetched"], ["hit", "hit"]]
    shorter = url(port, ssl_ca_certs=files.ca, ssl_certfile=files.client)  # which holds the key as well
    assert await outcome(shorter) == ("hit", "")


@needs_redis
@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda port, files: url(port, ssl_ca_certs=files.ca), "could not agree with us on TLS"),
        (lambda port, files: url(port, ssl_certfile=files.client), "certificate that is not trusted"),
        (
            lambda port, files: url(port, ssl_ca_certs=files.other_ca, ssl_certfile=files.client),
            "certificate that is not trusted",
        ),
        (
            lambda port, files: url(port, "localhost", ssl_ca_certs=files.ca, ssl_certfile=files.client),
            "certificate that is not trusted",
        ),
        (lambda port, files: url(port, scheme="redis"), "could not be reached"),
    ],
    ids=["no client certificate", "no CA", "another CA", "another host", "no TLS"],
)
async def test_what_is_missing_is_told(asked: object, why: str, port: int, files: Files) -> None:
    told, reason = await outcome(asked(port, files))  # type: ignore[operator]
    assert told == "fallback"
    assert why in reason
    assert PASSWORD not in reason


@needs_redis
async def test_a_ca_that_is_named_replaces_the_systems(
    port: int, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    assert await outcome(url(port, ssl_certfile=files.client)) in (("fetched", ""), ("hit", ""))
    _, reason = await outcome(url(port, ssl_ca_certs=files.other_ca, ssl_certfile=files.client))
    assert "certificate that is not trusted" in reason


async def test_a_server_without_tls_is_told(server: Server) -> None:
    told, reason = await outcome(url(server.port))
    assert told == "fallback"
    assert "did not answer" in reason  # it waits for the end of a command
    assert "speaks TLS" in reason


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"ssl_ca_certs": "none"}, "^ssl_ca_certs: .*none holds no certificate"),
        ({"ssl_ca_certs": "empty"}, "^ssl_ca_certs: .*empty holds no certificate"),
        ({"ssl_certfile": "none"}, "^ssl_certfile, ssl_keyfile: .*none hold no certificate with its key"),
        ({"ssl_certfile": "client", "ssl_keyfile": "ca"}, "^ssl_certfile, ssl_keyfile: .* and .*ca hold no"),
        ({"ssl_keyfile": "client"}, "^ssl_keyfile is of no use without ssl_certfile$"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_anything_is_asked(
    given: dict[str, str], problem: str, files: Files
) -> None:
    (files.folder / "empty").touch()
    with pytest.raises(ValueError, match=problem):
        RedisStore(url(1, **{name: files.folder / path for name, path in given.items()}))


def test_the_next_secrets_store_needs_no_file_again(files: Files, tmp_path: Path) -> None:
    """A rotation while a volume is gone must not fail for it."""
    ca = Path(shutil.copy(files.ca, tmp_path / "ca"))
    store = RedisStore(url(1, ssl_ca_certs=ca), password=PASSWORD)
    ca.unlink()
    twin = store.twin()
    one, other = (each._redis.connection_pool.connection_kwargs for each in (store, twin))
    assert one["context"] is other["context"]
    assert one["password"] == other["password"] == PASSWORD
    assert twin._redis.connection_pool is not store._redis.connection_pool


def test_there_is_no_switch_that_turns_verification_off(files: Files) -> None:
    store = RedisStore(url(1, ssl_ca_certs=files.ca))
    context = store._redis.connection_pool.connection_kwargs["context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
