"""Content codings: what is asked for, and what is opened."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.coding import BrokenCoding, Inflater, inflatable, narrow_accept_encoding
from tests.rules.test_bundle import CUTS, cut


@pytest.mark.parametrize(
    ("value", "narrowed"),
    [
        (b"gzip", b"gzip"),
        (b"gzip, deflate, br", b"gzip"),
        (b"gzip, deflate, br, zstd", b"gzip"),
        (b"br;q=1.0, gzip;q=0.5, *;q=0", b"gzip;q=0.5, *;q=0"),
        (b"GZip ; q=0.5 ,identity", b"GZip ; q=0.5 ,identity"),
        (b"br", b"identity"),
        (b"*", b"identity"),
        (b"*;q=0.5", b"identity"),
        (b"gzip;q=0, br", b"gzip;q=0"),
        (b"identity", b"identity"),
        (b"", b""),
    ],
)
def test_accept_encoding_is_narrowed_to_what_can_be_opened(value: bytes, narrowed: bytes) -> None:
    assert narrow_accept_encoding(value) == narrowed
    assert narrow_accept_encoding(narrowed) == narrowed


@pytest.mark.parametrize(
    ("coding", "expected"),
    [
        (None, False),
        (b"identity", False),
        (b"gzip", True),
        (b" X-GZIP", True),
        (b"br", None),
        (b"gzip, gzip", None),
    ],
)
def test_only_gzip_is_opened(coding: bytes | None, expected: bool | None) -> None:
    assert inflatable(coding) is expected


@given(st.lists(st.binary(max_size=50), max_size=4), CUTS)
def test_gzip_in_any_pieces_is_opened(members: list[bytes], cuts: list[int]) -> None:
    inflater = Inflater()
    packed = b"".join(map(gzip.compress, members))
    pieces = [piece for part in cut(packed, cuts) for piece in inflater.feed(part)]
    inflater.end()
    assert b"".join(pieces) == b"".join(members)


def test_what_inflates_a_thousandfold_comes_in_pieces() -> None:
    packed = gzip.compress(bytes(20_000_000))
    sizes = [len(piece) for piece in Inflater().feed(packed)]
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= 64 * 1024


def test_damaged_gzip_is_an_error_and_a_cut_one_too() -> None:
    packed = gzip.compress(b"{}" * 100)
    with pytest.raises(BrokenCoding, match="damaged"):
        list(Inflater().feed(b"{}" + packed))
    for keep in (1, 9, len(packed) - 1):
        inflater = Inflater()
        list(inflater.feed(packed[:keep]))
        with pytest.raises(BrokenCoding, match="breaks off"):
            inflater.end()
    assert zlib.decompress(packed, 31) == b"{}" * 100
