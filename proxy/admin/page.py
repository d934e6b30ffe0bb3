"""The status page: one file without any outside resource, and the policy that lets only its own parts run."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def load() -> tuple[bytes, str]:
    """The page and its Content-Security-Policy."""
    html = Path(__file__).with_name("status.html").read_bytes()
    parts = dict(_INLINE.findall(html))
    policy = (
        "default-src 'none'",
        f"script-src {_hash(parts[b'script'])}",
        f"style-src {_hash(parts[b'style'])}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon, so that no browser asks for one
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
    return html, "; ".join(policy)


def _hash(text: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
