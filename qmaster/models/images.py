"""Image references as Docker parses them, and the patterns of a token's ``images``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from docker_image import reference as grammar

DOCKER_HUB = "docker.io"
# Docker shortens docker.io/library/sha256:6… to sha256:6…, which is the ID, or its beginning, of any local image.
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
    @lru_cache(maxsize=1024)  # the grammar is one large expression, and a swarm has few images
    def parse(cls, text: str) -> Reference:
        """Parse a reference with Docker's normalisation.

        Raises:
            ValueError: it is malformed, or an image ID; the message begins with ``image:``.
        """
        if any(c.isspace() or not c.isprintable() for c in text):
            raise ValueError("image: expected no spaces and no control characters")
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
        """Return the parsed text with ``:latest`` if it has no tag: ``beef`` alone may be the ID of an image."""
        return text if self.tag or self.digest else f"{text}:latest"

    @property
    def canonical(self) -> str:
        """The full reference, which no engine takes for an image ID.

        A digest overrides a tag, so the tag is left out.
        """
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag or 'latest'}"


@dataclass(frozen=True)
class Pattern:
    """A pattern of image references.

    ``*`` stands for any characters within one part of a name or within a tag, never for a ``/``; ``**`` as the last
    part stands for one part or more. A pattern is completed as Docker completes a reference: ``busybox`` is
    ``docker.io/library/busybox``. ``parts`` are those of the repository after ``domain``; without ``tag`` and
    ``digest``, any tag and digest match.
    """

    domain: str
    parts: tuple[str, ...]
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parse a pattern.

        Raises:
            ValueError: it is malformed, or matches less than it seems to.
        """
        name, at, digest = text.partition("@")
        head, slash, last = name.rpartition("/")
        last, colon, tag = last.partition(":")
        if at and (colon or not _DIGEST.fullmatch(digest)):
            raise ValueError("expected a complete digest after @, and no tag before it")
        if colon and not _TAG.fullmatch(tag):
            raise ValueError("expected a tag after :")
        domain, parts = _split(head + slash + last)
        return cls(domain, parts, tag if colon else None, digest if at else None)

    def matches(self, image: Reference) -> bool:
        """Return whether the pattern matches an image.

        A digest overrides a tag, so a pattern with a tag matches no digest.
        """
        if not self.has_repository(image):
            return False
        if self.digest is not None:
            return image.digest == self.digest
        if self.tag is not None:
            return image.digest is None and _like(self.tag, image.tag or "latest")
        return True

    def names(self, image: Reference) -> bool:
        """Return whether the pattern names an image that is pinned: its tag counts too, beside its digest."""
        if not self.has_repository(image):
            return False
        if self.digest is not None:
            return image.digest == self.digest
        return self.tag is None or _like(self.tag, image.tag or "latest")

    @property
    def literal(self) -> str:
        """A text that every image that matches has, however it is written."""
        return max(self.parts[-1].split("*"), key=len)

    def has_repository(self, image: Reference) -> bool:
        """Return whether the pattern names the repository of an image, whatever its tag or digest."""
        return image.domain == self.domain and self._has_path(image.path.split("/"))

    def _has_path(self, path: list[str]) -> bool:
        parts = list(self.parts)
        if parts[-1] == REST:
            parts.pop()
            if len(path) <= len(parts):
                return False
            path = path[: len(parts)]
        return len(path) == len(parts) and all(map(_like, parts, path))


def check_registry(text: str) -> str:
    """Return a registry's name as references have it; ``index.docker.io`` is ``docker.io``.

    Raises:
        ValueError: it is malformed.
    """
    if not _DOMAIN.fullmatch(text):
        raise ValueError("a registry is a name in lower case, with its port if it has one")
    return DOCKER_HUB if text == f"index.{DOCKER_HUB}" else text


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the domain and the parts after it, split as Docker does."""
    first, slash, rest = name.partition("/")
    if slash and (any(c in first for c in ".:[") or first == "localhost"):
        domain, parts = check_registry(first), rest.split("/")
    else:
        domain, parts = DOCKER_HUB, name.split("/")
        if parts in (["*"], [REST]):
            raise ValueError("has no registry; leave images out for any image, or write 'docker.io/library/*'")
        if len(parts) == 1 and (name == "localhost" or "." in name):
            raise ValueError("looks like a registry; write 'registry.example.com/**' for all of its images")
    named = parts[:-1] if parts[-1] == REST else parts
    if any(not _PART.fullmatch(part) or REST in part for part in named):
        raise ValueError("expected parts in lower case, and ** only as the last part")
    if domain == DOCKER_HUB and len(parts) == 1 and parts != [REST]:
        parts = ["library", *parts]
    return domain, tuple(parts)


def _like(pattern: str, text: str) -> bool:
    """Return whether a text matches a pattern with ``*``; one pass, so no name of an image makes it slow."""
    if "*" not in pattern:
        return pattern == text
    head, middle, tail = _literals(pattern)
    at, end = len(head), len(text) - len(tail)
    if end < at or not text.startswith(head) or not text.endswith(tail):
        return False
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


@lru_cache(maxsize=1024)  # a listing compares one pattern with thousands of images
def _literals(pattern: str) -> tuple[str, tuple[str, ...], str]:
    """Return what stands before, between and after the stars of a pattern."""
    head, *middle, tail = pattern.split("*")
    return head, tuple(middle), tail
