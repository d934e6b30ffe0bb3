"""What a shared store gets to see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.token.seal import Seal

OLD, NEW = "the old key of thirty-two characters", "the new key of thirty-two characters"


def test_what_was_sealed_is_opened() -> None:
    seal = Seal([NEW])
    assert seal.open(b"me", seal.seal(b"me", b"a token")) == b"a token"
    assert seal.seal(b"me", b"a token") != seal.seal(b"me", b"a token")


@pytest.mark.parametrize("texts", [[NEW, OLD], [OLD, NEW], [OLD]])
def test_each_key_opens_and_the_first_seals(texts: list[str]) -> None:
    assert Seal(texts).open(b"me", Seal([OLD]).seal(b"me", b"a token")) == b"a token"
    assert Seal([texts[0]]).open(b"me", Seal(texts).seal(b"me", b"a token")) == b"a token"


def test_another_key_or_another_identity_does_not_open() -> None:
    sealed = Seal([OLD]).seal(b"me", b"a token")
    assert Seal([NEW]).open(b"me", sealed) is None
    assert Seal([OLD]).open(b"you", sealed) is None


@given(st.integers(0, 34), st.integers(1, 255))
def test_a_changed_byte_does_not_open(at: int, change: int) -> None:
    sealed = bytearray(Seal([OLD]).seal(b"me", b"a token"))
    sealed[at % len(sealed)] ^= change
    assert Seal([OLD]).open(b"me", bytes(sealed)) is None


@given(st.binary(max_size=60))
def test_nonsense_does_not_open(sealed: bytes) -> None:
    assert Seal([OLD, NEW]).open(b"me", sealed) is None


def test_names_differ_by_identity_and_by_key_and_hold_neither() -> None:
    names = {name for texts in ([OLD], [NEW]) for me in (b"me", b"you") for name in Seal(texts).names(me)}
    assert len(names) == 4
    assert Seal([OLD, NEW]).names(b"me") == Seal([OLD]).names(b"me") + Seal([NEW]).names(b"me")
    assert all(len(name) == 32 for name in names)
