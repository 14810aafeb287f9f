"""Where the engine is, read as the docker command reads it, and how to make a client for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import docker.errors
import docker.tls
import docker.utils

from ..errors import ConfigError
from . import ssh
from .client import Client

CONNECT_TIMEOUT = 3  # seconds


@dataclass(frozen=True)
class Endpoint:
    """An engine's address (``unix://``, ``tcp://``, ``ssh://``; None: the platform's socket) and its TLS settings."""

    base_url: str | None
    tls: docker.tls.TLSConfig | None

    @classmethod
    def read(cls, docker_host: str, environ: Mapping[str, str]) -> Endpoint:
        """Read ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` beside the host, as the docker command does.

        Raises:
            ConfigError: the address or the certificates cannot be used.
        """
        try:
            verify = bool(environ.get("DOCKER_TLS_VERIFY")) and docker_host.startswith("tcp://")
            _check(docker_host, verify)
            if docker_host.startswith("ssh://"):
                ssh.prepare()
            return cls(docker_host or None, _tls(environ) if verify else None)
        except (docker.errors.DockerException, ValueError) as error:
            raise ConfigError(f"--docker-host: {error}") from None

    @property
    def socket(self) -> Path | None:
        """The engine's socket; None where it is reached over a network."""
        scheme, _, path = str(docker.utils.parse_host(self.base_url)).partition("://")
        return Path(path) if scheme.endswith("unix") else None

    def connect(self) -> Client:
        """A new client, its API version negotiated: one call to the engine. For one thread alone."""
        # One connection is all that one thread can use.
        return Client(self.base_url, version="auto", timeout=CONNECT_TIMEOUT, tls=self.tls or False, max_pool_size=1)


def _check(docker_host: str, verify: bool) -> None:
    if docker_host.startswith("/"):
        raise ValueError(f"an address begins with its scheme: write unix://{docker_host}")
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
