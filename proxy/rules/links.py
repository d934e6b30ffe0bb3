"""Links in an answer: what points at Fumage comes back as the address that the caller used."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Base:
    """The base URL's parts, as bytes. `port` None means the default of the scheme."""

    scheme: bytes
    host: bytes
    port: int | None
    path: bytes  # without a trailing slash; often empty


class Links:
    """Rewrites the values of Location and Content-Location."""

    def __init__(self, base: Base):
        self._path = base.path
        # Canvas writes its own base with http and with https, with and without the default port (FACTS).
        # The authority has to end here: `https://fumage-x.example.evil.org` and `…@evil.org` are other places.
        if base.port is None:
            authority = rb"(?:https://%b(?::443)?|http://%b(?::80)?)" % ((re.escape(base.host),) * 2)
        else:
            authority = rb"https?://%b:%d" % (re.escape(base.host), base.port)
        self._absolute = re.compile(authority + rb"(?=[/?#]|$)", re.IGNORECASE)

    def location(self, value: bytes, caller: bytes) -> bytes:
        """The value as the caller needs it; `caller` is the authority that the caller sent its request to."""
        if value.startswith(b"/") and not value.startswith(b"//"):
            return self._below_base(value) or value
        found = self._absolute.match(value)
        if not found:
            return value
        rest = self._below_base(value[found.end() :])
        return value if rest is None else b"http://" + caller + rest

    def _below_base(self, reference: bytes) -> bytes | None:
        """The reference less the base URL's own path; None when it lies outside of the base."""
        if not self._path:
            return reference
        if not reference.startswith(self._path):
            return None
        rest = reference[len(self._path) :]
        return rest if rest[:1] in (b"/", b"?", b"#", b"") else None
