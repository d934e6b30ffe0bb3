"""A Redis or compatible server as the place where replicas share what they know. Needs the extra `redis`."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

T = TypeVar("T")
Left = tuple[bytes, float]  # a value, and the seconds that it has left by the server's clock

TIMEOUT = 0.25  # s, for each question, its connection included: a token request takes about as long
# Waited out in parts: where this process does not get the CPU for a while (a node that is busy, a CPU limit),
# all of it could pass in one step, and the store would be blamed for it.
_PARTS = 5

# What a user of the store has to be permitted, on the keys fumage-proxy:*.
COMMANDS = "get pttl set del pexpire eval multi exec"

# A lease and what is written under it lie in one server, which compares them in one step: so a holder that
# fell asleep cannot overwrite its successor's token, and no counter is needed to fence it off.
_IF_MINE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
_RENEW = _IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = _IF_MINE + "return redis.call('DEL', KEYS[1])"
_PUBLISH = _IF_MINE + "redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) return redis.call('DEL', KEYS[1])"
# Who has no lease is fenced off by what it saw last: only that may be replaced.
_OFFER = (
    "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end "
    "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1"
)

# What has happened, and what to do; the first that fits an exception or one that led to it. Their own texts
# are never shown: they may repeat what was sent.
_Kinds = type[BaseException] | tuple[type[BaseException], ...]
_WHAT: tuple[tuple[_Kinds, str, str], ...] = (
    (
        ssl.SSLCertVerificationError,
        "has a certificate that is not trusted",
        "Let token_store name its CA (?ssl_ca_certs=FILE) and the host that the certificate is for; ca_file "
        "is for Fumage and the EMR alone.",
    ),
    (
        ssl.SSLError,
        "could not agree with us on TLS",
        "Check that it speaks TLS on this port, and, if it asks for a client certificate, ssl_certfile and "
        "ssl_keyfile in token_store.",
    ),
    (
        (TimeoutError, exceptions.TimeoutError),
        f"did not answer within {TIMEOUT:g} s",
        "Check the network, how busy it is, and, with rediss://, whether it speaks TLS on this port.",
    ),
    (socket.gaierror, "has a host name that is unknown", "Check the host in token_store, and DNS."),
    (
        exceptions.AuthenticationError,
        "refused the password",
        "Check the user in token_store, and token_store_password.",
    ),
    (
        exceptions.NoPermissionError,
        "refused the user a command or key",
        f"Permit the user the keys fumage-proxy:* and the commands {COMMANDS.upper()}.",
    ),
    (exceptions.ReadOnlyError, "is read-only", "Let token_store name the primary, not a replica of it."),
    (exceptions.OutOfMemoryError, "is full", "Raise its maxmemory, or find out what fills it."),
    (exceptions.BusyLoadingError, "is loading its data", "Wait."),
    (
        exceptions.AskError,  # and MOVED
        "is a cluster, of which another node holds our keys",
        "Let token_store name a server without cluster mode.",
    ),
    (
        exceptions.InvalidResponse,
        "answered with something that is not Redis",
        "Check host and port in token_store.",
    ),
    (
        (exceptions.ConnectionError, OSError),
        "could not be reached",
        "Check host and port (or path) in token_store, whether it runs, whether it wants TLS (rediss://), "
        "and what the network lets through.",
    ),
    (exceptions.ResponseError, "refused a command", "It has to be a Redis 6 or newer, or compatible."),
    # Of nonsense redis-py makes anything, even an AttributeError.
    (BaseException, "answered with nonsense", "Check host and port in token_store."),
)
_TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


class StoreError(Exception):
    """The store is of no use now; `str()` says why and `advice` what to do, both free of secrets."""

    def __init__(self, text: str, advice: str):
        super().__init__(text)
        self.advice = advice


class _TLS(SSLConnection):
    """With a context of ours: redis-py's own would trust a CA beside the system's, not in their place."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any):
        super().__init__(**options)
        self.ssl_context.context = context


class RedisStore:
    """`url` is redis://, rediss:// or unix:/path; rediss:// may name its TLS files as redis-py does:
    ?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=… (the first replaces the system's CAs). Raises ValueError for
    any other, and for files that cannot be used.

    Every method raises StoreError, and that within TIMEOUT; names and values are the caller's.
    """

    def __init__(self, url: str, *, password: str | None = None):
        try:
            kind, options = _options(url)
        except ValueError:  # urlsplit's own words may repeat a part of a password
            raise ValueError("is not the URL of a Redis: redis://host, rediss://host or unix:/path") from None
        if kind is _TLS:
            options = options | {"context": _context(**options.pop("files"))}
        if password is not None:
            options["password"] = password
        # One try each: a caller may be waiting, and the next token request comes by itself. RESP2: no
        # handshake that an older server would refuse. No timeouts but ours, which covers all of a question.
        self._pool = partial(
            ConnectionPool,
            connection_class=kind,
            **options,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._redis = Redis(connection_pool=self._pool())

    def twin(self) -> "RedisStore":
        """Another one that is the same but for its connections; nothing is read for it once more."""
        twin = copy(self)
        twin._redis = Redis(connection_pool=self._pool())
        return twin

    async def look(self, names: Sequence[str]) -> list[Left | None]:
        """The value of each name, with the seconds that it has left, or None."""

        async def ask() -> list[Left | None]:
            async with self._redis.pipeline(transaction=True) as both:
                for name in names:
                    both.get(_token(name))
                    both.pttl(_token(name))
                answers = await both.execute()
            return [_left(*pair) for pair in zip(answers[::2], answers[1::2], strict=True)]

        return await self._within_timeout(ask)

    async def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Whether `holder` may now be the one that gets the token."""
        return bool(
            await self._within_timeout(
                lambda: self._redis.set(_lease(name), holder, nx=True, px=_milliseconds(seconds))
            )
        )

    async def renew(self, name: str, holder: str, seconds: float) -> bool:
        """Prolong the lease; False when it is another's by now."""
        return await self._evaluate(_RENEW, [_lease(name)], holder, _milliseconds(seconds))

    async def release(self, name: str, holder: str) -> bool:
        """Give the lease back."""
        return await self._evaluate(_RELEASE, [_lease(name)], holder)

    async def publish(self, name: str, holder: str, value: bytes, seconds: float) -> bool:
        """Put the value there for so long and give the lease back; False, with nothing done, without it."""
        keys = [_lease(name), _token(name)]
        return await self._evaluate(_PUBLISH, keys, holder, value, _milliseconds(seconds))

    async def offer(self, name: str, seen: bytes, value: bytes, seconds: float) -> bool:
        """Without a lease, put the value there for so long in place of `seen` (b"": of nothing); False, with
        nothing done, if something else lies there by now."""
        return await self._evaluate(_OFFER, [_token(name)], seen, value, _milliseconds(seconds))

    async def rest(self) -> None:
        """Close the connections until the next question, which may come in hours. Raises nothing."""
        await _settled(self._redis.connection_pool.disconnect(inuse_connections=True))

    async def _evaluate(self, script: str, keys: list[str], *arguments: str | bytes | int) -> bool:
        # Sent whole: it is shorter than the round trip that would ask whether the server knows it.
        answer: object = await self._within_timeout(
            lambda: self._redis.eval(script, len(keys), *keys, *arguments)
        )
        return answer == 1

    async def _within_timeout(self, ask: Callable[[], Awaitable[T]]) -> T:
        answer, error = await _settled(ask())
        if error is None:
            return cast(T, answer)
        await self.rest()  # an answer may still be on its way, which must not be taken for the next one's
        raise _explained(error)


async def _settled(asked: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    """What has come of it within TIMEOUT."""
    task = asyncio.ensure_future(asked)
    try:
        for _ in range(_PARTS):
            if not task.done():
                await asyncio.wait([task], timeout=TIMEOUT / _PARTS)
    finally:
        # On Python 3.11 redis-py may lose a cancellation that coincides with an answer.
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=TIMEOUT / _PARTS)
        error = TimeoutError() if task.cancelled() else task.exception()
    return (task.result(), None) if error is None else (None, error)


def _explained(error: BaseException) -> StoreError:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for kinds, what, advice in _WHAT:
        for each in chain:
            if isinstance(each, kinds):
                why = f" ({each.verify_message})" if isinstance(each, ssl.SSLCertVerificationError) else ""
                return StoreError(f"The token store {what}{why}.", advice)
    raise AssertionError("the last row fits all")


def _left(value: object, left: object) -> Left | None:
    if value is None:
        return None
    if not (isinstance(value, bytes) and isinstance(left, int)):
        raise TypeError
    return value, left / 1000


def _token(name: str) -> str:
    return f"fumage-proxy:{{{name}}}:token"  # in braces: both keys lie in one slot of a cluster


def _lease(name: str) -> str:
    return f"fumage-proxy:{{{name}}}:lease"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _options(url: str) -> tuple[type[Connection | UnixDomainSocketConnection], dict[str, Any]]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    path = unquote(parts.path)
    options: dict[str, Any] = {}
    kind: type[Connection] = Connection
    match parts.scheme:
        case "unix" if path.startswith("/") and not parts.netloc and not query:
            return UnixDomainSocketConnection, {"path": path}
        case "redis" if parts.hostname and not query:
            pass
        case "rediss" if parts.hostname and query.keys() <= _TLS_FILES:
            kind, options = _TLS, {"files": query}
        case _:
            raise ValueError
    if path.strip("/"):
        options["db"] = int(path.strip("/"))
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    return kind, options | {"host": parts.hostname, "port": parts.port or 6379}


def _context(
    ssl_ca_certs: str | None = None, ssl_certfile: str | None = None, ssl_keyfile: str | None = None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ssl_ca_certs)
        if ssl_ca_certs is not None and not context.cert_store_stats()["x509"]:  # a CRL alone loads, too
            raise ssl.SSLError
    except OSError:
        raise ValueError(f"ssl_ca_certs: {ssl_ca_certs} holds no certificate in PEM form") from None
    if ssl_certfile is None and ssl_keyfile is None:
        return context
    if ssl_certfile is None:
        raise ValueError("ssl_keyfile is of no use without ssl_certfile")
    try:
        context.load_cert_chain(ssl_certfile, ssl_keyfile, password="")  # asked for, it would block
    except OSError:
        files = " and ".join(dict.fromkeys((ssl_certfile, ssl_keyfile or ssl_certfile)))
        raise ValueError(f"ssl_certfile, ssl_keyfile: {files} hold no certificate with its key") from None
    return context
