"""requests: an Idempotency-Key as a name, and a body as a digest."""

import re
from typing import Any

import pytest

from qmaster.errors import BadRequest
from qmaster.models import requests

BODY: dict[str, Any] = {"image": "busybox", "env": {"A": "1", "B": "2"}}


def read(key: str, owner: str = "root", **body: Any) -> requests.Key:
    found = requests.read_key([key], owner, {**BODY, **body})
    assert found
    return found


def test_without_the_header_there_is_no_key() -> None:
    """Then every call is a run of its own."""
    assert requests.read_key([], "root", BODY) is None


def test_the_name_is_made_of_the_owner_and_the_key() -> None:
    """The same for the same, and one that Swarm takes; each token has keys of its own."""
    assert read("k").name == read("k").name
    assert len({read("k").name, read("l").name, read("k", "alice").name, read("root\0k"[5:], "x").name}) == 4
    assert re.fullmatch(requests.NAME, read("k").name)


def test_the_owner_ends_where_the_key_begins() -> None:
    """No two pairs make one name."""
    assert read("bc", "a").name != read("c", "ab").name


@pytest.mark.parametrize("field", ["token", "auth", "wait"])
def test_what_is_no_part_of_the_run_is_not_digested(field: str) -> None:
    """A retry may carry another token, fresh credentials or another wait."""
    assert read("k", **{field: "x"}).body == read("k").body


def test_another_body_has_another_digest() -> None:
    """Each field counts, also within an object; their order does not."""
    assert len({read("k").body, read("k", image="x").body, read("k", env={"A": "1"}).body}) == 3
    assert requests.body_digest({"b": 1, "a": {"d": 2, "c": 3}}) == requests.body_digest(
        {"a": {"c": 3, "d": 2}, "b": 1}
    )


@pytest.mark.parametrize("value", ["", " ", "a b", "ä", "a\tb", "k" * 256])
def test_a_key_is_a_word(value: str) -> None:
    """Of printable ASCII, at most 255 characters."""
    with pytest.raises(BadRequest, match="Idempotency-Key"):
        requests.read_key([value], "root", BODY)
    assert read("k" * 255)


def test_a_name_beside_a_key_is_refused() -> None:
    """The key names the run."""
    with pytest.raises(BadRequest, match="name: "):
        read("k", name="one")
    assert read("k", name=None)
