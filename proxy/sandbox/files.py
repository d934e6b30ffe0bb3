"""The second origin: a file store that takes presigned URLs and nothing else, as S3 does."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from aiohttp import web

from .stats import Stats
from .store import Store

VALID_FOR = 600  # seconds
_DATE = "%Y%m%dT%H%M%SZ"


class Files:
    """Answers every request to the files' origin, which is `base_url`."""

    def __init__(self, base_url: str, store: Store, clock: Callable[[], float], stats: Stats):
        self._base_url = base_url
        self._store = store
        self._clock = clock
        self._stats = stats
        self._key = secrets.token_bytes(32)

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    def presign(self, document: str) -> str:
        """A URL at which the file of a DocumentReference can be had for the next ten minutes, by anybody."""
        path = f"/presigned/{quote(document, safe='')}"
        date = datetime.fromtimestamp(self._clock(), UTC).strftime(_DATE)
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Date": date,
            "X-Amz-Expires": str(VALID_FOR),
            "X-Amz-Signature": self._signature(document, date),
        }
        return f"{self._base_url}{path}?{urlencode(query)}"

    async def _answer(self, request: web.Request) -> web.Response:
        response = self._file(request)
        self._stats.file_requests[str(response.status)] += 1
        return response

    def _file(self, request: web.Request) -> web.Response:
        authorization = request.headers.get("Authorization")
        if authorization is not None:
            # S3 does not look at the signature in the URL then, and shows the credential in its answer.
            text = "Only one auth mechanism allowed: a signed query or the Authorization header, not both"
            return _error(
                400, "InvalidArgument", text, ArgumentName="Authorization", ArgumentValue=authorization
            )
        if request.method != "GET":
            return _error(405, "MethodNotAllowed", "This resource can be read, no more")
        document = request.path.removeprefix("/presigned/")
        date = request.query.get("X-Amz-Date", "")
        signature = request.query.get("X-Amz-Signature", "")
        if not hmac.compare_digest(signature.encode(), self._signature(document, date).encode()):
            return _error(403, "SignatureDoesNotMatch", "The signature does not fit the request")
        signed = datetime.strptime(date, _DATE).replace(tzinfo=UTC).timestamp()
        if self._clock() >= signed + VALID_FOR:
            return _error(403, "AccessDenied", "Request has expired")
        file = self._store.file(document)
        if file is None:
            return _error(404, "NoSuchKey", "There is no such file")
        return web.Response(body=file.data, headers={"Content-Type": file.content_type})

    def _signature(self, document: str, date: str) -> str:
        return hmac.new(self._key, f"{document}\n{date}".encode(), hashlib.sha256).hexdigest()


def _error(status: int, code: str, message: str, **more: str) -> web.Response:
    fields = {"Code": code, "Message": message, **more, "RequestId": secrets.token_hex(8).upper()}
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
