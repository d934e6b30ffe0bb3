"""fumage-proxy: a local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage)."""

__version__ = "0.1.0"
