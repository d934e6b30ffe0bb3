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
        # Without a scheme it is that of the base, since Fumage speaks to us by it (RFC 3986 section 5.2.2).
        # The authority ends here: `https://fumage-x.example.evil.org` and `…@evil.org` are other places.
        host = re.escape(base.host)
        if base.port is None:
            default = b"443" if base.scheme == b"https" else b"80"
            authority = rb"(?:https://%b(?::443)?|http://%b(?::80)?|//%b(?::%b)?)"
            authority %= (host, host, host, default)
        else:
            authority = rb"(?:https?:)?//%b:%d" % (host, base.port)
        self._absolute = re.compile(authority + rb"(?=[/?#]|\Z)", re.IGNORECASE)

    def location(self, value: bytes, caller: bytes) -> bytes:
        """The value as the caller needs it; `caller` is the authority that the caller sent its request to.

        It is empty when a caller on a unix socket names none: then the path alone has to do.
        """
        if value.startswith(b"/") and not value.startswith(b"//"):
            rest = self._below_base(value)
            return value if rest is None else _as_path(rest)
        found = self._absolute.match(value)
        if not found:
            return value
        rest = self._below_base(value[found.end() :])
        if rest is None:
            return value
        if caller:
            return b"http://" + caller + rest
        return _as_path(rest)

    def _below_base(self, reference: bytes) -> bytes | None:
        """The reference less the base URL's own path; None when it lies outside of the base."""
        if not self._path:
            return reference
        if not reference.startswith(self._path):
            return None
        rest = reference[len(self._path) :]
        return rest if rest[:1] in (b"/", b"?", b"#", b"") else None


def _as_path(rest: bytes) -> bytes:
    """A reference to the same place that begins with a path: `?page=2` alone would keep the page's own, and
    `//x` would be another host (RFC 3986 section 4.2)."""
    if rest.startswith(b"//"):
        return b"/." + rest
    return rest if rest.startswith(b"/") else b"/" + rest
