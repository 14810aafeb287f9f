"""Image references, read as Docker reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from docker_image import reference as grammar

DOCKER_HUB = "docker.io"
# Docker's short form of docker.io/library/sha256:6… is an image ID, in full or its beginning, of any local image.
ALGORITHMS = ("sha256", "sha384", "sha512")


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
            raise ValueError("image: an image ID is no reference; write the image's name, with a tag or a digest")
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
