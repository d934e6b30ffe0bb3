"""Measures the proxy and its peers on this machine: `python -m tests.bench --help`."""
