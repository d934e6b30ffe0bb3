"""Byte strings that are almost messages, and the time that is spent on them."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
_TESTS = 7  # that share the time
_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

Mutation = Callable[[bytes], bytes]


def fuzz(
    *strategies: st.SearchStrategy[Any], examples: int, shared: str = ""
) -> Callable[[Callable[..., None]], Callable[[pytest.FixtureRequest], None]]:
    """Run the test with so many examples; with FUZZ_SECONDS again and again, until its share is over.

    `shared`: a fixture that all examples get as their first argument.
    """

    def decorate(check: Callable[..., None]) -> Callable[[pytest.FixtureRequest], None]:
        profile = settings(
            max_examples=max(examples, 1000) if SECONDS else examples,
            deadline=None,
            suppress_health_check=_QUIET,
            # Examples that failed once become cases; a database would only make runs differ.
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        )

        @pytest.mark.timeout(SECONDS + 120)
        def test(request: pytest.FixtureRequest) -> None:
            given_first = [request.getfixturevalue(shared)] if shared else []

            def example(drawn: tuple[Any, ...]) -> None:
                check(*given_first, *drawn)

            end = time.monotonic() + SECONDS / _TESTS
            while True:
                profile(given(st.tuples(*strategies))(example))()
                if time.monotonic() >= end:
                    return

        test.__name__ = check.__name__
        test.__doc__ = check.__doc__
        return test

    return decorate


@st.composite
def _edit(draw: st.DrawFn, words: Sequence[bytes]) -> tuple[str, float, float, bytes]:
    kind = draw(
        st.sampled_from(("line", "line", "insert", "insert", "replace", "delete", "repeat", "move", "cut"))
    )
    return kind, draw(st.floats(0, 1)), draw(st.floats(0, 1)), draw(st.sampled_from(words))


def _apply(data: bytes, edit: tuple[str, float, float, bytes]) -> bytes:
    kind, where, length, word = edit
    at = int(where * len(data))
    size = int(length**4 * (len(data) - at))  # mostly short
    piece = data[at : at + size + 1]
    match kind:
        case "line":  # the word at the beginning of a line
            start = data.find(b"\r\n", at) + 2
            return data[:start] + word + data[start:] if start > 1 else data + word
        case "insert":
            return data[:at] + word + data[at:]
        case "replace":
            return data[:at] + word + data[at + len(word) :]
        case "delete":
            return data[:at] + data[at + len(piece) :]
        case "repeat":
            return data[:at] + piece + data[at:]
        case "move":
            rest = data[:at] + data[at + len(piece) :]
            to = int(length * len(rest))
            return rest[:to] + piece + rest[to:]
        case _:
            return data[:at]


@st.composite
def _mutated(draw: st.DrawFn, corpus: Sequence[bytes], words: Sequence[bytes], most: int) -> bytes:
    data = draw(st.sampled_from(corpus))
    for edit in draw(st.lists(_edit(words), max_size=most)):
        data = _apply(data, edit)
    return data


def messages(
    good: Sequence[bytes], bad: Sequence[bytes], words: Sequence[bytes], most: int = 3
) -> st.SearchStrategy[bytes]:
    """Some bytes, at least one: messages in a row, cut off, or with edits; a heap of words; or anything."""

    def rows(corpus: Sequence[bytes], edits: int) -> st.SearchStrategy[bytes]:
        return st.lists(_mutated(corpus, words, edits), min_size=1, max_size=most).map(b"".join)

    cut_off = st.tuples(rows(good, 1), st.floats(0, 1)).map(
        lambda drawn: drawn[0][: int(drawn[1] * len(drawn[0]))]
    )
    heaps = st.lists(st.sampled_from(words), min_size=1, max_size=40).map(b"".join)
    anything = st.one_of(heaps, st.binary(min_size=1, max_size=200))
    return st.one_of(rows(good, 1), rows(good, 1), rows([*good, *bad], 4), cut_off, anything).filter(bool)


CUTS = st.lists(st.floats(0, 1), max_size=8)


def pieces(data: bytes, cuts: Sequence[float]) -> list[bytes]:
    """The data, cut at these places."""
    stops = [*sorted({int(cut * len(data)) for cut in cuts} - {0}), len(data)]
    parts = [data[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
    return [part for part in parts if part]
