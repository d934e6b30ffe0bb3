"""Content codings, for answers that have to be looked into.

What Fumage compressed is inflated and goes to the caller as identity. Over loopback nothing is gained by
compressing it again, which costs ten times what inflating does (`python -m tests.bench.bench_links`), while
asking Fumage for identity would bring many times the bytes over the Internet.
"""

import zlib
from collections.abc import Iterator

from proxy.rules.headers import Fields

_OURS = frozenset((b"gzip", b"x-gzip", b"identity"))

# What one piece may hold: a kilobyte can inflate to a megabyte.
_PIECE = 64 * 1024


class BrokenCoding(ValueError):
    """The bytes are not what their Content-Encoding says."""


def narrow(fields: Fields) -> Fields:
    """The fields of a request with each Accept-Encoding narrowed; none is added."""
    return [
        (name, narrow_accept_encoding(value)) if name.lower() == b"accept-encoding" else (name, value)
        for name, value in fields
    ]


def narrow_accept_encoding(value: bytes) -> bytes:
    """An Accept-Encoding that asks for no more than the value does, and for nothing that we cannot open.

    `deflate` goes too: servers disagree on what it is (RFC 9110 section 8.4.1.2).
    """
    kept, ours = [], True
    for item in value.split(b","):
        coding, _, weight = item.strip(b" \t").partition(b";")
        if coding.strip(b" \t").lower() in _OURS or (coding.strip(b" \t") == b"*" and _refused(weight)):
            kept.append(item.strip(b" \t"))
        elif item.strip(b" \t"):
            ours = False
    if ours:
        return value
    return b", ".join(kept) if kept else b"identity"


def _refused(weight: bytes) -> bool:
    # Only "*;q=0" is kept of the wildcards: any other would bring back what was taken out.
    return weight.replace(b" ", b"").rstrip(b"0.").lower() == b"q="


def inflatable(encoding: bytes | None) -> bool | None:
    """Whether a body of this Content-Encoding has to be inflated; None if we cannot open it."""
    coding = (encoding or b"").strip(b" \t").lower()
    if coding in (b"", b"identity"):
        return False
    return True if coding in (b"gzip", b"x-gzip") else None


class Inflater:
    """Opens a gzip body as it comes by, in pieces of bounded size."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(31)
        self._started = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the bytes stand for, to be iterated to its end; BrokenCoding if they are damaged."""
        while data:
            if self._member.eof:  # RFC 1952 section 2.2: several members may follow one another
                self._member = zlib.decompressobj(31)
            self._started = True
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error as error:
                raise BrokenCoding("a gzip body is damaged") from error
            if piece:
                yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def end(self) -> None:
        """BrokenCoding if the body breaks off. A body without any byte is an empty one."""
        if self._started and not self._member.eof:
            raise BrokenCoding("a gzip body breaks off")
