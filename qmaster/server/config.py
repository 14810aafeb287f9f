"""The options: one table for flags, environment, ``--help`` and the docs, made into one checked ``Config``."""

from __future__ import annotations

import ipaddress
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..models import units
from ..models.paths import folder
from ..models.validation import MAX_TOKEN

MIN_MEMORY_MIB = 6  # the engine's own floor for a container
MAX_MEMORY_MIB = 16 * 1024 * 1024
SHORT_TOKEN = 16
MAX_DIGITS = 20
MAX_SECONDS = 3650 * 86_400
MAX_OUTPUT = 16 * 1024 * 1024
NEVER = "never"
KEY_MARK, ENCRYPTED_MARK = b"PRIVATE KEY-----", b"ENCRYPTED"
# OpenSSL's reasons for another certificate's key: of the same kind of key, and of another kind.
OF_ANOTHER = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PORT = re.compile(r":[0-9]{1,5}$")
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Option:
    """One option: its flag, its environment variable, its default, and its line in ``--help``."""

    flag: str
    env: str
    default: str
    help: str

    @property
    def name(self) -> str:
        """The option's name in Python, such as ``docker_host``."""
        return self.flag.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option(
        "--token", "TOKEN", "", "The root token, with full access; or TOKEN_FILE names a file that holds it. Required."
    ),
    Option("--port", "PORT", "9090", "The port to listen on; 0: any free one."),
    Option("--address", "QMASTER_ADDRESS", "", "The address to listen on; empty: all interfaces."),
    Option("--memory", "MEMORY", "250", "MiB: the limit and reservation of a run without memory."),
    Option("--timeout", "QMASTER_TIMEOUT", "0", "Seconds after which a run without timeout is ended; 0: never."),
    Option(
        "--ttl",
        "QMASTER_TTL",
        "86400",
        "Seconds that a run without ttl stays in the swarm after its end; never: it is not removed.",
    ),
    Option("--output-limit", "QMASTER_OUTPUT_LIMIT", "65536", "Bytes to keep of each stream of a run's output."),
    Option("--docker-host", "DOCKER_HOST", "", "The engine: unix://, tcp:// or ssh://; empty: this platform's socket."),
    Option("--data-dir", "QMASTER_DATA_DIR", "./data", "The journal's folder."),
    Option("--keep-facts", "QMASTER_KEEP_FACTS", "100000", "How many events the journal keeps."),
    Option(
        "--keep-days", "QMASTER_KEEP_DAYS", "30", "For how many days it keeps events, and the records of removed runs."
    ),
    Option(
        "--keep-size",
        "QMASTER_KEEP_SIZE",
        "1024",
        "Maximum MiB of the journal's file; beyond it, the owner with the most entries loses its oldest first.",
    ),
    Option(
        "--allow-origin",
        "QMASTER_ALLOW_ORIGIN",
        "",
        "Origins of other pages that may call the API, separated by commas.",
    ),
    Option(
        "--allow-host",
        "QMASTER_ALLOW_HOST",
        "",
        "Host names that requests may use, separated by commas; empty: any. Protects against DNS rebinding.",
    ),
    Option(
        "--trusted-proxies",
        "QMASTER_TRUSTED_PROXIES",
        "",
        "Addresses or networks of proxies, separated by commas; their X-Forwarded-For names the client.",
    ),
    Option(
        "--registries",
        "QMASTER_REGISTRIES",
        "",
        "Registries that images may come from, separated by commas; empty: any.",
    ),
    Option(
        "--function-domain",
        "QMASTER_FUNCTION_DOMAIN",
        "",
        "A domain below which each function has a host name: NAME and this domain.",
    ),
    Option("--tokens-file", "QMASTER_TOKENS_FILE", "", "A TOML file of other tokens and what they may do."),
    Option(
        "--registry-auth-file",
        "QMASTER_REGISTRY_AUTH_FILE",
        "",
        "Docker's config.json with the credentials that functions pull with.",
    ),
    Option(
        "--runtime-port",
        "QMASTER_RUNTIME_PORT",
        "9091",
        "The port that instances of functions call; 0: this server has no functions.",
    ),
    Option(
        "--advertise",
        "QMASTER_ADVERTISE",
        "",
        "The IP address at which instances reach this server; empty: this node's swarm address.",
    ),
    Option(
        "--bind-mounts",
        "QMASTER_BIND_MOUNTS",
        "",
        "Host folders that runs may mount, with those below, separated by commas. A token needs mounts too.",
    ),
    Option(
        "--callbacks",
        "QMASTER_CALLBACKS",
        "",
        "URL prefixes that callbacks may go to, separated by commas; empty: none are sent.",
    ),
    Option(
        "--webhook-key-file",
        "QMASTER_WEBHOOK_KEY_FILE",
        "",
        "A file with the key, or the key of each prefix, that signs callbacks.",
    ),
    Option("--tls-cert", "QMASTER_TLS_CERT", "", "A certificate chain (PEM) to serve HTTPS with."),
    Option("--tls-key", "QMASTER_TLS_KEY", "", "The certificate's private key (PEM)."),
    Option(
        "--shutdown-timeout",
        "QMASTER_SHUTDOWN_TIMEOUT",
        "25",
        "Seconds that open requests have to finish after SIGTERM.",
    ),
    Option("--log-format", "QMASTER_LOG_FORMAT", "", "json or console; empty: console on a terminal, else json."),
)


@dataclass(frozen=True)
class Config:
    """The checked options. ``token`` is secret: ``repr`` leaves it out."""

    token: str
    port: int
    address: str
    memory: int
    timeout: float
    ttl: float | None
    output_limit: int
    docker_host: str
    data_dir: str
    keep_facts: int
    keep_days: int
    keep_size: int
    allow_origin: tuple[str, ...]
    allow_host: tuple[str, ...]
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
    registries: tuple[str, ...]
    function_domain: str
    tokens_file: str
    registry_auth_file: str
    runtime_port: int
    advertise: str
    bind_mounts: tuple[str, ...]
    callbacks: tuple[str, ...]
    webhook_key_file: str
    tls_cert: str
    tls_key: str
    shutdown_timeout: float
    log_format: str

    def __repr__(self) -> str:
        return f"Config(port={self.port}, address={self.address!r}, docker_host={self.docker_host!r})"


DOOR = ("address", "port", "tls_cert")  # the options that ``door`` reads


class Door(NamedTuple):
    """Where a server on this machine listens."""

    host: str
    port: int
    tls: bool


def door(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Door:
    """Return where a server with these options listens; they are read as in ``load``.

    Raises:
        ConfigError: the port is wrong, or 0.
    """
    raw = _read(flags, environ)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(raw["address"], raw["address"])  # noqa: S104
    return Door(host, _integer("--port", raw["port"], 1, 65535), bool(raw["tls_cert"]))


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    """Read the options: the flag, else the environment, else the default.

    Args:
        flags: option name (``docker_host``) → value, None if the flag was not given.
        environ: the environment.

    Raises:
        ConfigError: an option is missing or wrong.
    """
    raw = _read(flags, environ)
    if bool(raw["tls_cert"]) != bool(raw["tls_key"]):
        raise ConfigError("--tls-cert and --tls-key go together: give both or neither")
    return Config(
        token=_token(flags.get("token"), environ),
        port=_integer("--port", raw["port"], 0, 65535),
        address=raw["address"],
        memory=_mebibytes("--memory", raw["memory"], MIN_MEMORY_MIB, MAX_MEMORY_MIB),
        timeout=_seconds("--timeout", raw["timeout"]),
        ttl=None if raw["ttl"] == NEVER else _seconds("--ttl", raw["ttl"], f", or {NEVER}"),
        output_limit=_integer("--output-limit", raw["output_limit"], 0, MAX_OUTPUT, " bytes"),
        docker_host=raw["docker_host"],
        data_dir=raw["data_dir"],
        keep_facts=_integer("--keep-facts", raw["keep_facts"], 1000, 100_000_000, " events"),
        keep_days=_integer("--keep-days", raw["keep_days"], 1, 36_500, " days"),
        keep_size=_mebibytes("--keep-size", raw["keep_size"], 16, MAX_MEMORY_MIB),
        allow_origin=_origins(raw["allow_origin"]),
        allow_host=_hosts(raw["allow_host"]),
        trusted_proxies=_networks(raw["trusted_proxies"]),
        registries=_listed(raw["registries"]),
        function_domain=_domain(raw["function_domain"]),
        tokens_file=raw["tokens_file"],
        registry_auth_file=raw["registry_auth_file"],
        runtime_port=_integer("--runtime-port", raw["runtime_port"], 0, 65535),
        advertise=_address("--advertise", raw["advertise"]),
        bind_mounts=_folders(raw["bind_mounts"]),
        callbacks=_listed(raw["callbacks"]),
        webhook_key_file=raw["webhook_key_file"],
        tls_cert=_readable("--tls-cert", raw["tls_cert"]),
        tls_key=_readable("--tls-key", raw["tls_key"]),
        shutdown_timeout=_seconds("--shutdown-timeout", raw["shutdown_timeout"]),
        log_format=_log_format(raw["log_format"], sys.stderr.isatty),
    )


def _read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each option, by its name."""

    def value(option: Option) -> str:
        flag = flags.get(option.name)
        return flag if flag is not None else environ.get(option.env, "") or option.default

    return {option.name: value(option) for option in OPTIONS}


def given_token(environ: Mapping[str, str]) -> str | None:
    """Return the token from TOKEN, or from the file that TOKEN_FILE names; None if neither is set.

    Raises:
        ConfigError: both are set, or the token is malformed.
    """
    variable, file = environ.get("TOKEN", ""), environ.get("TOKEN_FILE", "")
    if variable and file:
        raise ConfigError("TOKEN and TOKEN_FILE are both set: give one")
    if variable:
        return _printable(variable, "TOKEN")
    if not file:
        return None
    try:
        return _printable(Path(file).read_text(encoding="utf-8-sig").strip(), "TOKEN_FILE")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"TOKEN_FILE: cannot read {file}: {reason}") from None


def _token(flag: str | None, environ: Mapping[str, str]) -> str:
    token = _printable(flag, "--token") if flag is not None else given_token(environ)
    if token is None:
        raise ConfigError("no token: set TOKEN (or TOKEN_FILE, or --token), for instance TOKEN=$(uuidgen)")
    return token


def _printable(token: str, source: str) -> str:
    if not token:
        raise ConfigError(f"{source}: the token is empty")
    if len(token.encode()) > MAX_TOKEN:
        raise ConfigError(f"{source}: expected a token of at most {MAX_TOKEN} bytes")
    if not token.isprintable() or token != token.strip():
        raise ConfigError(f"{source}: expected one line of printable characters, without spaces around it")
    return token


def _integer(flag: str, text: str, low: int, high: int, unit: str = "") -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and low <= int(text) <= high):
        raise ConfigError(f"{flag}: expected a whole number from {low} to {high}{unit}; got {text!r}")
    return int(text)


def _mebibytes(flag: str, text: str, low: int, high: int) -> int:
    size = units.mebibytes(text)
    if size is None and text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS:
        size = int(text)
    if size is None or not low <= size <= high:
        raise ConfigError(f"{flag}: expected {low} to {high} MiB, or a size such as 512m; got {text!r}")
    return size


def _seconds(flag: str, text: str, other: str = "") -> float:
    seconds = float(text) if _DECIMAL.fullmatch(text) else units.seconds(text)
    if seconds is None or seconds > MAX_SECONDS:
        raise ConfigError(f"{flag}: expected 0 to {MAX_SECONDS} seconds, a duration such as 1m30s{other}; got {text!r}")
    return seconds


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _folders(text: str) -> tuple[str, ...]:
    try:
        folders = tuple(map(folder, _listed(text)))
    except ValueError as error:
        raise ConfigError(f"--bind-mounts: {str(error).partition(': ')[2]}") from None
    for one in folders:
        if inside := next((other for other in folders if one.startswith(f"{other}/")), None):
            raise ConfigError(f"--bind-mounts: {one} is inside {inside}, with which runs may mount it; leave it out")
    return folders


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(one.lower() for one in _listed(text))
    for origin in origins:
        scheme, _, host = origin.partition("://")
        if not (_SCHEME.fullmatch(scheme) and _HOST.fullmatch(_PORT.sub("", host))):
            raise ConfigError(
                f"--allow-origin: {origin!r} is not an origin; expected scheme://host or scheme://host:port, "
                "such as 'https://page.example,http://localhost:8000'"
            )
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(one.lower() for one in _listed(text))
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ConfigError("--allow-host: expected names or addresses without a port, such as 'qm.example.com,10.0.0.5'")
    return hosts


def _domain(text: str) -> str:
    domain = text.lower()
    if domain and not _DOMAIN.fullmatch(domain):
        raise ConfigError(f"--function-domain: expected a domain such as 'fn.example.org'; got {text!r}")
    return domain


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(map(ipaddress.ip_network, _listed(text)))
    except ValueError as error:
        raise ConfigError(
            f"--trusted-proxies: expected addresses or networks, such as '127.0.0.1,10.0.0.0/8': {error}"
        ) from None


def _address(flag: str, text: str) -> str:
    try:
        return text and str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"{flag}: expected an IP address, as instances cannot look up a name; got {text!r}") from None


def _readable(flag: str, path: str) -> str:
    if not path:
        return path
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {path}: {error.strerror}") from None
    return path


def _log_format(text: str, isatty: Callable[[], Any]) -> str:
    if text not in ("", "json", "console"):
        raise ConfigError(f"--log-format: expected json or console; got {text!r}")
    return text or ("console" if isatty() else "json")


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """Make the context that serves HTTPS with a certificate chain and its key (PEM files).

    Raises:
        ConfigError: they cannot be used; the message says which, and why.
    """
    _check_certificate(cert)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(cert, key, password=lambda: b"")  # without it, OpenSSL asks on the terminal
    except ssl.SSLError as error:
        raise ConfigError(_flaw(cert, key, error.reason)) from None
    return made


def _check_certificate(cert: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=cert)
    except ssl.SSLError:
        swapped = ", but a private key: are the two swapped?" if KEY_MARK in Path(cert).read_bytes() else ""
        raise ConfigError(f"--tls-cert: {cert} is not a PEM certificate{swapped}") from None


def _flaw(cert: str, key: str, reason: str | None) -> str:
    """Return what is wrong with the pair; OpenSSL gives no reason if it cannot read the key."""
    if reason in OF_ANOTHER:
        return f"--tls-key: the key in {key} does not belong to the certificate in {cert}"
    if reason:
        return f"--tls-cert, --tls-key: cannot be used: {reason.lower().replace('_', ' ')}"
    if ENCRYPTED_MARK in Path(key).read_bytes():
        return f"--tls-key: {key} has a password; remove it (openssl pkey -in {key} -out …)"
    return f"--tls-key: {key} is not a PEM private key"
