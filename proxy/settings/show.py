"""Settings for people: what `fumage-proxy config` prints and the table in the README."""

from proxy.settings.keys import KEYS, Key
from proxy.settings.load import Loaded


def describe(loaded: Loaded) -> str:
    """A line `key = value  (source)` for each key, in the table's order; secrets and passwords masked."""
    return "\n".join(_line(key, loaded) for key in KEYS.values())


def _line(key: Key, loaded: Loaded) -> str:
    value = getattr(loaded.settings, key.name)
    text = "" if value is None else key.kind.show(value)
    return f"{key.name} = {text}  ({loaded.sources[key.name] if text else 'not set'})"


def markdown_table() -> str:
    """The table of settings as it stands in the README."""
    rows = [("key", "environment", "default", ""), ("---",) * 4]
    rows += [
        (key.name, f"`{key.environment}`", f"`{key.default}`" if key.default else key.unset, key.help)
        for key in KEYS.values()
    ]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
