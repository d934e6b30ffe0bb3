"""The grammar of `allow`: words such as `Patient.rs`, `*.rs`, `Patient.$match`.

The letters are those of SMART App Launch v2, in its order:
https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
"""

import re

from proxy.rules.fhir_lists import RESOURCE_TYPES

LETTERS = "cruds"

_is_letters = re.compile("c?r?u?d?s?").fullmatch
_is_operation = re.compile(r"\$(?:\*|[A-Za-z][A-Za-z0-9_-]{0,63})").fullmatch

_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


def read_words(text: str) -> dict[str, set[str]]:
    """The words, between white space or commas, by resource type or `*`: letters, and operations (`$match`).

    They add up. ValueError tells all that is wrong.
    """
    words: dict[str, set[str]] = {}
    wrong: list[str] = []
    for word in text.replace(",", " ").split():
        try:
            resource, what = _read_word(word)
        except ValueError as error:
            wrong.append(str(error))
        else:
            words.setdefault(resource, set()).add(what)
    if wrong:
        raise ValueError("; ".join(wrong))
    if not words:
        raise ValueError("no permission is named; write *.cruds to restrict nothing")
    return words


def _read_word(word: str) -> tuple[str, str]:
    """A resource type or `*`, and its letters or operation. ValueError: what is wrong, and what is meant."""
    if "?" in word:
        raise ValueError(
            f"{word}: refinements (?param=value) are not supported, and ignoring them would permit more"
        )
    context, slash, rest = word.rpartition("/")
    if slash:
        raise ValueError(
            f"{word}: write {rest or 'Patient.rs'}, without {context}/, since one token serves all callers"
        )
    resource, dot, what = word.partition(".")
    if resource != "*" and resource not in RESOURCE_TYPES:
        raise ValueError(f"{word}: {resource or 'nothing'} is no FHIR resource type{_nearest(resource)}")
    if not dot or not what:
        raise ValueError(f"{word}: say what is permitted, such as {resource}.rs")
    if what[0] == "$":
        if not _is_operation(what):
            raise ValueError(f"{word}: {what} is no name of an operation")
    elif not _is_letters(what):
        meant = _VERSION_1.get(what) or "".join(letter for letter in LETTERS if letter in what.lower())
        if what not in _VERSION_1 and not set(what.lower()) <= set(LETTERS):
            meant = "rs"
        raise ValueError(
            f"{word}: write letters of cruds, in this order and each once, such as {resource}.{meant}"
        )
    return resource, what


def _nearest(resource: str) -> str:
    from difflib import get_close_matches  # only for who made a mistake: probes read settings too

    by_lower = {known.lower(): known for known in RESOURCE_TYPES}
    near = get_close_matches(resource.lower(), by_lower, 1)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""
