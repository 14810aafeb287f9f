"""images: images are read as Docker reads them."""

import contextlib

import pytest
from fakes import DIGEST, steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.models.images import Reference


@pytest.mark.parametrize(
    ("text", "name", "domain", "tag", "digest"),
    [
        ("busybox", "docker.io/library/busybox", "docker.io", None, None),
        ("busybox:1.36", "docker.io/library/busybox", "docker.io", "1.36", None),
        ("team/tool", "docker.io/team/tool", "docker.io", None, None),
        ("docker.io/busybox", "docker.io/library/busybox", "docker.io", None, None),
        ("index.docker.io/busybox", "docker.io/library/busybox", "docker.io", None, None),
        ("localhost/tool", "localhost/tool", "localhost", None, None),
        ("registry:5000/team/tool:v1", "registry:5000/team/tool", "registry:5000", "v1", None),
        ("127.0.0.1:5000/tool", "127.0.0.1:5000/tool", "127.0.0.1:5000", None, None),
        ("ghcr.io/a/b/c/d:latest", "ghcr.io/a/b/c/d", "ghcr.io", "latest", None),
        (f"busybox@{DIGEST}", "docker.io/library/busybox", "docker.io", None, DIGEST),
        (f"busybox:1@{DIGEST}", "docker.io/library/busybox", "docker.io", "1", DIGEST),
    ],
)
def test_a_reference_is_normalised(text: str, name: str, domain: str, tag: str | None, digest: str | None) -> None:
    """The name gets its registry, and `library/` where Docker adds it; tag and digest stay apart."""
    assert Reference.parse(text) == Reference(name, domain, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "busybox ",
        " busybox",
        "busy box",
        "busybox\n",
        "busybox\0",
        "team/Tool",
        "Busybox",
        ":tag",
        "busybox:",
        "busybox:a:b",
        "busybox@",
        "busybox@sha256:short",
        "-busybox",
        "a//b",
        "/busybox",
        "busybox/",
        "http://registry/tool",
        "$(reboot)",
        "../../etc",
        "a" * 64,  # an id
        "b" * 300,
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """The error begins with the field's name."""
    with pytest.raises(ValueError, match=r"^image: "):
        Reference.parse(text)


@steady
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes it fail in another way."""
    with contextlib.suppress(ValueError):
        Reference.parse(text)
