"""Address of the engine and its TLS settings, read as the docker command reads them."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker.errors
import docker.tls
import docker.utils

from ..errors import ConfigError
from .ssh import check_address


@dataclass(frozen=True)
class Endpoint:
    """An engine's address (``unix://``, ``tcp://``, ``ssh://``; None: the platform's socket) and TLS settings."""

    base_url: str | None
    tls: docker.tls.TLSConfig | None = None

    @classmethod
    def read(cls, docker_host: str, environ: Mapping[str, str]) -> Endpoint:
        """Read ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` beside the host, as the docker command does.

        Raises:
            ConfigError: the address or the certificates cannot be used.
        """
        try:
            verify = bool(environ.get("DOCKER_TLS_VERIFY")) and docker_host.startswith("tcp://")
            _check(docker_host, verify)
            return cls(docker_host or None, _tls(environ) if verify else None)
        except (docker.errors.DockerException, ValueError) as error:
            raise ConfigError(f"--docker-host: {error}") from None

    @property
    def is_ssh(self) -> bool:
        """Whether the engine is reached through OpenSSH."""
        return (self.base_url or "").startswith("ssh://")

    @property
    def url(self) -> str:
        """The complete address as the SDK writes it: ``http+unix://…``, ``http://…`` or ``https://…``."""
        return str(docker.utils.parse_host(self.base_url, tls=self.tls is not None))

    @property
    def socket(self) -> Path | None:
        """The engine's local socket; None if it is reached over a network."""
        if self.is_ssh:
            return None
        scheme, _, path = self.url.partition("://")
        return Path(path) if scheme.endswith("unix") else None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return a context with the certificates of ``DOCKER_CERT_PATH``, and no others of the environment."""
        if self.tls is None or self.tls.cert is None:
            return None
        context = ssl.create_default_context(cafile=self.tls.ca_cert)
        context.load_cert_chain(*self.tls.cert)
        return context


def _check(docker_host: str, verify: bool) -> None:
    if docker_host.startswith("/"):
        raise ValueError(f"an address begins with its scheme: write unix://{docker_host}")
    if docker_host.startswith("ssh://"):
        check_address(docker_host)
        return
    try:
        docker.utils.parse_host(docker_host or None, tls=verify)
    except docker.errors.DockerException:
        raise ValueError(
            f"expected unix:///var/run/docker.sock, tcp://host:2375 or ssh://user@host, not {docker_host!r}"
        ) from None


def _tls(environ: Mapping[str, str]) -> docker.tls.TLSConfig:
    folder = Path(environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    certificate = (str(folder / "cert.pem"), str(folder / "key.pem"))
    return docker.tls.TLSConfig(client_cert=certificate, ca_cert=str(folder / "ca.pem"), verify=True)
