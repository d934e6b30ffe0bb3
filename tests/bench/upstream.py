"""What stands in for Fumage and the EMR: an nginx that answers to the right bearer alone."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.bench.machine import Server
from tests.support import unused_port

TOKEN = "bench-token-000000000000000000"
TOKEN_ANSWER = b'{"access_token":"%b","expires_in":36000,"token_type":"Bearer"}' % TOKEN.encode()
BODY = b'{"resourceType":"Patient","text":"' + b"x" * (3072 - 36) + b'"}'
MEGABYTE = b"y" * (1 << 20)

# /echo and /sink go through nginx's own proxy, because `return` does not wait for a request's body.
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 0; client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  open_file_cache max=16; types {{ }} default_type application/fhir+json;
  add_header fumage-correlation-id $request_id;
  server {{
    listen 127.0.0.1:{http} backlog=2048; listen 127.0.0.1:{https} ssl backlog=2048;
    ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    root {folder}/www;
    location = /auth/token/ {{ default_type application/json; return 200 '{token_answer}'; }}
    location / {{ if ($http_authorization != "Bearer {token}") {{ return 401; }} }}
    location /Patient/ {{ if ($http_authorization != "Bearer {token}") {{ return 401; }}
      rewrite ^ /patient break; }}
    location = /Observation {{ if ($http_authorization != "Bearer {token}") {{ return 401; }}
      return 201; }}
    location = /echo {{ if ($http_authorization != "Bearer {token}") {{ return 401; }}
      proxy_set_header Body $request_body; proxy_pass http://127.0.0.1:{http}/echoed; }}
    location = /echoed {{ return 200 $http_body; }}
    location = /sink {{ if ($http_authorization != "Bearer {token}") {{ return 401; }}
      proxy_http_version 1.1; proxy_pass http://127.0.0.1:{http}/sunk; }}
    location = /sunk {{ return 200 'ok'; }}
  }}
}}
"""


@dataclass(frozen=True)
class Upstream:
    """Where it is, and what it serves to the right bearer.

    `/Patient/{id}` and `/patient` (3 KB), `/megabyte`; POST: `/Observation` (201 without a body), `/echo`
    (one line comes back), `/sink` (read to its end).
    """

    folder: Path
    http: int
    https: int

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self.http}/auth/token/"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def port(self, scheme: str) -> int:
        return self.https if scheme == "https" else self.http

    def base(self, scheme: str) -> str:
        return f"{scheme}://{'localhost' if scheme == 'https' else '127.0.0.1'}:{self.port(scheme)}"


def start_upstream(folder: Path, cpu: int | None) -> tuple[Upstream, Server]:
    """Write certificate, files and configuration, and start nginx."""
    upstream = Upstream(folder, unused_port(), unused_port())
    _write_certificates(folder)
    (folder / "www").mkdir()
    (folder / "www" / "patient").write_bytes(BODY)
    (folder / "www" / "megabyte").write_bytes(MEGABYTE)
    # Workers of a root nginx run as nobody, and must be able to read what they serve.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    text = _NGINX.format(
        folder=folder,
        http=upstream.http,
        https=upstream.https,
        token=TOKEN,
        token_answer=TOKEN_ANSWER.decode(),
    )
    (folder / "nginx.conf").write_text(text)
    return upstream, Server(["nginx", "-c", str(folder / "nginx.conf")], folder / "nginx.log", cpu=cpu)


def _write_certificates(folder: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(folder / "server.pem", append=True)
