"""What the figures belong to: machine, interpreter, and the versions of everybody."""

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bench.envoy import envoy_binary
from tests.bench.machine import ROOT
from tests.bench.peers import caddy_binary

# Runs in the interpreter under test, which need not be this one.
_PROBE = """
import json, platform, ssl, sys, sysconfig
from importlib.metadata import version
from proxy.forward import exchange
try:
    system = platform.freedesktop_os_release().get("ID", "")
except OSError:
    system = ""
print(json.dumps({
    "implementation": platform.python_implementation(), "version": platform.python_version(),
    "config_args": sysconfig.get_config_var("CONFIG_ARGS") or "", "prefix": sys.base_prefix, "system": system,
    "openssl": ssl.OPENSSL_VERSION, "fumage-proxy": __import__("proxy").__version__,
    "compiled": "no" if exchange.__file__.endswith(".py") else "yes",
    **{name: version(name) for name in ("aiohttp", "httptools", "uvloop")},
}))
"""
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def python_record(python: str) -> dict[str, str]:
    """Version and build of that interpreter, and of what runs in it."""
    command = [python, "-c", _PROBE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    prefix, system = found.pop("prefix"), found.pop("system")
    return {**found, "optimised": optimised(found["config_args"], prefix, system)}


def optimised(config_args: str, prefix: str, system: str) -> str:
    """Whether it was built with profile-guided optimisation, as far as the build itself says."""
    if "--enable-optimizations" in config_args:
        return "yes"
    # Debian's rules call `make profile-opt` themselves, so that configure was never told.
    if prefix == "/usr" and system in ("debian", "ubuntu"):
        return "yes, as Debian builds it"
    return "no"


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of the programs among these parties, and of wrk and nginx, which every run needs."""
    commands = {
        "envoy": [envoy_binary() or "envoy", "--version"],
        "caddy": [caddy_binary() or "caddy", "version"],
        "go": ["go", "version"],
        "haproxy": ["haproxy", "-v"],
        "nginx": ["nginx", "-v"],
        "wrk": ["wrk", "-v"],
    }
    wanted = {*names, "nginx", "wrk"}
    return {name: _version(command) for name, command in commands.items() if name in wanted}


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)  # wrk -v ends with 1
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found else "unknown"


def machine() -> dict[str, object]:
    """Processor, cores, kernel; the load on it before the run, which should be near zero."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
