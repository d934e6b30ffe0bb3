"""Parts of the proxy that follow from its settings alone."""

from proxy.rules.bundle import BodyLinks
from proxy.rules.links import Base, Links
from proxy.settings import Settings


def links(settings: Settings) -> Links | None:
    """What becomes of the links in an answer's head; None: nothing."""
    return None if settings.links == "off" else Links(_base(settings))


def body_links(settings: Settings) -> BodyLinks | None:
    """What becomes of the links in an answer's body; None: nothing."""
    what, _, absolute = settings.links.partition(",")
    if what not in ("bundle", "all"):
        return None
    return BodyLinks(_base(settings), attachments=what == "all", absolute=absolute != "")


def _base(settings: Settings) -> Base:
    base = settings.base_url
    host = f"[{base.host}]" if ":" in base.host else base.host
    return Base(base.scheme.encode(), host.encode(), base.explicit_port, base.path.encode())
