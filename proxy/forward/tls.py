"""TLS as a codec inside a connection: bytes from the wire become plain bytes, and the other way round.

Not a transport below the connection, as asyncio and uvloop have it, for three reasons. Whether the peer
closed with close_notify can be told from a cut (RFC 8446 section 6.1: a close-delimited body that was cut
must not pass for whole). Pausing the reading of the TCP connection never leaves decrypted data behind in a
lower layer, which is where uvloop 0.23 loses it when the peer closes. And a response costs one callback.
"""

import ssl
from typing import Final

_RECORD: Final = 16384  # the plain bytes of the largest record (RFC 8446 section 5.1)
_PIECE: Final = 32768  # bytes that are put in at a time: a memory BIO never gives back what it once took


class TLS:
    """The client side of one TLS connection, without I/O.

    `below` is the TLS that this one runs inside of (an egress proxy that is itself reached by https).
    """

    def __init__(self, context: ssl.SSLContext, host: str, below: "TLS | None" = None):
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._below = below
        self.ready = False
        self.closed_by_peer = False  # close_notify has arrived
        self.ended = False  # nothing more can come: the peer has closed this TLS, or the one below it
        self.error: ssl.SSLError | None = None  # what ended it; `pending` has our alert

    def receive(self, data: bytes) -> bytes:
        """The plain bytes in what came from the wire, up to an `error`. Ask for `pending` afterwards."""
        if self._below is not None:
            data = self._below.receive(data)
            self.error, self.ended = self._below.error, self._below.ended
        chunks: list[bytes] = []
        try:
            for start in range(0, len(data), _PIECE):
                self._incoming.write(data[start : start + _PIECE])
                if self.ready or self._shake_hands():
                    self._read(chunks)
                if self.closed_by_peer:
                    break
        except ssl.SSLError as error:
            self.error = error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def start(self) -> bytes:
        """The first flight of the handshake."""
        try:
            self._shake_hands()
        except ssl.SSLError as error:
            self.error = error
        return self.pending()

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.ready = True
        return True

    def _read(self, chunks: list[bytes]) -> None:
        read, incoming = self._object.read, self._incoming
        try:
            # The check spares the exception that a last, empty read would cost. It is enough: a read takes
            # all of a record, and OpenSSL none beyond (without SSL_CTX_set_read_ahead).
            while incoming.pending:
                chunk = read(_RECORD)
                if not chunk:
                    self.closed_by_peer = self.ended = True
                    return
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            pass

    def send(self, data: bytes) -> bytes:
        """What has to go out on the wire for these plain bytes; raises ssl.SSLError."""
        out: list[bytes] = []
        for start in range(0, len(data), _PIECE):
            self._object.write(data[start : start + _PIECE])  # never partial: a memory BIO takes any amount
            out.append(self.pending())
        return b"".join(out)

    def pending(self) -> bytes:
        """What has to go out on the wire now: a handshake flight, an alert, a key update; often nothing."""
        out = self._outgoing.read() if self._outgoing.pending else b""
        below = self._below
        if below is None:
            return out
        if out and below.error is None and not below.ended:
            return below.send(out)
        return below.pending()

    def close(self) -> bytes:
        """Our close_notify."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the peer's own close_notify is still to come, or the handshake was never finished
        return self.pending()
