"""fumage-proxy: a local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage)."""

import os

__version__ = "0.1.0"

# Of all that is imported here, only aiohttp's frozenlist in C needs libstdc++: 2 MB for two short lists.
os.environ.setdefault("FROZENLIST_NO_EXTENSIONS", "1")
