"""The upstream, the proxy, and the peers it is compared with: each one's configuration and command."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.bench.machine import Server, free_port

TOKEN = "bench-token-000000000000000000"
BODY = b'{"resourceType":"Patient","text":"' + b"x" * (3072 - 36) + b'"}'
MEGABYTE = b"y" * (1 << 20)

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 0; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  types {{ }} default_type application/fhir+json;
  server {{
    listen 127.0.0.1:{http} backlog=2048; listen 127.0.0.1:{https} ssl backlog=2048;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    root {folder}/www;
    location = /auth/token/ {{ error_page 405 =200 $uri; default_type application/json;
      return 200 '{{"access_token":"{token}","expires_in":36000,"token_type":"Bearer"}}'; }}
    location / {{ if ($http_authorization != "Bearer {token}") {{ return 401; }} }}
    location = /sink {{ if ($http_authorization != "Bearer {token}") {{ return 401; }}
      proxy_http_version 1.1; proxy_pass http://127.0.0.1:{http}/sunk; }}
    location = /sunk {{ return 200 'ok'; }}
  }}
}}
"""


@dataclass(frozen=True)
class Upstream:
    """nginx: serves /patient (3 KB) and /megabyte to the right bearer alone, and the token."""

    folder: Path
    http: int
    https: int

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self.http}/auth/token/"

    def base(self, scheme: str) -> str:
        return f"http://127.0.0.1:{self.http}" if scheme == "http" else f"https://localhost:{self.https}"


def start_upstream(folder: Path, cpu: int | None) -> tuple[Upstream, Server]:
    """Write certificate, files and configuration, and start nginx."""
    upstream = Upstream(folder, free_port(), free_port())
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "server.pem", append=True)
    (folder / "www").mkdir()
    (folder / "www" / "patient").write_bytes(BODY)
    (folder / "www" / "megabyte").write_bytes(MEGABYTE)
    # Workers of a root nginx run as nobody, and must be able to read what they serve.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    text = _NGINX.format(folder=folder, http=upstream.http, https=upstream.https, token=TOKEN)
    (folder / "nginx.conf").write_text(text)
    return upstream, Server(["nginx", "-c", str(folder / "nginx.conf")], folder / "nginx.log", cpu=cpu)


def start_fumage_proxy(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    """The product with everything on: logs (JSON, to a file), guard, timeouts."""
    environ = {
        "FUMAGE_BASE_URL": upstream.base(scheme),
        "CANVAS_API_CLIENT_ID": "bench",
        "CANVAS_API_CLIENT_SECRET": "bench-secret",
        "FUMAGE_PROXY_TOKEN_URL": upstream.token_url,
        "FUMAGE_PROXY_LISTEN": f"127.0.0.1:{port}",
        "FUMAGE_PROXY_ADMIN_LISTEN": "off",
        "FUMAGE_PROXY_CA_FILE": str(upstream.folder / "ca.pem"),
        "FUMAGE_PROXY_MAX_CLIENTS": "2000",
    }
    return Server([sys.executable, "-m", "proxy"], upstream.folder / "proxy.log", environ, cpu=cpu)


def start_envoy(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    """Envoy with its credential injector, one worker, and an access log like ours."""
    path = upstream.folder / f"envoy-{scheme}.json"
    path.write_text(json.dumps(_envoy(upstream, scheme, port)))
    binary = shutil.which("envoy") or str(Path(sys.executable).with_name("envoy"))
    command = [binary, "-c", str(path), "--concurrency", "1", "--log-level", "warning"]
    command += ["--base-id", str(port)]
    return Server(command, upstream.folder / "envoy.log", cpu=cpu)


def start_haproxy(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    """HAProxy with a fixed header: no token logic."""
    trust = f"ca-file {upstream.folder}/ca.pem"
    tls = f" ssl verify required {trust} sni str(localhost)" if scheme == "https" else ""
    path = upstream.folder / f"haproxy-{scheme}.cfg"
    path.write_text(
        f"global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 10s\n"
        f"  timeout client 60s\n  timeout server 60s\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\nbackend b\n"
        f'  http-request set-header Authorization "Bearer {TOKEN}"\n'
        f"  server s 127.0.0.1:{upstream.https if tls else upstream.http}{tls}\n"
    )
    return Server(["haproxy", "-f", str(path)], upstream.folder / "haproxy.log", cpu=cpu)


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


def _envoy(upstream: Upstream, scheme: str, port: int) -> object:
    kind = "type.googleapis.com/envoy.extensions"
    injector = {
        "@type": f"{kind}.filters.http.credential_injector.v3.CredentialInjector",
        "credential": {
            "name": "envoy.http.injected_credentials.oauth2",
            "typed_config": {
                "@type": f"{kind}.http.injected_credentials.oauth2.v3.OAuth2",
                "token_fetch_retry_interval": "1s",
                "token_endpoint": {"cluster": "emr", "uri": upstream.token_url, "timeout": "3s"},
                "client_credentials": {"client_id": "bench", "client_secret": {"name": "secret"}},
            },
        },
    }
    manager = {
        "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "fumage",
        # A line a request, as we write one.
        "access_log": [
            {
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": f"{kind}.access_loggers.file.v3.FileAccessLog",
                    "path": str(upstream.folder / "envoy-access.log"),
                    "log_format": {"json_format": _ACCESS},
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "fumage", "timeout": "60s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.credential_injector", "typed_config": injector},
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"},
            },
        ],
    }
    fumage = _cluster("fumage", upstream.https if scheme == "https" else upstream.http)
    if scheme == "https":
        fumage["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{kind}.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "localhost",
                "common_tls_context": {
                    "validation_context": {"trusted_ca": {"filename": str(upstream.folder / "ca.pem")}}
                },
            },
        }
    return {
        "static_resources": {
            "secrets": [
                {"name": "secret", "generic_secret": {"secret": {"inline_string": "bench-secret"}}},
            ],
            "listeners": [
                {
                    "name": "callers",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [fumage, _cluster("emr", upstream.http)],
        }
    }


def _cluster(name: str, port: int) -> dict[str, object]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"endpoint": {"address": address}}
    return {
        "name": name,
        "connect_timeout": "10s",
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


PARTIES = {"fumage-proxy": start_fumage_proxy, "envoy": start_envoy, "haproxy": start_haproxy}
