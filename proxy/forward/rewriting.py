"""Answers that are looked into: their links come back as the address that the caller used."""

from collections.abc import Iterator

from proxy.forward.outbound import Answer
from proxy.rules.bundle import BodyLinks, LinkRewriter, looks_like_json
from proxy.rules.coding import BrokenCoding, Inflater, inflatable
from proxy.rules.errors import FumageNotHTTP
from proxy.rules.headers import OF_THE_BYTES, Fields, values_of, without

_LOOKED_AT = frozenset((b"content-encoding", b"content-range", b"content-type"))
# Bytes that are rewritten at a time: with more, what is in use at once outgrows what malloc keeps, and every
# piece is paid for with page faults.
_PIECE = 64 * 1024
_WITHOUT_BODY = frozenset((204, 304))


class Rewriting:
    """What becomes of one answer's body, and of what its head says of it."""

    def __init__(self, rewriter: LinkRewriter, inflater: Inflater | None):
        self._rewriter = rewriter
        self._inflater = inflater
        self.dropped = OF_THE_BYTES if inflater is None else OF_THE_BYTES | {b"content-encoding"}

    def fields(self, fields: Fields) -> Fields:
        """The head's fields less those that are not true any more."""
        return without(fields, self.dropped)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the bytes become, in pieces of bounded size, to be iterated to its end. Raises
        FumageNotHTTP."""
        if self._inflater is None:
            for at in range(0, len(data), _PIECE):
                yield self._rewriter.feed(data[at : at + _PIECE])
            return
        try:
            for piece in self._inflater.feed(data):
                yield self._rewriter.feed(piece)
        except BrokenCoding as error:
            raise _broken(error) from None

    def end(self) -> bytes:
        """The rest, at a clean end alone. Raises FumageNotHTTP when the body itself is not over."""
        if self._inflater is not None:
            try:
                self._inflater.end()
            except BrokenCoding as error:
                raise _broken(error) from None
        return self._rewriter.end()


def rewriting(links: BodyLinks, answer: Answer, caller: bytes) -> Rewriting | None:
    """How to look into the answer, or into the one that HEAD asks about; None: it goes on as it is.

    `caller` is the authority that its request was sent to.
    """
    noted = values_of(answer.fields, _LOOKED_AT)
    if (
        answer.status == 206
        or b"content-range" in noted
        or not looks_like_json(noted.get(b"content-type", b""))
    ):
        return None
    if answer.status in _WITHOUT_BODY or answer.noted.get(b"content-length") == b"0":
        return None
    inflate = inflatable(noted.get(b"content-encoding"))
    if inflate is None:
        return None
    return Rewriting(links.rewriter(caller), Inflater() if inflate else None)


def _broken(error: BrokenCoding) -> FumageNotHTTP:
    return FumageNotHTTP(f"Fumage's answer is not what its Content-Encoding says: {error}.")
