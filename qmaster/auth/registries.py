"""The registry credentials of functions: Docker's ``config.json``, which an operator gives to each quartermaster."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec
import structlog

from ..errors import ConfigError
from ..models.credentials import BOM, Credentials
from ..models.images import DOCKER_HUB, Reference
from ..models.validation import quote
from .authenticator import Identity
from .watched import WatchedFile, has_mode

OPTION = "--registry-auth-file"
HELPERS = ("credsStore", "credHelpers")

log = structlog.get_logger(__name__)


class RegistryAuth:
    """The credentials of the file, by registry; none without a file. Belongs to the event loop.

    Args:
        path: the file, or None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._by_registry: dict[str, Credentials] = {}
        self._file = None if path is None else WatchedFile(path, OPTION, self._take, _refused)

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be read, or has a mistake.
        """
        if self._file is not None:
            self._file.load()

    async def run(self) -> None:
        """Read the file again whenever it changes."""
        if self._file is not None:
            await self._file.run()

    def credentials(self, image: str, identity: Identity) -> Credentials | None:
        """Return the credentials that a function of this publisher pulls an image with, or None.

        They are for the root token, and for tokens whose ``images`` name the repository.
        """
        reference = Reference.parse(image)
        grant = identity.grant
        if grant is not None and not any(pattern.has_repository(reference) for pattern in grant.images or ()):
            return None
        return self._by_registry.get(reference.domain)

    def _take(self, content: bytes) -> None:
        self._by_registry = read(content)
        log.info("registry_auth_loaded", registries=sorted(self._by_registry))
        mode = has_mode(self._path, stat.S_IRWXG | stat.S_IRWXO) if self._path else None
        if mode:
            log.warning("registry_auth_file_open_to_others", mode=mode, advice=f"chmod 600 {self._path}")


def read(content: bytes) -> dict[str, Credentials]:
    """Read Docker's ``config.json``: the credentials in it, by registry.

    Raises:
        ConfigError: it has a mistake, or keeps credentials in another program; the message shows none of them.
    """
    try:
        document = msgspec.json.decode(content.removeprefix(BOM), type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ConfigError('it is not Docker\'s config.json: expected {"auths": {"REGISTRY": {"auth": …}}}') from None
    for key in HELPERS:
        if document.get(key):
            raise ConfigError(
                f"{key} is not supported, as the credentials are in another program: "
                "make a file without it, such as with 'docker --config FOLDER login'"
            )
    auths = document.get("auths", {})
    if not isinstance(auths, dict):
        raise ConfigError("auths: expected an object of registries")
    return {_registry(key): _credentials(key, entry) for key, entry in auths.items()}


def _registry(key: str) -> str:
    """Return the registry that a key of ``auths`` is for, as references have it; Docker's own keys may be URLs."""
    host = key.partition("://")[2] if "://" in key else key
    host = host.partition("/")[0]
    return DOCKER_HUB if host in (f"index.{DOCKER_HUB}", f"registry-1.{DOCKER_HUB}") else host


def _credentials(key: str, entry: Any) -> Credentials:
    try:
        return Credentials.of(entry, OPTION)
    except ValueError as error:
        raise ConfigError(f"auths[{quote(key)}]: {error}") from None


def _refused(error: ConfigError) -> None:
    log.warning("registry_auth_file_wrong", error=str(error), advice="the credentials read before stay valid")
