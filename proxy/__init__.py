"""fumage-proxy: a local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage)."""

from importlib.metadata import version

__version__ = version("fumage-proxy")
