"""Image references as Docker reads them, and the patterns that a token's ``images`` holds them against."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from docker_image import reference as grammar

DOCKER_HUB = "docker.io"
# Docker's short form of docker.io/library/sha256:6… is an image ID, in full or its beginning, of any local image.
ALGORITHMS = ("sha256", "sha384", "sha512")
REST = "**"
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_PART = re.compile(r"[a-z0-9*](?:[a-z0-9._*-]*[a-z0-9*])?")
_TAG = re.compile(r"[A-Za-z0-9_*][A-Za-z0-9_.*-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class Reference:
    """An image reference: ``name`` is the normalised repository (``docker.io/library/busybox``)."""

    name: str
    domain: str
    tag: str | None
    digest: str | None

    @classmethod
    @lru_cache(maxsize=1024)  # the grammar is one large expression, and the images of a swarm are few
    def parse(cls, text: str) -> Reference:
        """Read a reference with Docker's normalisation.

        Raises:
            ValueError: it is not one; the message begins with ``image:``.
        """
        if any(c.isspace() or not c.isprintable() for c in text):
            raise ValueError("image: holds a space or a control character")
        try:
            parsed = grammar.Reference.parse_normalized_named(text)
        except (grammar.InvalidReference, grammar.digest_.InvalidDigest, ValueError) as error:
            raise ValueError(f"image: {error or 'invalid reference'}") from None
        read = cls(parsed["name"], parsed.domain(), parsed["tag"], parsed["digest"])
        if read.domain.lower() == DOCKER_HUB and read.path.removeprefix("library/") in ALGORITHMS:
            raise ValueError("image: an image ID is not supported; use the image's name, with a tag or a digest")
        return read

    @property
    def path(self) -> str:
        """The repository without its domain."""
        return self.name.removeprefix(f"{self.domain}/")

    def explicit(self, text: str) -> str:
        """The text that was read, with the tag that it leaves out: without one, ``beef`` may be the ID of an image."""
        return text if self.tag or self.digest else f"{text}:latest"

    @property
    def canonical(self) -> str:
        """The one reference that no engine reads as anything else, as the id of an image for instance.

        A digest decides alone, so a tag beside it is left out.
        """
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"


@dataclass(frozen=True)
class Pattern:
    """A pattern of image references.

    ``*`` stands for any characters within one part of a name or within a tag, never for a ``/``; ``**`` as the last
    part stands for one part or more. A pattern is completed as Docker completes a reference: ``busybox`` is
    ``docker.io/library/busybox``. ``parts`` are those of the repository behind ``domain``; without ``tag`` and
    ``digest`` any of it matches.
    """

    domain: str
    parts: tuple[str, ...]
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern.

        Raises:
            ValueError: it is not one, or says less than it seems to.
        """
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        if at and (colon or not _DIGEST.fullmatch(digest)):
            raise ValueError("behind @ comes a whole digest, and no tag before it")
        if colon and not _TAG.fullmatch(tag):
            raise ValueError("behind : comes a tag")
        domain, parts = _split(head + slash + last)
        return cls(domain, parts, tag if colon else None, digest if at else None)

    def matches(self, image: Reference) -> bool:
        """Whether an image is one of these.

        A digest decides what is run, whatever tag stands beside it. So a pattern with a tag lets no digest through.
        """
        if image.domain != self.domain or not self._has_path(image.path.split("/")):
            return False
        if self.digest is not None:
            return image.digest == self.digest
        if self.tag is not None:
            return image.digest is None and _like(self.tag, image.tag or "latest")
        return True

    def _has_path(self, path: list[str]) -> bool:
        parts = list(self.parts)
        if parts[-1] == REST:
            parts.pop()
            if len(path) <= len(parts):
                return False
            path = path[: len(parts)]
        return len(path) == len(parts) and all(map(_like, parts, path))


def check_registry(text: str) -> str:
    """A registry's name as references have it; ``index.docker.io`` is ``docker.io``.

    Raises:
        ValueError: it is not one.
    """
    if not _DOMAIN.fullmatch(text):
        raise ValueError("a registry is a name in lower case, with its port if it has one")
    return DOCKER_HUB if text == f"index.{DOCKER_HUB}" else text


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """The domain and the parts behind it, found as Docker finds them."""
    first, slash, rest = name.partition("/")
    if slash and (any(c in first for c in ".:[") or first == "localhost"):
        domain, parts = check_registry(first), rest.split("/")
    else:
        domain, parts = DOCKER_HUB, name.split("/")
        if parts in (["*"], [REST]):
            raise ValueError("says no registry: leave images out for any image, or write 'docker.io/library/*'")
        if len(parts) == 1 and (name == "localhost" or "." in name):
            raise ValueError("seems to be a registry: write 'registry.example.com/**' for all of its images")
    named = parts[:-1] if parts[-1] == REST else parts
    if any(not _PART.fullmatch(part) or REST in part for part in named):
        raise ValueError("the parts of a name are lower case; ** is the last part, or none")
    if domain == DOCKER_HUB and len(parts) == 1 and parts != [REST]:
        parts = ["library", *parts]
    return domain, tuple(parts)


def _like(pattern: str, text: str) -> bool:
    """Whether a text is as a pattern with ``*`` says, in one pass: who names images cannot make it slow."""
    head, *others = pattern.split("*")
    if not others:
        return pattern == text
    *middle, tail = others
    at, end = len(head), len(text) - len(tail)
    if end < at or not text.startswith(head) or not text.endswith(tail):
        return False
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
