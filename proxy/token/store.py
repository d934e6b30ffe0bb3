"""A Redis or compatible server as the place where replicas share what they know. Needs the extra `redis`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

T = TypeVar("T")
Left = tuple[bytes, float]  # a value, and the seconds that it has left by the server's clock

TIMEOUT = 0.25  # s, for each question, its connection included: a token request takes about as long

# A lease and what is written under it lie in one server, which compares them in one step: so a holder that
# fell asleep cannot overwrite its successor's token, and no counter is needed to fence it off.
_IF_MINE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
_RENEW = _IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = _IF_MINE + "return redis.call('DEL', KEYS[1])"
_PUBLISH = _IF_MINE + "redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3]) return redis.call('DEL', KEYS[1])"

# The first that fits. The texts of the exceptions are never shown: they may repeat what was sent.
_WHAT: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    ((TimeoutError, exceptions.TimeoutError), f"did not answer within {TIMEOUT:g} s"),
    (exceptions.AuthenticationError, "refused the password"),
    (exceptions.NoPermissionError, "refused the user a command or key"),
    (exceptions.ReadOnlyError, "is read-only"),
    (exceptions.OutOfMemoryError, "is full"),
    (exceptions.BusyLoadingError, "is loading its data"),
    (exceptions.InvalidResponse, "answered with something that is not Redis"),
    ((exceptions.ConnectionError, OSError), "could not be reached"),
    (exceptions.ResponseError, "refused a command"),
    (BaseException, "answered with nonsense"),  # of which redis-py makes anything, even an AttributeError
)
_TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}


class StoreError(Exception):
    """The store is of no use now; `str()` says why, free of secrets."""


class RedisStore:
    """`url` is redis://, rediss:// or unix:/path; rediss:// may name its TLS files as redis-py does:
    ?ssl_ca_certs=…&ssl_certfile=…&ssl_keyfile=…. Raises ValueError for any other.

    Every method raises StoreError, and that within TIMEOUT; names and values are the caller's.
    """

    def __init__(self, url: str, *, password: str | None = None):
        try:
            options = _options(url)
        except ValueError:  # urlsplit's own words may repeat a part of a password
            raise ValueError("is not the URL of a Redis: redis://host, rediss://host or unix:/path") from None
        if password is not None:
            options["password"] = password
        # One try each: a caller may be waiting, and the next token request comes by itself. RESP2: no
        # handshake that an older server would refuse.
        self._redis = Redis(
            **options,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,  # closing one obeys it, too
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    async def look(self, names: Sequence[str]) -> list[Left]:
        """The values there are, each with the seconds that it has left."""

        async def ask() -> list[Left]:
            async with self._redis.pipeline(transaction=True) as both:
                for name in names:
                    both.get(_token(name))
                    both.pttl(_token(name))
                answers = await both.execute()
            found = []
            for value, left in zip(answers[::2], answers[1::2], strict=True):
                if value is not None:
                    if not (isinstance(value, bytes) and isinstance(left, int)):
                        raise TypeError
                    found.append((value, left / 1000))
            return found

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
        raise StoreError(f"The token store {next(text for kind, text in _WHAT if isinstance(error, kind))}.")


async def _settled(asked: Awaitable[T]) -> tuple[T | None, BaseException | None]:
    """What has come of it within TIMEOUT.

    In a task of its own: on Python 3.11 redis-py may lose a cancellation that coincides with an answer.
    """
    task = asyncio.ensure_future(asked)
    try:
        await asyncio.wait([task], timeout=TIMEOUT)
    finally:
        task.cancel()
        await asyncio.wait([task])
        error = TimeoutError() if task.cancelled() else task.exception()
    return (task.result(), None) if error is None else (None, error)


def _token(name: str) -> str:
    return f"fumage-proxy:{{{name}}}:token"  # in braces: both keys lie in one slot of a cluster


def _lease(name: str) -> str:
    return f"fumage-proxy:{{{name}}}:lease"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    path = unquote(parts.path)
    options: dict[str, Any] = {}
    match parts.scheme:
        case "unix" if path.startswith("/") and not parts.netloc and not query:
            return {"unix_socket_path": path}
        case "redis" if parts.hostname and not query:
            pass
        case "rediss" if parts.hostname and query.keys() <= _TLS_FILES:
            options = {"ssl": True, **query}
        case _:
            raise ValueError
    if path.strip("/"):
        options["db"] = int(path.strip("/"))
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    return options | {"host": parts.hostname, "port": parts.port or 6379}
