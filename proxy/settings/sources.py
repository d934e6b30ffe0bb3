"""Where settings come from: flags, the environment, a .env file, a TOML file; each outranks the next."""

import io
import os
import re
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.settings.files import read_file, shown
from proxy.settings.keys import KEYS, PREFIX, Key

_CONFIG = PREFIX + "CONFIG"
_MOST = 2**20  # bytes of a .env or TOML file
_BY_VARIABLE = {key.environment: key for key in KEYS.values()}

# Kubernetes describes each service of a namespace in every pod's environment, and one may well be called
# fumage-proxy or fumage-proxy-something (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_SERVICE_LINK = re.compile(
    r"FUMAGE_PROXY_(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT.*|PORT_[0-9]+_.*|PORT=[a-z]+://.*)", re.DOTALL
)


@dataclass(frozen=True)
class Given:
    """A value as found. `source` is what `config` shows; `culprit` also names what has to be changed."""

    value: object = field(repr=False)  # it may be the secret
    source: str
    culprit: str
    on_command_line: bool = False

    @property
    def empty(self) -> bool:
        """An empty value counts as not given, as it does in compose files: `X: ${X:-}`."""
        return self.value == [] or (isinstance(self.value, str) and not self.value.strip())


Level = Mapping[str, Given]


@dataclass(frozen=True)
class Found:
    """Levels by key name, the strongest first; `broken` and `unknown` are problems of files and of names.

    `files` are those that were looked for.
    """

    levels: tuple[Level, ...]
    broken: list[str]
    unknown: list[str]
    files: tuple[Path, ...]


def add_arguments(parser: ArgumentParser) -> None:
    """One flag a key, less the secrets, and the two that name files.

    Nothing is set on the namespace for a flag that was not given, so that the same flags may stand before and
    behind a subcommand.
    """
    group = parser.add_argument_group("settings", "flag > environment > .env file > TOML file > default")
    group.add_argument("--env-file", default=SUPPRESS, metavar="FILE", help="in place of ./.env")
    group.add_argument("--config", default=SUPPRESS, metavar="FILE", help=f"TOML file (or {_CONFIG})")
    for key in KEYS.values():
        if key.flag is not None:
            text = f"{key.help} ({key.default or key.unset}; {key.environment})".replace("%", "%%")
            group.add_argument(
                key.flag, dest=key.name, default=SUPPRESS, metavar=key.kind.form, help=text, **_shape(key)
            )


def _shape(key: Key) -> dict[str, Any]:
    if bool in key.kind.native:
        return {"nargs": "?", "const": "true"}
    # A list's flag may be repeated; that the last one wins would be a surprise.
    return {"action": "append"} if list in key.kind.native else {}


def read(args: Namespace, environ: Mapping[str, str], cwd: Path) -> Found:
    """Read all places; files lie relative to `cwd`. Problems are collected, not raised."""
    flags = vars(args)
    env_file: str | None = flags.get("env_file")
    env_source = f".env file {'./.env' if env_file is None else shown(env_file)}"
    dotenv, broken = _dotenv(cwd, env_file)
    problems = [f"{env_source}{where}" for where in broken]

    config, config_culprit = _config(flags, environ, dotenv, env_source)
    toml: dict[str, object] = {}
    if config is not None:
        try:
            toml = _toml(cwd / config)
        except ValueError as error:
            problems.append(f"{config_culprit}: {shown(config)} {error}")

    levels = (
        _flag_level(flags),
        _variable_level(environ, lambda name: (f"environment {name}", f"environment {name}")),
        _variable_level(dotenv, lambda name: (env_source, f"{env_source}, {name}")),
        _toml_level(toml, f"TOML file {config}"),
    )
    unknown = [
        *(f"environment {problem}" for problem in _unknown_variables(environ)),
        *(f"{env_source}, {problem}" for problem in _unknown_variables(dotenv)),
        *(f"TOML file {config}, {problem}" for problem in _unknown_keys(toml)),
    ]
    return Found(
        levels, problems, unknown, tuple(cwd / name for name in (env_file or ".env", config) if name)
    )


def _config(
    flags: Mapping[str, Any], environ: Mapping[str, str], dotenv: Mapping[str, str], env_source: str
) -> tuple[str | None, str]:
    # The TOML file's name and who named it.
    if "config" in flags:
        return flags["config"], "flag --config"
    if environ.get(_CONFIG, ""):
        return environ[_CONFIG], f"environment {_CONFIG}"
    return dotenv.get(_CONFIG) or None, f"{env_source}, {_CONFIG}"


def _flag_level(flags: Mapping[str, Any]) -> Level:
    return {
        key.name: Given(flags[key.name], f"flag {key.flag}", f"flag {key.flag}", on_command_line=True)
        for key in KEYS.values()
        if key.flag is not None and flags.get(key.name) is not None
    }


def _variable_level(variables: Mapping[str, str], named: Callable[[str], tuple[str, str]]) -> Level:
    return {
        key.name: Given(variables[name], *named(name))
        for name, key in _BY_VARIABLE.items()
        if name in variables
    }


def _toml_level(toml: Mapping[str, object], source: str) -> Level:
    return {name: Given(toml[name], source, f"{source}, {name}") for name in KEYS if name in toml}


# Names


def _unknown_variables(variables: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(variables.items()):
        if not name.startswith(PREFIX) or name in _BY_VARIABLE or name == _CONFIG:
            continue
        # The value counts for one form alone: …_PORT=tcp://10.0.0.1:80.
        if _SERVICE_LINK.fullmatch(name) or _SERVICE_LINK.fullmatch(f"{name}={value}"):
            continue
        near = nearest(name.removeprefix(PREFIX), {"config": _CONFIG})
        yield f"{name} is not a setting" + _advice(KEYS[near].environment if near in KEYS else near)


def _unknown_keys(toml: Mapping[str, object]) -> Iterator[str]:
    for name, value in toml.items():
        if isinstance(value, dict):
            yield f"[{name}] is a table, and settings stand at the top of the file, before any table"
        elif name not in KEYS:
            yield f"{name} is not a setting" + _advice(nearest(name, {"config": "--config"}))


# What others call it, and what is none of the keys.
_ALSO_CALLED = {
    "env_file": "--env-file",
    "dotenv": "--env-file",
    "port": "listen",
    "host": "listen",
    "bind": "listen",
    "address": "listen",
    "upstream": "base_url",
    "redis": "token_store",
    "debug": "log_level",
    "verbose": "log_level",
}


def nearest(name: str, more: Mapping[str, str]) -> str | None:
    """The key, or what `more` says, whose name comes nearest; None if nothing comes near.

    By key name, also where the variable is called otherwise: FUMAGE_PROXY_BASE_URL means FUMAGE_BASE_URL.
    """
    from difflib import get_close_matches  # needed after a mistake alone

    name = name.lower().replace("-", "_")
    known = {each: each for each in KEYS} | _ALSO_CALLED | dict(more)
    names = {key.environment.lower(): key.name for key in KEYS.values()} | known
    akin = [each for each in known if set(name.split("_")) & set(each.split("_"))]
    close = get_close_matches(name, names, n=1) or get_close_matches(name, akin, n=1, cutoff=0)
    return names[close[0]] if close else None


def _advice(name: str | None) -> str:
    return f"; did you mean {name}?" if name else "; fumage-proxy config lists them all"


# Files


def _read_text(path: Path) -> str:
    data = read_file(path, _MOST)
    try:
        return data.decode("utf-8-sig")  # Windows editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"is not UTF-8 (line {line})") from None


def _toml(path: Path) -> dict[str, object]:
    import tomllib  # not everybody has a file

    text = _read_text(path)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise ValueError(f"is not TOML: {error}") from None


def _dotenv(cwd: Path, env_file: str | None) -> tuple[dict[str, str], list[str]]:
    # The variables, and of what went wrong the text behind the file's name.
    path = cwd / (".env" if env_file is None else env_file)
    # Nothing here is no mistake, and neither is a virtualenv: some call it .env. Any other directory is one:
    # Docker makes it where the file that is to be mounted is missing.
    if env_file is None and (_is_absent(path) or os.path.isfile(path / "pyvenv.cfg")):
        return {}, []
    # The parser below dotenv_values(interpolate=False): that one only logs a line that it cannot read, and
    # a setting that is lost without an error is what this file exists to prevent.
    from dotenv.parser import parse_stream

    try:
        bindings = list(parse_stream(io.StringIO(_read_text(path))))
    except ValueError as error:
        return {}, [f" {error}"]
    variables = {binding.key: binding.value or "" for binding in bindings if binding.key is not None}
    broken = [binding.original for binding in bindings if binding.error]
    return variables, [f", line {_line(each.string, each.line)}: is not NAME=value" for each in broken]


def _is_absent(path: Path) -> bool:
    # Not os.path.lexists(): a folder that is closed for a while must not read as one without the file.
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _line(text: str, first: int) -> int:
    # dotenv counts the blank lines before a statement as part of it.
    return first + text[: len(text) - len(text.lstrip())].count("\n")
