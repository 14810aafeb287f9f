"""The certificate and its key that HTTPS is served with."""

from __future__ import annotations

import ssl
from pathlib import Path

from ..errors import ConfigError

KEY_MARK, ENCRYPTED_MARK = b"PRIVATE KEY-----", b"ENCRYPTED"
OF_ANOTHER = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # of the same kind of key, and of another


def context(cert: str, key: str) -> ssl.SSLContext:
    """What serves with these two files (PEM).

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
