"""validation: what is wrong with a request, in the words of JSON and with examples."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from validation_cases import RUN, refused

from qmaster.auth.tokens import Table
from qmaster.models import validation
from qmaster.models.requests import PATTERNS, RunRequest, StopRequest


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"memory": "5"}, "memory: expected an integer (MiB) or a size such as 512m, got '5'"),
        ({"memory": 1.5}, "memory: expected an integer (MiB) or a size such as 512m, got 1.5"),
        ({"memory": True}, "memory: expected an integer (MiB) or a size such as 512m, got a boolean"),
        ({"memory": 5}, "memory: expected an integer of at least 6 MiB, got 5"),
        ({"memory": "5m"}, "memory: expected an integer of at least 6 MiB, got '5m'"),
        ({"memory": 10**40}, "memory: expected an integer of at most 16777216 MiB"),
        ({"memory": "512m\n"}, "memory: expected an integer (MiB) or a size such as 512m, got '512m\ufffd'"),
        ({"cpus": "1"}, "cpus: expected a number (cores), got '1'"),
        ({"cpus": 0}, "cpus: expected a number of at least 0.01 cores, got 0"),
        ({"replicas": 0}, "replicas: expected an integer of at least 1, got 0"),
        ({"pids_limit": -1}, "pids_limit: expected an integer of at least 0 PIDs, got -1"),
        ({"wait": "x"}, "wait: expected a boolean or a number (seconds) or a duration such as 1m30s, got 'x'"),
        ({"timeout": "30"}, "timeout: expected a number (seconds) or a duration such as 1m30s, got '30'"),
        ({"timeout": "50ms"}, "timeout: expected a number of at least 0.1 seconds, got '50ms'"),
        ({"ttl": "soon"}, "ttl: expected a number (seconds) or a duration such as 1m30s, or never, got 'soon'"),
        ({"wait": 1_000_000}, "wait: expected a number of at most 86400 seconds, got 1000000"),
        ({"command": 3}, "command: expected a string or an array, got an integer"),
        ({"env": []}, 'env: expected an object, got an array; write {"NAME": "value"}'),
        ({"env": None}, 'env: expected an object, got null; write {"NAME": "value"}'),
        ({"image": ""}, "image: expected a string of at least 1 character"),
        ({"networks": ["a"] * 65}, "networks: expected an array of at most 64 items"),
        ({"restart": "no"}, "restart: expected one of none, on-failure, any; use none instead of 'no'"),
        ({"restart": "no\n"}, "restart: expected one of none, on-failure, any"),
        ({"user": True}, "user: expected a string, got a boolean"),
    ],
)
def test_types_and_bounds_are_said_in_words(fields: dict[str, Any], says: str) -> None:
    """Those of JSON, as who sends it knows no Python."""
    assert refused({**RUN, **fields}) == says


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"constraints": ["node.role=manager"]}, "constraints[0]: expected a constraint such as node.role==worker"),
        ({"ports": ["80:80", "80"]}, "ports[1]: expected PUBLISHED:TARGET, such as 8080:80"),
        ({"ports": ["127.0.0.1:8080:80"]}, "ports[0]: expected PUBLISHED:TARGET, such as 8080:80"),
        ({"name": "-a"}, "name: expected up to 63 letters, digits, - and _"),
        ({"workdir": "srv"}, "workdir: expected an absolute path, such as /srv"),
        ({"user": "a b"}, "user: expected a user such as nobody or 1000:1000"),
        ({"secrets": ["/"]}, "secrets[0]: expected a name"),
    ],
)
def test_a_pattern_is_said_by_an_example(fields: dict[str, Any], says: str) -> None:
    """Nobody reads a regular expression."""
    assert refused({**RUN, **fields}).startswith(says)


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
        schema = list(schema.values())
    for inner in schema if isinstance(schema, list) else []:
        yield from patterns(inner)


def test_every_pattern_has_its_words() -> None:
    """Of all that is converted; and none has words that nothing uses."""
    assert set(patterns(msgspec.json.schema_components([RunRequest, StopRequest, Table])[1])) == set(PATTERNS)


@pytest.mark.parametrize(("field", "value"), [("env", 1), ("env", None), ("labels", [])])
def test_the_key_of_a_wrong_value_is_said(field: str, value: Any) -> None:
    """Of an environment it may be one of many; the value is not said."""
    assert refused({**RUN, field: {"A": "1", "B\n": value}}).startswith(f"{field}['B\N{REPLACEMENT CHARACTER}']: expec")


@pytest.mark.parametrize(
    ("document", "to", "says"),
    [
        ({**RUN, "comand": "true"}, RunRequest, "unknown field 'comand': did you mean command?"),
        ({**RUN, "ENV": {}}, RunRequest, "unknown field 'ENV': did you mean env?"),
        ({"id": "a", "force": True}, StopRequest, "unknown field 'force'; known: id"),
        ({"sha256": "a" * 64, "scope": ["run"]}, Table, "unknown field 'scope': did you mean scopes?"),
    ],
)
def test_an_unknown_field_is_told_what_is_known(document: dict[str, Any], to: type, says: str) -> None:
    """The nearest one, else all of them."""
    assert refused(document, to) == says


@pytest.mark.parametrize("name", ["x` - at `$.memory", "x` - at `$.nosuch[0]", "x` - at `$", "a\n` - at `$.ports[0].a"])
def test_a_name_that_looks_like_a_place_breaks_nothing(name: str) -> None:
    """The caller chooses it."""
    said = refused({**RUN, name: 1})
    assert "unknown field 'x'" in said or "unknown field 'a\N{REPLACEMENT CHARACTER}'" in said or name[:9] in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "'a'"), ("a\nb\0", "'a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}'")]
)
def test_a_name_is_said_back_printable(text: str, shown: str) -> None:
    """Control characters cannot reach a terminal by way of an error."""
    assert validation.quote(text) == shown
    assert validation.quote("x" * 64) == "'" + "x" * 64 + "'"
    assert validation.quote("x" * 65) == "'" + "x" * 64 + "…'"
