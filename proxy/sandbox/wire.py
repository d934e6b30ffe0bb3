"""Ends of a connection that HTTP does not provide for."""

import socket
import struct

from aiohttp import web

_LINGER_0 = struct.pack("ii", 1, 0)


def drop(request: web.BaseRequest) -> web.StreamResponse:
    """Close without an answer. The returned response exists for aiohttp's sake and never leaves."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Reset the connection without an answer."""
    transport = request.transport
    if transport is not None:
        # abort() alone sends FIN; only with a linger time of zero does the kernel send RST.
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        transport.abort()
    return web.Response()


async def cut(request: web.BaseRequest, whole: web.Response) -> web.StreamResponse:
    """Send the head, with the full Content-Length, and the first half of the body; then close."""
    body = whole.body
    if not isinstance(body, bytes) or not body:
        return drop(request)
    part = web.StreamResponse(status=whole.status, headers=whole.headers)
    part.content_length = len(body)
    await part.prepare(request)
    await part.write(body[: len(body) // 2])
    # close(), not abort(): what was written must arrive, otherwise nothing would look cut.
    drop(request)
    return part
