"""What a caller hears whom `allow` refuses. Of the request it holds the type and known operations alone."""

from proxy.rules.errors import CallerRefused


def missing(word: str) -> CallerRefused:
    """The request is understood, and `allow` lacks this word (`Patient.r`)."""
    return CallerRefused(
        f"The request needs the permission {word}, which allow does not give.",
        f"If this caller should be served, add {word} to allow (FUMAGE_PROXY_ALLOW).",
    )


def unclear(what: str) -> CallerRefused:
    """The request could be read in more than one way, or in a way that is not known here."""
    return CallerRefused(
        f"{what}: with this allow, only what is clearly permitted passes.",
        "Send a plain FHIR request; only allow = *.cruds lets all pass (FUMAGE_PROXY_ALLOW).",
    )
