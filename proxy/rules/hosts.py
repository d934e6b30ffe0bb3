"""The Host names that every proxy serves; by themselves, since whoever reads settings needs no guard."""

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
