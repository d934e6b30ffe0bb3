"""Fumage's side of one exchange as llhttp reads it: interim answers, the final head, body and end. No I/O."""

import re
from typing import Final

import httptools

from proxy.rules.errors import FumageNotHTTP
from proxy.rules.headers import Fields, connection_options, note_response

_START: Final = b"HTTP/"
_HTTP11: Final = b"HTTP/1.1 "
MAX_HEAD: Final = 256 * 1024  # bytes of an answer's head, interim answers and trailers included

# RFC 9112 section 4 allows none of them in a reason phrase; llhttp lets them pass.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Answer:
    """The head of an answer; its body is read from the connection."""

    __slots__ = ("fields", "framing", "noted", "reason", "status", "trailers")

    def __init__(self, status: int, reason: bytes, fields: Fields, noted: dict[bytes, bytes], framing: str):
        self.status = status
        self.reason = reason
        self.fields = fields  # and `noted`: as `rules.headers.note_response` makes them
        self.noted = noted
        self.framing = framing  # "length", "chunked", "close" (ends with the connection), "none"
        self.trailers: Fields = []


class AnswerReader:
    """Bytes become answers. One for each connection, and `expect` for each exchange: a reader and its llhttp
    refer to each other, which would be garbage to collect after every request."""

    def __init__(self) -> None:
        self._spent = True  # llhttp is not at the beginning of a message
        self._headers: Fields = []
        self._reason = b""
        self.answers: list[Answer] = []  # heads that nobody has taken yet
        self.buffered = 0
        self._body: list[bytes] = []
        self.expect(head_only=False)
        self.complete = self.keep_alive = True

    def expect(self, *, head_only: bool) -> None:
        """A request goes out now. `head_only`: its answer has no body, whatever the head says (HEAD)."""
        if self._spent:
            self._llhttp = httptools.HttpResponseParser(self)
        self._head_only = self._spent = head_only
        self._start = self._last = b""
        self._http11 = False  # the version of the next head, where it is known without llhttp
        self._fed = 0  # bytes
        self._received = 0  # of them body
        self.answers.clear()  # and the body, below: whoever asked may have left before they came
        self.final: Answer | None = None
        self.complete = False  # the whole answer is here
        self.keep_alive = False  # this answer allows another exchange
        if self._body:
            self.take()

    def feed(self, data: bytes) -> None:
        """Read bytes from the wire. Raises FumageNotHTTP."""
        if not self._fed and data.startswith(_HTTP11):
            self._start, self._http11 = _START, True
        elif self._start != _START:
            self._check_start(data)
        self._fed += len(data)
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:
                self.keep_alive = False  # what follows the answer is not ours to read
                return
            cause = error.__context__
            raise (cause if isinstance(cause, FumageNotHTTP) else _not_http()) from None
        if self._head_only:
            # A piece of a chunk's size is no body to llhttp yet: what follows the head is not ours to read.
            self._last = (self._last + data[-4:])[-4:]
            if self.complete and self._last != b"\r\n\r\n":
                self.keep_alive = False
        if self._fed > MAX_HEAD + 9 * self._received:  # 9: chunks of a single byte are allowed
            raise FumageNotHTTP("The head, or the trailer, of Fumage's answer is too large.")

    def _check_start(self, data: bytes) -> None:
        self._start = (self._start + data[: len(_START)])[: len(_START)]
        if not _START.startswith(self._start):
            raise _not_http()  # llhttp takes RTSP/ and ICE/ too

    def end(self) -> None:
        """Nothing more will come, and the peer said so: the end of a body that no framing delimits."""
        self.keep_alive = False
        if self.final is not None and self.final.framing == "close":
            self.complete = True

    def take(self) -> bytes:
        """The bytes of the body that are here, maybe none."""
        body = self._body
        if not body:
            return b""
        self._body = []
        self.buffered = 0
        return body[0] if len(body) == 1 else b"".join(body)

    # --- what llhttp found ---

    def on_message_begin(self) -> None:
        if self.final is not None:
            raise FumageNotHTTP("Fumage sent an answer that was not asked for.")
        self._headers = []
        self._reason = b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))  # of the head, later of the trailer

    def on_headers_complete(self) -> None:
        llhttp, reason = self._llhttp, self._reason
        status: int = llhttp.get_status_code()
        version: str = "1.1" if self._http11 else llhttp.get_http_version()  # which makes a string each time
        self._http11 = False
        if (
            version not in ("1.1", "1.0")
            or not 100 <= status <= 999
            or status == 101
            or not (reason.isalnum() or _CONTROL.search(reason) is None)
        ):
            raise FumageNotHTTP(
                "The answer's status line is not one of HTTP/1.1, or switches protocols unasked."
            )
        fields, noted = note_response(self._headers)
        answer = Answer(status, reason, fields, noted, self._framing(status, noted))
        self.answers.append(answer)
        if status >= 200:
            self.final = answer
            self._headers = answer.trailers
            self.keep_alive = self._may_go_on(answer, http11=version == "1.1")
            # llhttp cannot be told that the answer to HEAD has no body.
            self.complete = self._head_only

    def _framing(self, status: int, noted: dict[bytes, bytes]) -> str:
        coding = noted.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            # Other codings were not asked for (TE is ours to send, RFC 9110 section 10.1.4).
            raise FumageNotHTTP("Fumage used a transfer coding other than chunked.")
        if self._head_only or status < 200 or status in (204, 304):
            return "none"
        if coding is not None:
            return "chunked"
        return "length" if b"content-length" in noted else "close"

    def _may_go_on(self, answer: Answer, *, http11: bool) -> bool:
        if answer.framing == "close":
            return False
        if not http11 and b"transfer-encoding" in answer.noted:  # RFC 9112 section 6.1
            return False
        if not self._head_only:
            return bool(self._llhttp.should_keep_alive())
        # llhttp says no where the body would have ended with the connection. Here there is none.
        options = connection_options(answer.noted.get(b"connection", b""))
        return b"close" not in options if http11 else b"keep-alive" in options

    def on_body(self, data: bytes) -> None:
        self._received += len(data)
        if self._head_only:
            self.keep_alive = False
            return
        self._body.append(data)
        self.buffered += len(data)

    def on_message_complete(self) -> None:
        if self.final is not None:
            self.complete = True

    @property
    def has_body(self) -> bool:
        """Whether bytes of the body are here."""
        return bool(self._body)


def _not_http() -> FumageNotHTTP:
    return FumageNotHTTP("What Fumage sent is not HTTP/1.1.")
