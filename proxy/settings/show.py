"""Settings for people: what `fumage-proxy config` prints and the table in the README."""

from collections.abc import Collection

from proxy.settings.keys import KEYS, Key
from proxy.settings.load import Loaded
from proxy.settings.values import MASK

_IDS = ("patient",)  # no secret, but nothing for a log


def describe(loaded: Loaded) -> str:
    """A line `key = value  (source)` for each key, in the table's order; secrets and passwords masked."""
    return "\n".join(_line(key, loaded) for key in KEYS.values())


def _line(key: Key, loaded: Loaded) -> str:
    text = _text(key, loaded)
    return f"{key.name} = {text}  ({loaded.sources[key.name] if text else 'not set'})"


def _text(key: Key, loaded: Loaded) -> str:
    value = getattr(loaded.settings, key.name)
    return "" if value is None else key.kind.show(value)


def told(loaded: Loaded, names: Collection[str]) -> str:
    """The keys of these names on a line for the log, with their sources; masked are ids of patients, too."""
    return "; ".join(
        f"{key.name} = {MASK if key.name in _IDS else _text(key, loaded)} ({loaded.sources[key.name]})"
        for key in KEYS.values()
        if key.name in names
    )


def given(loaded: Loaded) -> str:
    """What somebody set, or follows from it, on one line; see `told`."""
    return told(loaded, [name for name, source in loaded.sources.items() if source != "default"])


def defaults(loaded: Loaded) -> str:
    """What nobody set, and what holds therefore, on one line."""
    return "; ".join(
        f"{key.name} = {text}"
        for key in KEYS.values()
        if loaded.sources[key.name] == "default" and (text := _text(key, loaded))
    )


def markdown_table() -> str:
    """The table of settings as it stands in the README."""
    rows = [("key", "environment", "default", ""), ("---",) * 4]
    rows += [
        (key.name, f"`{key.environment}`", f"`{key.default}`" if key.default else key.unset, key.help)
        for key in KEYS.values()
    ]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
