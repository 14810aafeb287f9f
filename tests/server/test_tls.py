"""tls: a certificate and its key that can be used, and what is said of those that cannot."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from qmaster.errors import ConfigError
from qmaster.server import config
from qmaster.server.config import tls_context

ENCRYPTED = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`one` and `two` are certificates with their keys, `other` is one with a key of another kind."""
    authority = trustme.CA()
    for name, kind in (("one", "ECDSA"), ("two", "ECDSA"), ("other", "RSA")):
        made = authority.issue_cert(f"{name}.example.com", key_type=trustme.KeyType[kind])
        made.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    (tmp_path / "nonsense").write_text("nonsense")
    (tmp_path / "empty").touch()
    (tmp_path / "cut.pem").write_text((tmp_path / "one.pem").read_text()[:200])
    (tmp_path / "cut.key").write_text((tmp_path / "one.key").read_text()[:100])
    (tmp_path / "locked.key").write_text(ENCRYPTED)
    return tmp_path


def test_a_pair_is_taken(folder: Path) -> None:
    """Each with its own."""
    for name in ("one", "two", "other"):
        assert isinstance(tls_context(f"{folder}/{name}.pem", f"{folder}/{name}.key"), ssl.SSLContext)


@pytest.mark.parametrize(
    ("cert", "key", "says"),
    [
        ("nonsense", "one.key", r"--tls-cert: \S+/nonsense is not a PEM certificate$"),
        ("empty", "one.key", r"--tls-cert: \S+/empty is not a PEM certificate$"),
        ("cut.pem", "one.key", r"--tls-cert: \S+/cut.pem is not a PEM certificate$"),
        (
            "one.key",
            "one.pem",
            r"--tls-cert: \S+/one.key is not a PEM certificate, but a private key: are the two swapped",
        ),
        ("one.pem", "nonsense", r"--tls-key: \S+/nonsense is not a PEM private key$"),
        ("one.pem", "one.pem", r"--tls-key: \S+/one.pem is not a PEM private key$"),
        ("one.pem", "cut.key", r"--tls-key: \S+/cut.key is not a PEM private key$"),
        ("one.pem", "locked.key", r"--tls-key: \S+/locked.key has a password; remove it"),
        ("one.pem", "two.key", r"--tls-key: the key in \S+/two.key does not belong to the certificate in \S+/one.pem$"),
        ("one.pem", "other.key", r"--tls-key: the key in \S+/other.key does not belong to the certificate in"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, cert: str, key: str, says: str) -> None:
    """Which of the two, and why: OpenSSL's own reason is often none."""
    with pytest.raises(ConfigError, match=f"^{says}"):
        tls_context(f"{folder}/{cert}", f"{folder}/{key}")


def test_any_other_reason_is_openssl_s_in_words() -> None:
    """As of a key that is too small."""
    assert config._flaw("c", "k", "EE_KEY_TOO_SMALL") == "--tls-cert, --tls-key: cannot be used: ee key too small"


def test_nobody_is_asked_for_a_password(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL would, on the terminal, and wait for it."""
    asked: list[bytes] = []

    class Context:
        def load_cert_chain(self, cert: str, key: str, password: Callable[[], bytes]) -> None:
            asked.append(password())

    monkeypatch.setattr(ssl, "create_default_context", lambda purpose: Context())
    tls_context(f"{folder}/one.pem", f"{folder}/locked.key")
    assert asked == [b""]
