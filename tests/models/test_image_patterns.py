"""images: which images a pattern means."""

import pytest
from fakes import steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.models.images import Pattern, Reference, _like, check_registry

D1, D2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def matches(pattern: str, image: str) -> bool:
    return Pattern.parse(pattern).matches(Reference.parse(image))


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        # Completed as Docker completes both.
        ("busybox", "busybox"),
        ("busybox", "docker.io/library/busybox"),
        ("docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "index.docker.io/busybox"),
        ("team/app", "docker.io/team/app"),
        ("localhost/app", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app:1"),
        ("[::1]:5000/app", "[::1]:5000/app"),
        # Without a tag or digest: any.
        ("busybox", "busybox:1.36"),
        ("busybox", f"busybox@{D1}"),
        ("busybox", f"busybox:1.36@{D1}"),
        # Tags.
        ("busybox:1.36", "busybox:1.36"),
        ("busybox:latest", "busybox"),
        ("busybox:1.*", "busybox:1.36"),
        ("busybox:*", "busybox"),
        ("busybox:*-musl", "busybox:1.36-musl"),
        # A digest is what is run, whatever tag stands beside it.
        (f"busybox@{D1}", f"busybox@{D1}"),
        (f"busybox@{D1}", f"busybox:1.36@{D1}"),
        # Parts.
        ("docker.io/library/*", "busybox"),
        ("docker.io/*", "busybox"),
        ("registry.example.com/*", "registry.example.com/app"),
        ("registry.example.com/**", "registry.example.com/app"),
        ("registry.example.com/**", "registry.example.com/team/deep/app:2"),
        ("registry.example.com/team/**", "registry.example.com/team/app"),
        ("registry.example.com/team/**:1", "registry.example.com/team/app:1"),
        ("registry.example.com/team-*/app", "registry.example.com/team-blue/app"),
        ("registry.example.com:5000/*-tool", "registry.example.com:5000/my-tool"),
        ("team/a*b*c", "team/axxbxxc"),
    ],
)
def test_it_means(pattern: str, image: str) -> None:
    """These."""
    assert matches(pattern, image)


@pytest.mark.parametrize(
    ("pattern", "image"),
    [
        ("busybox", "busybox2"),
        ("busybox", "team/busybox"),
        ("busybox", "docker.io/team/busybox"),
        ("busybox", "registry.example.com/library/busybox"),
        ("busybox", "registry.example.com/busybox"),
        ("busybox", "docker.io:443/library/busybox"),
        ("library/busybox", "localhost/library/busybox"),
        # A pattern with a tag lets no digest through: it decides alone what is run.
        ("busybox:1.36", "busybox"),
        ("busybox:1.36", "busybox:1.37"),
        ("busybox:1.36", f"busybox@{D1}"),
        ("busybox:1.36", f"busybox:1.36@{D1}"),
        ("busybox:*", f"busybox:1.36@{D1}"),
        (f"busybox@{D1}", "busybox"),
        (f"busybox@{D1}", f"busybox@{D2}"),
        (f"busybox@{D1}", f"busybox:1.36@{D2}"),
        # `*` does not go over a `/`.
        ("docker.io/*", "team/app"),
        ("registry.example.com/*", "registry.example.com/team/app"),
        ("registry.example.com/team/**", "registry.example.com/team"),
        ("registry.example.com/team/**", "registry.example.com/teams/app"),
        ("registry.example.com/team/*/app", "registry.example.com/team/app"),
        # Nor over the registry's name.
        ("registry.example.com/**", "registry.example.com.evil.example/app"),
        ("registry.example.com/**", "evil.example/registry.example.com/app"),
        ("registry.example.com/**", "registry.example.com:5000/app"),
        ("registry.example.com:5000/**", "registry.example.com/app"),
        ("registry.example.com:5000/**", "registry.example.com:50000/app"),
        ("registry.example.com/**", "registry-example.com/app"),
        ("docker.io/**", "Docker.io/library/busybox"),
        ("localhost/**", "localhost:5000/app"),
        ("team/a*b", "team/ab2"),
        ("team/ab*ba", "team/aba"),
        ("busybox:1.*", "busybox:latest"),
    ],
)
def test_it_does_not_mean(pattern: str, image: str) -> None:
    """These, however much they look like it."""
    assert not matches(pattern, image)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected parts in lower case"),
        ("*", "has no registry"),
        ("**", "has no registry"),
        ("/busybox", "expected parts in lower case"),
        ("busybox/", "expected parts in lower case"),
        ("team//app", "expected parts in lower case"),
        ("UPPER", "expected parts in lower case"),
        ("team/Upper", "expected parts in lower case"),
        ("ä", "expected parts in lower case"),
        ("a b", "expected parts in lower case"),
        ("busybox\n", "expected parts in lower case"),
        ("busybox:", "expected a tag after :"),
        ("busybox:a b", "expected a tag after :"),
        ("busybox:" + "a" * 129, "expected a tag after :"),
        ("busybox@", "expected a complete digest after @"),
        ("busybox@sha256:1", "expected a complete digest after @"),
        (f"busybox@{D1[:-1]}*", "expected a complete digest after @"),
        (f"busybox:1@{D1}", "expected a complete digest after @"),
        ("busybox@md5:" + "1" * 32, "expected a complete digest after @"),
        ("**/busybox", "expected parts in lower case"),
        ("team/**/app", "expected parts in lower case"),
        ("team/***", "expected parts in lower case"),
        ("team/a**", "expected parts in lower case"),
        ("*.example.com/app", "a registry is a name"),
        ("registry.example.com:*/app", "a registry is a name"),
        ("Registry.example.com/app", "a registry is a name"),
        ("registry.example.com:abc/app", "a registry is a name"),
        ("registry.example.com", "looks like a registry"),
        ("registry.example.com:5000", "looks like a registry"),
        ("localhost", "looks like a registry"),
        ("localhost:5000", "looks like a registry"),
        ("https://registry.example.com/app", "a registry is a name"),
        ("team/-app", "expected parts in lower case"),
        ("team/app-", "expected parts in lower case"),
    ],
)
def test_what_is_no_pattern_is_refused(text: str, says: str) -> None:
    """Also where it says less than it seems to."""
    with pytest.raises(ValueError, match=f"^{says}"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("[::1]:5000", "[::1]:5000"),
        ("r", "r"),
    ],
)
def test_a_registry_has_the_name_that_references_have(text: str, name: str) -> None:
    """Docker Hub has two."""
    assert check_registry(text) == name


@pytest.mark.parametrize("text", ["", "Docker.io", "https://docker.io", "docker.io/", "docker.io/library", "a b", "*"])
def test_what_is_no_registry_is_refused(text: str) -> None:
    """It would never match, and so forbid all."""
    with pytest.raises(ValueError, match="a registry is a name"):
        check_registry(text)


@steady
@given(st.text("ab*", max_size=8), st.text("ab", max_size=10))
def test_a_star_is_any_characters(pattern: str, text: str) -> None:
    """As the plain, slow way has it."""

    def slow(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return any(slow(pattern[1:], text[i:]) for i in range(len(text) + 1))
        return bool(text) and text[0] == pattern[0] and slow(pattern[1:], text[1:])

    assert _like(pattern, text) == slow(pattern, text)


def test_no_image_makes_a_match_slow() -> None:
    """Who may name images names long ones; a regular expression would take until the end of days."""
    assert not _like("*a" * 60 + "*b", "a" * 100_000)
