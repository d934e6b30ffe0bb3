"""What is wrong with flags that nobody knows: told by their names, since their values may be secrets."""

import re
from collections.abc import Collection, Iterator, Sequence

from proxy.settings.keys import KEYS
from proxy.settings.sources import nearest

_FLAG = re.compile(r"(--[A-Za-z][A-Za-z_-]{0,39})(?:=.*)?", re.DOTALL)


def complaint(words: Sequence[str], known: Collection[str], commands: Collection[str]) -> str:
    """About the words of a command line that mean nothing to a command with the `known` flags."""
    told = [
        f"{word} is a command, and a command stands before its flags: fumage-proxy {word} ..."
        for word in words
        if word in commands
    ] or list(dict.fromkeys(_told(words, known)))
    if not told:
        return "there are words that belong to no flag; they are not repeated here, in case one is a secret"
    return "; ".join(told)


def _told(words: Sequence[str], known: Collection[str]) -> Iterator[str]:
    values = False  # the word is what the flag before it was to be given, even if it looks like a flag
    for word in words:
        found = None if values else _FLAG.fullmatch(word)
        values = False
        if found is None:
            continue
        flag = found[1].lower().replace("_", "-")
        near = nearest(flag.removeprefix("--"), {})
        if near in KEYS and KEYS[near].secret:
            values = "=" not in word
            yield (
                f"{found[1]} is no flag, since a process list shows flags; "
                f"set {KEYS[near].environment} (environment or .env file)"
            )
        else:
            yield f"{found[1]} is no flag of this command" + _advice(flag, near, known)


def _advice(flag: str, near: str | None, known: Collection[str]) -> str:
    from difflib import get_close_matches  # needed after a mistake alone

    meant = KEYS[near].flag if near in KEYS else near
    close = get_close_matches(flag, known, n=1) or [each for each in known if each == meant]
    return f"; did you mean {close[0]}?" if close else "; --help lists them"
