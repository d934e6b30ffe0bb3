"""Settings: flag, environment, .env, TOML -> frozen values; all errors at once."""

from proxy.settings.change import CREDENTIALS, LIVE, Change, compare
from proxy.settings.files import is_pipe, shown
from proxy.settings.keys import KEYS, Settings
from proxy.settings.load import (
    Choice,
    Loaded,
    Rule,
    SettingsError,
    Values,
    culprit,
    load,
    load_admin_listen,
    read_secret,
)
from proxy.settings.show import defaults, describe, given, markdown_table, told
from proxy.settings.sources import add_arguments
from proxy.settings.values import MEMORY, TCP, URL, Address, Unix, mask_url

__all__ = [
    "CREDENTIALS",
    "KEYS",
    "LIVE",
    "MEMORY",
    "TCP",
    "URL",
    "Address",
    "Change",
    "Choice",
    "Loaded",
    "Rule",
    "Settings",
    "SettingsError",
    "Unix",
    "Values",
    "add_arguments",
    "compare",
    "culprit",
    "defaults",
    "describe",
    "given",
    "is_pipe",
    "load",
    "load_admin_listen",
    "markdown_table",
    "mask_url",
    "read_secret",
    "shown",
    "told",
]
