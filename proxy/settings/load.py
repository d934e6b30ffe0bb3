"""From what was found to settings: precedence, forms, what keys ask of each other. All errors at once."""

import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proxy.settings import values
from proxy.settings.files import read_file, shown
from proxy.settings.keys import KEYS, REQUIRED, Key, Settings
from proxy.settings.sources import Given, Level, read
from proxy.settings.values import TCP, Address

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NOT_UTF8 = re.compile(r"[\ud800-\udfff]")  # what os.environ has in place of such bytes (PEP 383)
_DERIVED = "derived from base_url"
_SECRETS = tuple(key.name for key in KEYS.values() if key.secret)
_MOST = 64 * 1024  # bytes of a secret's file

Values = Mapping[str, Any]
Choice = Mapping[str, Given | None]
# Names of keys, and what yields what is wrong with them. It runs when they are right by themselves, and is
# told all values that are, and who chose which.
Rule = tuple[tuple[str, ...], Callable[[Values, Choice], Iterator[str]]]


class SettingsError(Exception):
    """Settings are wrong or missing; each problem names the culprit and holds no secret."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class Loaded:
    """`sources` says for each key where its value came from; "default" also for what is not set.

    `files` are those that were read, or looked for.
    """

    settings: Settings
    sources: Mapping[str, str]
    files: tuple[Path, ...]


def load(args: Namespace, environ: Mapping[str, str], *, cwd: Path, rules: Sequence[Rule] = ()) -> Loaded:
    """The settings of this process. Raises SettingsError with all problems; changes neither argument.

    `rules` are further ones, for what settings lead to outside of them.
    """
    found = read(args, environ, cwd)
    problems = [*found.broken, *found.unknown]
    chosen = {name: _strongest(name, found.levels) for name in KEYS}
    for name in _SECRETS:
        try:
            chosen[name], chosen[f"{name}_file"] = _secret(name, found.levels, cwd)
        except ValueError as error:
            problems.append(str(error))
            del chosen[name], chosen[f"{name}_file"]

    checked: dict[str, Any] = {}
    for name, given in chosen.items():
        try:
            checked[name] = _value(KEYS[name], given, found.levels, cwd)
        except ValueError as error:
            problems.append(str(error))

    sources = {name: given.source if given else "default" for name, given in chosen.items()}
    problems += _derive_token_url(checked, sources, chosen)
    for needs, rule in (*_RULES, *rules):
        if all(name in checked for name in needs):
            problems += rule(checked, chosen)
    if problems:
        raise SettingsError(problems)
    files = (*found.files, *(checked[f"{name}_file"] for name in _SECRETS))
    return Loaded(Settings(**checked), MappingProxyType(sources), tuple(filter(None, files)))


def load_admin_listen(args: Namespace, environ: Mapping[str, str], *, cwd: Path) -> tuple[Address, ...]:
    """The admin listener's addresses, for commands that need no credentials. Raises SettingsError."""
    found = read(args, environ, cwd)
    problems = list(found.broken)
    key = KEYS["admin_listen"]
    try:
        addresses: tuple[Address, ...] = _value(key, _strongest(key.name, found.levels), found.levels, cwd)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise SettingsError(problems)
    return addresses


def read_secret(path: Path) -> str:
    """The secret in the file, less one line end. Raises ValueError when unreadable, empty or unusable."""
    try:
        data = read_file(path, _MOST)
    except ValueError as error:
        raise ValueError(f"{shown(path)} {error}") from None
    try:
        # Windows editors begin files with a byte order mark, which nobody sees.
        secret = _without_line_end(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{shown(path)} is not UTF-8 text") from None
    if not secret.strip():
        raise ValueError(f"{shown(path)} is empty")
    if _CONTROL.search(secret):
        raise ValueError(f"{shown(path)} holds more than one line, or a control character")
    return secret


def _without_line_end(text: str) -> str:
    return re.sub(r"\r?\n\Z", "", text)


# One key


def _strongest(name: str, levels: Sequence[Level]) -> Given | None:
    counts = KEYS[name].kind.empty_counts
    return next(
        (level[name] for level in levels if name in level and (counts or not level[name].empty)), None
    )


def _secret(name: str, levels: Sequence[Level], cwd: Path) -> tuple[Given | None, Given | None]:
    # The secret itself, and the file if it came from one. Two places of the same rank contradict each other.
    for level in levels:
        value, file = (_strongest(each, (level,)) for each in (name, f"{name}_file"))
        if value and file:
            raise ValueError(f"{value.culprit}: stands beside {file.culprit}; only one of them can count")
        if value:
            return value, None
        if file:
            path = cwd / _text(KEYS[f"{name}_file"], file)
            try:
                return Given(read_secret(path), f"file {path}", f"file {path}"), file
            except ValueError as error:
                raise ValueError(f"{file.culprit}: {error}") from None
    return None, None


def _value(key: Key, given: Given | None, levels: Sequence[Level], cwd: Path) -> Any:
    if given is None:
        if key.default is None and key.unset == REQUIRED:
            raise ValueError(_missing(key, levels))
        return None if key.default is None else key.kind.parse(key.default)
    text = _text(key, given)
    try:
        value = key.kind.parse(text)
    except ValueError as error:
        raise ValueError(f"{given.culprit}: {error}") from None
    return cwd / value if isinstance(value, Path) else value


def _missing(key: Key, levels: Sequence[Level]) -> str:
    names = [key.environment, *([KEYS[f"{key.name}_file"].environment] if key.secret else ())]
    ways = f"{' or '.join(names)} (environment or .env file)"
    ways += f", {key.flag}" if key.flag else ""
    empty = [f"; {level[key.name].culprit} is empty" for level in levels if key.name in level]
    return f"{key.name} is missing: set {ways}, or {key.name} in a TOML file{''.join(empty)}"


def _text(key: Key, given: Given) -> str:
    text = _native(key, given)
    text = _without_line_end(text) if key.secret else text.strip()
    if _CONTROL.search(text):
        raise ValueError(f"{given.culprit}: holds a line end or another control character")
    if _NOT_UTF8.search(text):
        raise ValueError(f"{given.culprit}: is not UTF-8")
    if given.on_command_line and values.has_password(text, is_url=key.kind.is_url):
        raise ValueError(
            f"{given.culprit}: the URL carries a password, and a process list shows flags; "
            f"set {key.environment} (environment or .env file) instead"
        )
    return text


def _native(key: Key, given: Given) -> str:
    # TOML's own types become the text that means the same, so that there is one parser a key.
    value, native = given.value, key.kind.native
    if isinstance(value, str):
        return value
    if list in native and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, list) or type(value) not in native:  # type(): a bool is an int to isinstance()
        raise ValueError(f"{given.culprit}: must be {_wanted(key)}, not {type(value).__name__}")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _wanted(key: Key) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", list: "an array of strings"}
    return ", or ".join(["a string", *(names[each] for each in key.kind.native)])


# What keys ask of each other


def _derive_token_url(checked: dict[str, Any], sources: dict[str, str], chosen: Choice) -> Iterator[str]:
    if "base_url" not in checked or "token_url" not in checked or checked["token_url"] is not None:
        return
    try:
        checked["token_url"] = values.emr_token_url(checked["base_url"])
    except ValueError as error:
        advice = f"set token_url ({KEYS['token_url'].environment}) if the host is right"
        yield f"{culprit('base_url', chosen)}: {error}; {advice}"
    else:
        sources["token_url"] = _DERIVED


def _reachable(checked: Values, chosen: Choice) -> Iterator[str]:
    if checked["unsafe_listen"]:
        return
    for address in checked["listen"]:
        if isinstance(address, TCP) and not values.is_loopback(address.host):
            advice = f"listen on 127.0.0.1 or [::1], or set {KEYS['unsafe_listen'].environment}=true"
            yield (
                f"{culprit('listen', chosen)}: {address} can be reached from other hosts, and whoever "
                f"reaches it acts with this proxy's credentials; {advice} if other means keep strangers out"
            )


def _disjoint(checked: Values, chosen: Choice) -> Iterator[str]:
    for address in checked["admin_listen"]:
        if values.clashes(address, checked["listen"]):
            yield f"{culprit('admin_listen', chosen)}: {address} is in listen too"


def _sealed(checked: Values, chosen: Choice) -> Iterator[str]:
    if checked["token_store"] != values.MEMORY and not checked["token_store_key"]:
        advice = f"set {KEYS['token_store_key'].environment} or {KEYS['token_store_key_file'].environment}"
        yield f"{culprit('token_store', chosen)}: tokens lie encrypted in a shared store; {advice}"


def _certificate(checked: Values, chosen: Choice) -> Iterator[str]:
    if checked["client_key"] and not checked["client_cert"]:
        yield f"{culprit('client_key', chosen)}: is of no use without client_cert"


def culprit(name: str, chosen: Choice) -> str:
    """What has to be changed for another value of the key."""
    given = chosen[name]
    return given.culprit if given else name


_RULES: tuple[Rule, ...] = (
    (("listen", "unsafe_listen"), _reachable),
    (("listen", "admin_listen"), _disjoint),
    (("client_cert", "client_key"), _certificate),
    (("token_store", "token_store_key"), _sealed),
)
