"""Settings: flag, environment, .env, TOML -> frozen values; all errors at once."""

from proxy.settings.keys import KEYS, Settings
from proxy.settings.load import Loaded, SettingsError, load, load_admin_listen, read_secret
from proxy.settings.show import describe, markdown_table
from proxy.settings.sources import add_arguments
from proxy.settings.values import MEMORY, TCP, URL, Address, Unix, mask_url

__all__ = [
    "KEYS",
    "MEMORY",
    "TCP",
    "URL",
    "Address",
    "Loaded",
    "Settings",
    "SettingsError",
    "Unix",
    "add_arguments",
    "describe",
    "load",
    "load_admin_listen",
    "markdown_table",
    "mask_url",
    "read_secret",
]
