"""The baseline: the same job in a page of aiohttp, as one would write it first, and well.

`python -m tests.bench.aiohttp_proxy PORT BASE TOKEN_URL CA_FILE`; a line a request goes to stderr.
"""

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ]
)
_LINE = (
    '{"time":"%t","request":"%r","status":%s,"duration":%Tf,"response_bytes":%b,'
    '"correlation_id":"%{fumage-correlation-id}o"}'
)


class Proxy:
    def __init__(self, base: str, token_url: str, ca_file: str):
        self._base, self._token_url, self._ca_file = base, token_url, ca_file
        self._token, self._expiry, self._lock = "", 0.0, asyncio.Lock()
        self._session: ClientSession

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        """One session for as long as the application runs."""
        trust = ssl.create_default_context(cafile=self._ca_file)
        self._session = ClientSession(
            connector=TCPConnector(limit=1000, ssl=trust),
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            timeout=ClientTimeout(total=None, sock_connect=10, sock_read=60),
        )
        async with self._session:
            yield

    async def forward(self, request: web.Request) -> web.StreamResponse:
        headers = _end_to_end(request.headers)
        headers.pop("Host", None)
        headers["Authorization"] = f"Bearer {await self._current_token()}"
        async with self._session.request(
            request.method,
            self._base + request.raw_path,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as upstream:
            answer = web.StreamResponse(
                status=upstream.status, reason=upstream.reason, headers=_end_to_end(upstream.headers)
            )
            await answer.prepare(request)
            async for chunk in upstream.content.iter_any():
                await answer.write(chunk)
            await answer.write_eof()
            return answer

    async def _current_token(self) -> str:
        if time.monotonic() < self._expiry:
            return self._token
        async with self._lock:
            if time.monotonic() >= self._expiry:
                form = {"grant_type": "client_credentials", "client_id": "bench", "client_secret": "secret"}
                async with self._session.post(self._token_url, data=form) as answer:
                    granted = await answer.json()
                self._token = granted["access_token"]
                self._expiry = time.monotonic() + granted["expires_in"] - 60
        return self._token


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def main() -> None:
    port, base, token_url, ca_file = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    proxy = Proxy(base, token_url, ca_file)
    app = web.Application(client_max_size=0)
    app.cleanup_ctx.append(proxy.session)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(port),
        access_log_format=_LINE,
        print=None,
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
