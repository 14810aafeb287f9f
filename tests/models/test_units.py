"""units: durations and sizes as Compose writes them, in every field that is seconds or MiB."""

from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from qmaster.auth.tokens import Table
from qmaster.models import requests, units
from qmaster.models.functions import FunctionSpec, RollbackRequest, read_spec
from qmaster.models.requests import RunRequest
from qmaster.models.schedules import Schedule

RUN = {"image": "busybox"}
# Their names say what they count.
COUNTS = {
    "gpus",
    "generic_resources",
    "ulimits",
    "replicas",
    "max_attempts",
    "min_instances",
    "max_instances",
    "retries",
    "version",
}
COUNTS |= {"max_replicas", "max_running", "max_kept", "max_functions", "ports"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30), ("1m30s", 90), ("1h", 3600), ("2h32m", 9120), ("5h34m56s", 20_096), ("2.5s", 2.5), ("100ms", 0.1),
        ("1.5h", 5400), ("1d", 86_400), ("1w2d", 777_600), ("250us", 0.00025), ("250µs", 0.00025), ("1ns", 1e-9),
        ("0s", 0), ("1s1m", 61), ("0.1s0.2s", 0.3),
    ],
)  # fmt: skip
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """As for Compose: parts with a unit each."""
    assert units.seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "-5s",
        "+5s",
        "1 s",
        "1m30",
        "1e3s",
        "1S",
        "1y",
        ".5s",
        "5.s",
        "1s\n",
        "\N{ARABIC-INDIC DIGIT ONE}s",
        "1s" * 33,
        "9" * 13 + "s",
    ],
)
def test_another_string_is_no_duration(text: str) -> None:
    """A number without a unit could be anything."""
    assert units.seconds(text) is None


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("512m", 512), ("1g", 1024), ("64mb", 64), ("64MB", 64), ("64MiB", 64), ("512Mi", 512), ("1.5Gi", 1536),
        ("2T", 2_097_152), ("1 GB", 1024), ("65536k", 64), ("67108864b", 64), ("1025k", 2), ("1b", 1), ("0m", 0),
    ],
)  # fmt: skip
def test_a_size_is_mib(text: str, mib: int) -> None:
    """Each unit is 1024 of the next smaller one, as for Docker; a part of a MiB is a whole one."""
    assert units.mebibytes(text) == mib


@pytest.mark.parametrize(
    "text",
    ["", "512", "m", "-1m", "1e3m", "1x", "1mbb", "1  m", "1m\n", "\N{ARABIC-INDIC DIGIT ONE}m", "1p", "1" * 16 + "m"],
)
def test_another_string_is_no_size(text: str) -> None:
    """A number without a unit is bytes to some, and MiB to us."""
    assert units.mebibytes(text) is None


def test_the_fields_of_a_run_take_both() -> None:
    """The run is that of the numbers."""
    numbers = {"memory": 1024, "timeout": 90, "ttl": 3600, "wait": 30, "restart_delay": 0.5, "restart_window": 86_400}
    texts = {"memory": "1g", "timeout": "1m30s", "ttl": "1h", "wait": "30s", "restart_delay": "500ms"}
    texts["restart_window"] = "1d"
    more = {**RUN, "restart": "any"}
    assert requests.convert({**more, **texts}, RunRequest) == requests.convert({**more, **numbers}, RunRequest)


def test_the_fields_of_a_function_take_both() -> None:
    """Those of its schedules too; what is shown of it are numbers."""
    cron = {"cron": "@daily"}
    numbers: dict[str, Any] = {"memory": 512, "timeout": 60, "idle": 300, "init_timeout": 5, "max_age": 3600}
    numbers |= {"retry_delay": 1.5, "schedules": [{**cron, "starting_deadline": 300}]}
    texts: dict[str, Any] = {"memory": "0.5g", "timeout": "1m", "idle": "5m", "init_timeout": "5s", "max_age": "1h"}
    texts |= {"retry_delay": "1500ms", "schedules": [{**cron, "starting_deadline": "5m"}]}
    spec = read_spec({**RUN, **texts})
    assert spec == read_spec({**RUN, **numbers})
    assert spec.shown()["schedules"][0]["starting_deadline"] == 300


def test_a_tokens_limits_take_both() -> None:
    """In the tokens file."""
    table = requests.convert({"sha256": "a" * 64, "scopes": ["run"], "max_memory": "1g", "max_ttl": "1h"}, Table)
    assert (table.max_memory, table.max_ttl) == (1024, 3600)


def test_strings_stay_strings() -> None:
    """What looks like a duration is none where a string is meant."""
    given = {"name": "30s", "command": "1g", "user": "1m", "labels": {"timeout": "30s"}, "env": {"memory": "1g"}}
    run = requests.convert({**RUN, **given}, RunRequest)
    assert {name: getattr(run, name) for name in given} == given


@pytest.mark.parametrize("to", [RunRequest, FunctionSpec, RollbackRequest, Schedule, Table])
def test_every_number_has_a_unit(to: type[msgspec.Struct]) -> None:
    """So that every error about one can say it."""
    for field, hint in get_type_hints(to).items():
        if {int, float} & {hint, *get_args(hint)}:
            assert field in units.UNITS or field in COUNTS, field


@pytest.mark.parametrize(
    ("at", "text"),
    [(0.0, "1970-01-01T00:00:00Z"), (1.5, "1970-01-01T00:00:01.500000Z"), (1767225600, "2026-01-01T00:00:00Z")],
)
def test_a_time_is_shown_in_utc(at: float, text: str) -> None:
    """As RFC 3339, with the ``Z`` of Docker's own times; the current time where none is given."""
    assert units.rfc3339(at) == text
    assert text < units.rfc3339() < "3"
