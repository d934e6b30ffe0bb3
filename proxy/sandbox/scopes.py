"""SMART on FHIR scopes, as far as the sandbox needs them: what may be asked for, and what it permits."""

import re

LAB_REPORT = "create-lab-report"

# Without a scope in the token request everything is permitted.
EVERYTHING = "system/*.*"

# https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html, v1 words and v2 letters; the
# operation's own word is Canvas's. v2 search constraints (`.rs?category=…`) are refused.
_RESOURCE_SCOPE = re.compile(
    rf"(?:patient|user|system)/(\*|[A-Z][A-Za-z]+)\.(\*|read|write|{LAB_REPORT}|(?=[cruds])c?r?u?d?s?)"
)
_OTHER_SCOPES = {
    "openid",
    "profile",
    "fhirUser",
    "launch",
    "launch/patient",
    "online_access",
    "offline_access",
}
_WORDS = {"read": "rs", "write": "cud"}


def unknown(scope: str) -> bool:
    """Whether the token endpoint has to answer invalid_scope."""
    return not all(_RESOURCE_SCOPE.fullmatch(word) or word in _OTHER_SCOPES for word in scope.split())


def permits(scope: str, resource_type: str, interaction: str) -> bool:
    """`interaction` is a SMART v2 letter, or the name of an operation."""
    for word in scope.split():
        match = _RESOURCE_SCOPE.fullmatch(word)
        if match is None or match[1] not in ("*", resource_type):
            continue
        granted = match[2]
        if granted in ("*", interaction):
            return True
        if len(interaction) == 1 and granted != LAB_REPORT and interaction in _WORDS.get(granted, granted):
            return True
    return False
