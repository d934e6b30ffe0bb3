"""The one table of settings: an entry in `Settings` makes flag, variable, TOML key and the README's row."""

# A function call as a field's default is what this table is made of; each returns a dataclasses.field().
# ruff: noqa: RUF009

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from proxy.rules.allow_words import read_words
from proxy.rules.hosts import DEFAULT_HOSTS
from proxy.settings import numbers, values
from proxy.settings.values import MASK, URL, Address

PREFIX = "FUMAGE_PROXY_"
REQUIRED = "required"

T = TypeVar("T")
W = TypeVar("W", bound=str)
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Kind(Generic[T_co]):
    """What values of a key look like.

    `parse` raises ValueError with a complaint that fits behind "name: ". `show` is its reverse. `native` are
    the types that TOML may give besides a string. `empty_counts`: an empty value is parsed like any other,
    in place of being taken for none.
    """

    parse: Callable[[str], T_co]
    form: str
    show: Callable[[Any], str] = str
    native: tuple[type, ...] = ()
    empty_counts: bool = False

    @property
    def is_url(self) -> bool:
        return self.form.endswith("URL")


@dataclass(frozen=True)
class Key:
    """A row of the table. `unset` says in a word what it means when there is neither value nor default."""

    name: str
    kind: Kind[Any]
    default: str | None
    help: str
    environment: str
    unset: str
    secret: bool
    flag: str | None


def _joined(found: tuple[object, ...]) -> str:
    return ",".join(map(str, found))


def _choice(*words: W) -> Kind[W]:
    return Kind(lambda text: values.one_of(text, words), "|".join(words))


def _permissions(text: str) -> str:
    if not text.replace(",", " ").strip():
        raise ValueError(
            "names no permission; leave it out to permit everything (*.cruds), or name some: Patient.rs"
        )
    read_words(text)
    return text


_TEXT = Kind(str, "TEXT")
_SECRET = Kind(str, "TEXT", show=lambda _: MASK)
_STORE = Kind(str, "memory|URL", show=values.mask_url)
_STORE_KEYS = Kind(values.token_store_keys, "TEXT,...", show=lambda _: MASK)
_FILE = Kind(Path, "FILE")
_BASE = Kind(values.base, "URL")
_ENDPOINT = Kind(values.endpoint, "URL")
_BOOLEAN = Kind(values.boolean, "true|false", show=lambda value: str(value).lower(), native=(bool,))
_DURATION = Kind(numbers.duration, "DURATION", numbers.show_duration, (int, float))
_DURATION_OR_ZERO = replace(_DURATION, parse=partial(numbers.duration, zero=True))
_SIZE = Kind(numbers.size, "SIZE", numbers.show_size, (int,))
_HEAD_SIZE = replace(_SIZE, parse=partial(numbers.size, least=1024))
_COUNT = Kind(numbers.count, "NUMBER", native=(int,))
_HOSTS = Kind(values.allowed_hosts, "HOST,...", _joined, (list,))
_ORIGINS = Kind(values.allowed_origins, "ORIGIN,...", _joined, (list,))
# Who meant to permit nothing must not get everything, which is the default.
_PERMISSIONS = Kind(_permissions, "WORD ...", native=(list,), empty_counts=True)
_LINKS = Kind(values.links, "off|location|bundle|all[,absolute]", native=(list,))
_ADDRESSES = Kind(values.addresses, "ADDRESS,...", _joined, (list,))
_ADDRESSES_OR_OFF = Kind(
    values.addresses_or_off, "ADDRESS,...|off", lambda found: _joined(found) or "off", (list,)
)


def _key(
    kind: Kind[T],
    default: str | None,
    help: str,
    *,
    environment: str | None = None,
    unset: str = "none",
    secret: bool = False,
    flag: bool = True,
) -> T:
    # Typed like dataclasses.field() itself: as the value, so that mypy holds kind and attribute together.
    row = {
        "kind": kind,
        "default": default,
        "help": help,
        "environment": environment,
        "unset": unset,
        "secret": secret,
        "flag": flag and not secret,
    }
    return cast(T, field(repr=not secret, metadata=row))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the proxy runs with, checked: seconds, bytes, absolute paths; None for what is not set."""

    # The first three (and the secret's file) keep the variables of Canvas's own guide.
    base_url: URL = _key(
        _BASE,
        None,
        "Fumage, such as https://fumage-example.canvasmedical.com; https only, http for loopback alone",
        environment="FUMAGE_BASE_URL",
        unset=REQUIRED,
    )
    client_id: str = _key(
        _TEXT,
        None,
        "client id of the EMR's OAuth application",
        environment="CANVAS_API_CLIENT_ID",
        unset=REQUIRED,
    )
    client_secret: str = _key(
        _SECRET,
        None,
        "its secret; this or client_secret_file; there is no flag, since a process list shows flags",
        environment="CANVAS_API_CLIENT_SECRET",
        unset=REQUIRED,
        secret=True,
    )
    client_secret_file: Path | None = _key(
        _FILE,
        None,
        "a file that holds the secret; one line end is stripped",
        environment="CANVAS_API_CLIENT_SECRET_FILE",
        flag=False,
    )
    token_url: URL = _key(
        _ENDPOINT,
        None,
        "the EMR's token endpoint; derived: base_url's host without its leading fumage-, path /auth/token/",
        unset="derived",
    )
    scope: str | None = _key(_TEXT, None, "scope of the token request")
    patient: str | None = _key(_TEXT, None, "patient id of the token request, for a patient-scoped token")
    client_auth: Literal["post", "basic"] = _key(
        _choice("post", "basic"), "post", "how the token request carries the credentials"
    )

    listen: tuple[Address, ...] = _key(
        _ADDRESSES,
        "127.0.0.1:3447,[::1]:3447",
        "where to listen: host:port, [::1]:port, :port (all addresses), unix:/path (and ,mode=0600); "
        "port 0 picks one",
    )
    admin_listen: tuple[Address, ...] = _key(
        _ADDRESSES_OR_OFF, "127.0.0.1:3448,[::1]:3448", "where health, metrics and status listen; or off"
    )
    unsafe_listen: bool = _key(_BOOLEAN, "false", "let listen be reached from other hosts")
    allowed_hosts: tuple[str, ...] = _key(
        _HOSTS,
        ",".join(DEFAULT_HOSTS),
        "Host names accepted on TCP listeners, any port; added to the defaults",
    )
    allowed_origins: tuple[str, ...] = _key(_ORIGINS, "", "browser origins that are answered (CORS)")
    allow: str = _key(
        _PERMISSIONS,
        "*.cruds",
        "what callers may do, in SMART v2 words: Patient.rs Appointment.cruds; *.cruds restricts nothing",
    )
    links: str = _key(
        _LINKS,
        "location",
        "links to Fumage that become the caller's address: off, location (Location and Content-Location), "
        "bundle (also Bundle.link), all (also attachments); with ,absolute after the last two, paths too",
    )

    connect_timeout: float = _key(_DURATION, "10s", "connecting incl. TLS, and waiting for a free connection")
    response_timeout: float = _key(_DURATION, "60s", "until the first byte of an answer")
    idle_timeout: float = _key(_DURATION, "60s", "between two chunks, of either side")
    client_timeout: float = _key(_DURATION, "30s", "until a request's whole head has arrived")
    client_keepalive: float = _key(_DURATION, "75s", "an idle client connection")
    max_connections: int = _key(_COUNT, "100", "upstream connections")
    max_clients: int = _key(_COUNT, "1000", "client connections; one more gets 503")
    upstream_keepalive: float = _key(_DURATION, "15s", "an idle upstream connection")
    upstream_max_age: float = _key(
        _DURATION, "5m", "after this age a connection takes no new request (DNS changes)"
    )
    max_head: int = _key(_HEAD_SIZE, "64KiB", "a request's head, at least 1KiB")
    replay_limit: int = _key(_SIZE, "4MiB", "what is kept of one request's body for its replay")
    replay_memory: int = _key(_SIZE, "64MiB", "what is kept of all of them together")
    max_body: int = _key(_SIZE, "0", "a request's body; 0 is no limit")
    drain_delay: float = _key(_DURATION_OR_ZERO, "0s", "newcomers are served this long after SIGTERM")
    drain_timeout: float = _key(_DURATION_OR_ZERO, "25s", "what runs may take this long afterwards")
    token_timeout: float = _key(_DURATION, "10s", "one token request")
    refresh_margin: float = _key(
        _DURATION, "60s", "no token with less left is sent (at most a fifth of its lifetime)"
    )

    ca_file: Path | None = _key(
        _FILE,
        None,
        "certificates (PEM) to trust for Fumage and the EMR in place of the system's",
        unset="system",
    )
    client_cert: Path | None = _key(_FILE, None, "client certificate (PEM) for Fumage and the EMR")
    client_key: Path | None = _key(_FILE, None, "its key, unless it stands in the same file")

    token_store: str = _key(
        _STORE,
        values.MEMORY,
        "where the token lies: memory, or a Redis that replicas share (extra redis): redis://host, "
        "rediss://host (and ?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE) or unix:/path",
    )
    token_store_password: str | None = _key(
        _SECRET, None, "its password; this or token_store_password_file", secret=True
    )
    token_store_password_file: Path | None = _key(_FILE, None, "a file that holds it", flag=False)
    token_store_key: tuple[str, ...] | None = _key(
        _STORE_KEYS,
        None,
        "what tokens in a shared store are encrypted with, at least 32 characters; of several, "
        "comma-separated, the first encrypts and all decrypt; this or token_store_key_file",
        secret=True,
    )
    token_store_key_file: Path | None = _key(_FILE, None, "a file that holds it", flag=False)

    log_level: str = _key(_choice("debug", "info", "warning", "error"), "info", "what to log")
    log_format: str = _key(
        _choice("auto", "text", "json"),
        "auto",
        "of the log; auto is text on a terminal, JSON lines otherwise",
    )
    quit_endpoint: bool = _key(_BOOLEAN, "false", "POST /quitquitquit on the admin listener")


def _rows() -> dict[str, Key]:
    rows = {}
    for each in fields(Settings):
        row = dict(each.metadata)
        row["environment"] = row["environment"] or PREFIX + each.name.upper()
        row["flag"] = "--" + each.name.replace("_", "-") if row["flag"] else None
        rows[each.name] = Key(name=each.name, **row)
    return rows


KEYS = _rows()
