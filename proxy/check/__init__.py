"""Proves a configuration, step by step, from the settings to an authenticated answer of Fumage."""

from proxy.check.story import check, run

__all__ = ["check", "run"]
