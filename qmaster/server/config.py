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
from ..models.validation import MAX_TOKEN

MIN_MEMORY_MIB = 6  # the engine's own floor for a container
MAX_MEMORY_MIB = 16 * 1024 * 1024
SHORT_TOKEN = 16
MAX_DIGITS = 20
MAX_SECONDS = 3650 * 86_400
MAX_OUTPUT = 16 * 1024 * 1024
NEVER = "never"
KEY_MARK, ENCRYPTED_MARK = b"PRIVATE KEY-----", b"ENCRYPTED"
OF_ANOTHER = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # of the same kind of key, and of another
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PORT = re.compile(r":[0-9]{1,5}$")
_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Option:
    """One option: its flag, its environment variable, and what ``--help`` says of it."""

    flag: str
    env: str
    default: str
    help: str

    @property
    def name(self) -> str:
        return self.flag.removeprefix("--").replace("-", "_")


OPTIONS = (
    Option(
        "--token", "TOKEN", "", "The universal key of the swarm; or TOKEN_FILE names a file that holds it. Required."
    ),
    Option("--port", "PORT", "9090", "The port to listen on."),
    Option("--address", "QMASTER_ADDRESS", "", "The address to listen on; empty: all interfaces."),
    Option("--memory", "MEMORY", "250", "MiB, the limit and reservation of a task that names none."),
    Option("--timeout", "QMASTER_TIMEOUT", "0", "Seconds after which a run that names no timeout is ended; 0: never."),
    Option(
        "--ttl",
        "QMASTER_TTL",
        "86400",
        "Seconds that a run that names no ttl stays in the swarm after its end, or never: it is not removed.",
    ),
    Option("--output-limit", "QMASTER_OUTPUT_LIMIT", "65536", "Bytes that are kept of each stream of a run's output."),
    Option(
        "--docker-host", "DOCKER_HOST", "", "The engine; empty: this platform's socket. A remote one as with docker."
    ),
    Option("--data-dir", "QMASTER_DATA_DIR", "./data", "Where the journal lives."),
    Option("--keep-facts", "QMASTER_KEEP_FACTS", "100000", "How many events the journal keeps."),
    Option(
        "--keep-days", "QMASTER_KEEP_DAYS", "30", "For how many days it keeps events, and records of what is removed."
    ),
    Option(
        "--keep-size",
        "QMASTER_KEEP_SIZE",
        "1024",
        "MiB that the journal's file may have; beyond it the oldest of whoever keeps most goes first.",
    ),
    Option("--allow-origin", "QMASTER_ALLOW_ORIGIN", "", "Origins of other pages that may read /events, with commas."),
    Option(
        "--allow-host",
        "QMASTER_ALLOW_HOST",
        "",
        "Host names that requests may come under, with commas; empty: any. Guards pages against DNS rebinding.",
    ),
    Option(
        "--trusted-proxies",
        "QMASTER_TRUSTED_PROXIES",
        "",
        "Addresses or networks of proxies, with commas: their X-Forwarded-For names the client.",
    ),
    Option("--registries", "QMASTER_REGISTRIES", "", "Registries that images may come from, with commas; empty: any."),
    Option("--tokens-file", "QMASTER_TOKENS_FILE", "", "A file (TOML) of further tokens and what they may do."),
    Option("--tls-cert", "QMASTER_TLS_CERT", "", "A certificate chain (PEM) to serve HTTPS with."),
    Option("--tls-key", "QMASTER_TLS_KEY", "", "The certificate's private key (PEM)."),
    Option(
        "--shutdown-timeout",
        "QMASTER_SHUTDOWN_TIMEOUT",
        "25",
        "Seconds that the requests being answered have to come to their end, on SIGTERM.",
    ),
    Option("--log-format", "QMASTER_LOG_FORMAT", "", "json or console; empty: console on a terminal, else json."),
)


@dataclass(frozen=True)
class Config:
    """What the process was told, checked. ``token`` is secret: ``repr`` leaves it out."""

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
    tokens_file: str
    tls_cert: str
    tls_key: str
    shutdown_timeout: float
    log_format: str

    def __repr__(self) -> str:
        return f"Config(port={self.port}, address={self.address!r}, docker_host={self.docker_host!r})"


DOOR = ("address", "port", "tls_cert")  # the options that say where a server is found


class Door(NamedTuple):
    """Where a server is found from its own machine."""

    host: str
    port: int
    tls: bool


def door(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Door:
    """Where a server with these options answers; they are read as ``load`` does.

    Raises:
        ConfigError: the port is wrong, or any free one.
    """
    raw = _read(flags, environ)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(raw["address"], raw["address"])  # noqa: S104
    return Door(host, _integer("--port", raw["port"], 1, 65535), bool(raw["tls_cert"]))


def load(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    """Read the options: a flag first, then the environment, then the default.

    Args:
        flags: option name (``docker_host``) → value, None where the flag was not given.
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
        memory=_integer("--memory", raw["memory"], MIN_MEMORY_MIB, MAX_MEMORY_MIB),
        timeout=_seconds("--timeout", raw["timeout"]),
        ttl=None if raw["ttl"] == NEVER else _seconds("--ttl", raw["ttl"], f", or {NEVER}"),
        output_limit=_integer("--output-limit", raw["output_limit"], 0, MAX_OUTPUT),
        docker_host=raw["docker_host"],
        data_dir=raw["data_dir"],
        keep_facts=_integer("--keep-facts", raw["keep_facts"], 1000, 100_000_000),
        keep_days=_integer("--keep-days", raw["keep_days"], 1, 36_500),
        keep_size=_integer("--keep-size", raw["keep_size"], 16, MAX_MEMORY_MIB),
        allow_origin=_origins(raw["allow_origin"]),
        allow_host=_hosts(raw["allow_host"]),
        trusted_proxies=_networks(raw["trusted_proxies"]),
        registries=_listed(raw["registries"]),
        tokens_file=raw["tokens_file"],
        tls_cert=_readable("--tls-cert", raw["tls_cert"]),
        tls_key=_readable("--tls-key", raw["tls_key"]),
        shutdown_timeout=_seconds("--shutdown-timeout", raw["shutdown_timeout"]),
        log_format=_log_format(raw["log_format"], sys.stderr.isatty),
    )


def _read(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> dict[str, str]:
    """Each option's name with its text."""

    def value(option: Option) -> str:
        flag = flags.get(option.name)
        return flag if flag is not None else environ.get(option.env, "") or option.default

    return {option.name: value(option) for option in OPTIONS}


def given_token(environ: Mapping[str, str]) -> str | None:
    """The token of the environment, from TOKEN or from the file that TOKEN_FILE names; None where neither is set.

    Raises:
        ConfigError: both are set, or it is none.
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
        raise ConfigError(f"{source}: a token is one line of printable characters, without space around it")
    return token


def _integer(flag: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and low <= int(text) <= high):
        raise ConfigError(f"{flag}: expected a whole number from {low} to {high}")
    return int(text)


def _seconds(flag: str, text: str, other: str = "") -> float:
    if not (_DECIMAL.fullmatch(text) and float(text) <= MAX_SECONDS):
        raise ConfigError(f"{flag}: expected seconds from 0 to {MAX_SECONDS}{other}")
    return float(text)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(one.lower() for one in _listed(text))
    for origin in origins:
        scheme, _, host = origin.partition("://")
        if not (_SCHEME.fullmatch(scheme) and _HOST.fullmatch(_PORT.sub("", host))):
            raise ConfigError(
                f"--allow-origin: {origin!r} is no origin: expected scheme://host or scheme://host:port, "
                "as 'https://page.example,http://localhost:8000'"
            )
    return origins


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(one.lower() for one in _listed(text))
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise ConfigError("--allow-host: expected names or addresses, without port, as 'qm.example.com,10.0.0.5'")
    return hosts


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(map(ipaddress.ip_network, _listed(text)))
    except ValueError as error:
        raise ConfigError(
            f"--trusted-proxies: expected addresses or networks, as '127.0.0.1,10.0.0.0/8': {error}"
        ) from None


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
        raise ConfigError("--log-format: expected json or console")
    return text or ("console" if isatty() else "json")


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """Make the context that serves HTTPS with a certificate chain and its key (PEM files).

    Raises:
        ConfigError: they cannot be used; it says which of them, and why.
    """
    _check_certificate(cert)
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(cert, key, password=lambda: b"")  # else OpenSSL would ask for one on the terminal
    except ssl.SSLError as error:
        raise ConfigError(_flaw(cert, key, error.reason)) from None
    return made


def _check_certificate(cert: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=cert)
    except ssl.SSLError:
        swapped = ", but a private key: are the two swapped?" if KEY_MARK in Path(cert).read_bytes() else ""
        raise ConfigError(f"--tls-cert: {cert} is no PEM certificate{swapped}") from None


def _flaw(cert: str, key: str, reason: str | None) -> str:
    """OpenSSL gives no reason where it cannot read the key."""
    if reason in OF_ANOTHER:
        return f"--tls-key: the key in {key} does not belong to the certificate in {cert}"
    if reason:
        return f"--tls-cert, --tls-key: cannot be used: {reason.lower().replace('_', ' ')}"
    if ENCRYPTED_MARK in Path(key).read_bytes():
        return f"--tls-key: {key} has a password: take it off (openssl pkey -in {key} -out …)"
    return f"--tls-key: {key} is no PEM private key"
