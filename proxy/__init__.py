"""fumage-proxy: a local authenticating reverse proxy for Canvas Medical's FHIR API (Fumage)."""

__version__: str


def __getattr__(name: str) -> str:
    # Late: importlib.metadata takes as long as all else that `fumage-proxy health` does.
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("fumage-proxy")
