"""Every error that the proxy itself answers with: a type names the culprit, and its attributes are the
table that turns it into a status, a FHIR issue code and a Proxy-Status (RFC 9209 section 2.3)."""

from typing import ClassVar

CALLER = "the calling application"
FUMAGE = "Fumage (the Canvas FHIR API) or the network to it"
EMR = "the EMR's token endpoint or the network to it"
SETTINGS = "the settings of fumage-proxy"
EGRESS = "the egress proxy (HTTPS_PROXY)"
PROXY = "fumage-proxy"


class ProxyError(Exception):
    """An answer that the proxy makes itself. `str()` says what happened, free of secrets and of PHI."""

    status: ClassVar[int]
    issue: ClassVar[str]  # http://hl7.org/fhir/R4/valueset-issue-type.html
    error: ClassVar[str]  # https://www.iana.org/assignments/http-proxy-status
    culprit: ClassVar[str]
    advice: str
    details: str | None = None  # the `details` parameter of Proxy-Status
    retry_after: float | None = None  # seconds; sent rounded up, as Retry-After


# --- the caller's request ---


class MalformedRequest(ProxyError):
    """Not HTTP/1.x as RFC 9112 has it, or a shape that two servers could read differently."""

    status, issue, error = 400, "invalid", "http_request_error"
    culprit = CALLER
    advice = "Send a well-formed HTTP/1.1 request."


class MethodUnknown(MalformedRequest):
    """A method that is not registered (RFC 9110 section 15.6.2)."""

    status, issue = 501, "not-supported"
    advice = "Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS."


class CallerRefused(ProxyError):
    """The guard said no: a foreign Host or Origin, or an interaction that `allow` does not permit."""

    status, issue, error = 403, "forbidden", "http_request_denied"
    culprit = CALLER
    advice = "If this caller should be served, change the settings of fumage-proxy."

    def __init__(self, message: str, advice: str | None = None):
        super().__init__(message)
        if advice:
            self.advice = advice  # a refusal knows which setting would lift it


class MethodRefused(ProxyError):
    """TRACE and CONNECT, which have no business with a FHIR server."""

    status, issue, error = 405, "not-supported", "http_request_denied"
    culprit = CALLER
    advice = "Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS."


class HeadTooLarge(ProxyError):
    """RFC 6585 section 5."""

    status, issue, error = 431, "too-long", "http_request_error"
    culprit = CALLER
    advice = "Send fewer or shorter header fields, or raise max_head."


class TargetTooLong(HeadTooLarge):
    """RFC 9110 section 15.5.15."""

    status = 414
    advice = "Search with POST [type]/_search instead of a long query, or raise max_head."


class BodyTooLarge(ProxyError):
    """RFC 9110 section 15.5.14."""

    status, issue, error = 413, "too-long", "http_request_error"
    culprit = CALLER
    advice = "Send a smaller body, or raise max_body."


class CallerTooSlow(ProxyError):
    """The head did not arrive within client_timeout, or the body stalled for idle_timeout."""

    status, issue, error = 408, "timeout", "http_request_error"
    culprit = CALLER
    advice = "Send the request without long pauses."


class LoopDetected(ProxyError):
    """Our own Via came back (RFC 9110 section 7.6.3)."""

    status, issue, error = 508, "processing", "proxy_loop_detected"
    culprit = SETTINGS
    advice = "Point base_url at Fumage, not at this proxy."


# --- Fumage ---


class FumageError(ProxyError):
    """The request could not be answered by Fumage."""

    status, issue, error = 502, "transient", "destination_unavailable"
    culprit = FUMAGE
    advice = "Try again; if it stays, check base_url and the network."


class FumageNameUnknown(FumageError):
    error = "dns_error"
    advice = "Check the host name in base_url and this machine's DNS."


class FumageUnroutable(FumageError):
    error = "destination_ip_unroutable"
    advice = "Check this machine's network and routes."


class FumageRefused(FumageError):
    error = "connection_refused"
    advice = "Check host and port in base_url; a firewall may be in between."


class FumageConnectionLost(FumageError):
    """The connection ended before the answer did; `details` says whether the request may have acted."""

    error = "connection_terminated"

    def __init__(self, message: str, *, sent: bool):
        super().__init__(message)
        self.details = "outcome-unknown" if sent else "not-sent"
        self.advice = (
            "Look whether it was done before you send it again (outcome-unknown)."
            if sent
            else "It is safe to send it again (not-sent)."
        )


class FumageNotHTTP(FumageError):
    error = "http_protocol_error"
    advice = "Check that base_url names Fumage and not some other server."


class FumageUntrusted(FumageError):
    issue, error = "security", "tls_certificate_error"
    advice = (
        "Check the host in base_url; for a private CA set ca_file. Python 3.13 and newer refuse CA "
        "certificates without keyUsage (RFC 5280)."
    )


class FumageTLS(FumageError):
    issue, error = "security", "tls_protocol_error"
    advice = (
        "Check that base_url names a TLS port, and that both sides share a TLS version; if Fumage asks for a "
        "client certificate, set client_cert."
    )


class FumageConnectTimeout(FumageError):
    status, issue, error = 504, "timeout", "connection_timeout"
    advice = "Check the network to Fumage, or raise connect_timeout."


class FumageResponseTimeout(FumageError):
    status, issue, error = 504, "timeout", "http_response_timeout"
    advice = (
        "Ask for less at once, or raise response_timeout. "
        "A write may have been done: look before you repeat it."
    )


# --- the EMR's token endpoint ---


class TokenError(ProxyError):
    """No valid token can be had."""


class TokenEndpointUnavailable(TokenError):
    """Unreachable, too slow, 5xx, 429, or an answer that is no token. `retry_after` in seconds."""

    status, issue, error = 503, "transient", "destination_unavailable"
    culprit = EMR
    advice = "Try again after Retry-After; if it stays, check token_url and the network to the EMR."
    details = "token-endpoint"

    def __init__(self, message: str, *, retry_after: float = 1.0):
        super().__init__(message)
        self.retry_after = retry_after


class TokenEndpointUntrusted(TokenError):
    status, issue, error = 502, "security", "tls_certificate_error"
    culprit = EMR
    advice = FumageUntrusted.advice.replace("base_url", "token_url")
    details = "token-endpoint"


class CredentialsRefused(TokenError):
    """The EMR answered invalid_client, unauthorized_client or invalid_scope (RFC 6749 section 5.2)."""

    status, issue, error = 502, "security", "proxy_configuration_error"
    culprit = SETTINGS
    advice = "Check CANVAS_API_CLIENT_ID, CANVAS_API_CLIENT_SECRET, scope and token_url."
    details = "credentials-refused"


class EgressProxyFailed(TokenError, FumageError):
    """HTTPS_PROXY is unreachable or refuses to connect us."""

    status, issue, error = 502, "transient", "destination_unavailable"
    culprit = EGRESS
    advice = "Check HTTPS_PROXY, its credentials and its rules; NO_PROXY exempts a host."
    details = "egress-proxy"


# --- this proxy ---


class TokenRenewed(ProxyError):
    """Fumage rejected the token; a new one is there, but the body was too large to be kept for a replay."""

    status, issue, error = 503, "transient", "destination_unavailable"
    culprit = PROXY
    advice = "Send the request again. A larger replay_limit or replay_memory lets the proxy do that itself."
    details = "token-renewed"
    retry_after = 1.0


class AllConnectionsBusy(ProxyError):
    """All max_connections upstream connections were in use for connect_timeout."""

    status, issue, error = 503, "throttled", "connection_limit_reached"
    culprit = PROXY
    advice = "Send fewer requests at a time, or raise max_connections."
    retry_after = 1.0


class TooManyCallers(AllConnectionsBusy):
    """max_clients local connections are open."""

    advice = "Close connections that are not used, or raise max_clients."


class Draining(ProxyError):
    """This proxy was told to stop."""

    status, issue, error = 503, "transient", "proxy_internal_response"
    culprit = PROXY
    advice = "Send the request again: another replica, or this one after its restart, will take it."
    retry_after = 1.0


class InternalError(ProxyError):
    """A defect of ours."""

    status, issue, error = 500, "exception", "proxy_internal_error"
    culprit = PROXY
    advice = "Report it, with the log line of this request id."
