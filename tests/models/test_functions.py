"""models.functions: names, specs and qualifiers, and what is refused of them."""

import string
from typing import Any

import msgspec
import pytest
from request_cases import WRONG

from qmaster.errors import BadRequest, NotFound
from qmaster.models import functions, validation, words
from qmaster.models.functions import FunctionSpec, RollbackRequest, check_name, read_qualifier, read_spec
from qmaster.models.requests import RunFields, RunRequest, convert

SPEC = {"image": "busybox"}
FIELDS = FunctionSpec.__struct_fields__


def refused(document: dict[str, Any]) -> str:
    with pytest.raises(BadRequest) as error:
        read_spec(document)
    return str(error.value)


@pytest.mark.parametrize("name", ["a", "0", "ab", "a-b_c", "a" * 48, "team-a--b", "9_9"])
def test_a_name_is_taken(name: str) -> None:
    """Lower case, digits, - and _, up to 48, with a letter or digit at both ends."""
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "-a", "_a", "a-", "a_", "a" * 49, "a.b", "a b", "a/b", "ä", "a\n", "a:1", "$LATEST", "%61"]
)
def test_another_name_is_refused(name: str) -> None:
    """The error has the rule."""
    with pytest.raises(BadRequest, match=r"^name: expected up to 48 of a-z"):
        check_name(name)


def test_what_is_left_out_has_the_defaults_of_the_contract() -> None:
    """Those of FUNCTIONS.md, section 1."""
    spec = read_spec(SPEC)
    assert (spec.runtime, spec.min_instances, spec.max_instances, spec.concurrency) == ("lambda", 0, 10, 1)
    assert (spec.idle, spec.timeout, spec.init_timeout, spec.queue, spec.url) == (300, 60, 30, 100, "none")
    assert (spec.retries, spec.max_age, spec.retry_delay) == (2, 21_600, 60)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, value in WRONG if field in FIELDS])
def test_the_fields_of_a_run_are_checked_as_in_a_run(field: str, value: Any) -> None:
    """Each wrong value is refused with the very words that a run's has."""
    with pytest.raises(BadRequest) as error:
        convert({**SPEC, field: value}, RunRequest)
    assert refused({**SPEC, field: value}) == str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("runtime", "service", "runtime: expected one of lambda, job"),
        ("runtime", "python3.11", "runtime: expected one of lambda, job"),
        ("min_instances", -1, "min_instances: expected an integer of at least 0, got -1"),
        ("min_instances", 1001, "min_instances: expected an integer of at most 1000, got 1001"),
        ("min_instances", 11, "min_instances: expected at most max_instances, 10"),
        ("min_instances", "1", "min_instances: expected an integer, got '1'"),
        ("min_instances", True, "min_instances: expected an integer, got a boolean"),
        ("max_instances", 0, "max_instances: expected an integer of at least 1, got 0"),
        ("max_instances", 1.5, "max_instances: expected an integer, got 1.5"),
        ("max_instances", 10**30, "max_instances: expected an integer of at most 1000"),
        ("concurrency", 0, "concurrency: expected an integer of at least 1 call, got 0"),
        ("concurrency", 1001, "concurrency: expected an integer of at most 1000 calls, got 1001"),
        ("idle", "5", "idle: expected a number (seconds) or a duration such as 1m30s, got '5'"),
        ("idle", 0, "idle: expected a number of at least 0.1 seconds, got 0"),
        ("idle", 86_401, "idle: expected a number of at most 86400 seconds, got 86401"),
        ("timeout", "2d", "timeout: expected a number of at most 86400 seconds, got '2d'"),
        ("timeout", 0, "timeout: expected a number of at least 0.1 seconds, got 0"),
        ("timeout", None, "timeout: expected a number (seconds) or a duration such as 1m30s, got null"),
        ("init_timeout", -1, "init_timeout: expected a number of at least 0.1 seconds, got -1"),
        ("init_timeout", [], "init_timeout: expected a number (seconds) or a duration such as 1m30s, got an array"),
        ("queue", -1, "queue: expected an integer of at least 0 calls, got -1"),
        ("queue", 100_001, "queue: expected an integer of at most 100000 calls, got 100001"),
        ("retries", 11, "retries: expected an integer of at most 10, got 11"),
        ("max_age", 0, "max_age: expected a number of at least 1 second, got 0"),
        ("max_age", 604_801, "max_age: expected a number of at most 604800 seconds, got 604801"),
        ("retry_delay", 0, "retry_delay: expected a number of at least 0.1 seconds, got 0"),
        ("on_success", "example.com", "on_success: expected a URL such as https://example.com/hook"),
        ("on_failure", "https://a@b/", "on_failure: expected a URL without user information (user:password@)"),
        ("on_failure", "https://a/" + "x" * 2048, "on_failure: expected a string of at most 2048 characters"),
        ("url", "open", "url: expected one of none, token, public"),
        ("url", None, "url: expected a string, got null"),
        ("env", {"AWS_LAMBDA_RUNTIME_API": "x"}, "env: AWS_LAMBDA_RUNTIME_API is set by quartermaster; leave it out"),
    ],
)
def test_the_fields_of_a_function_have_bounds(field: str, value: Any, says: str) -> None:
    """The error names the field, what is expected, and the unit where there is one."""
    assert refused({**SPEC, field: value}) == says


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("auth", "--registry-auth-file"),
        ("registry_auth", "--registry-auth-file"),
        ("wait", "use POST …/invoke"),
        ("replicas", "use min_instances and max_instances"),
        ("MinReplicas", "use min_instances"),
        ("ReservedConcurrentExecutions", "use max_instances"),
        ("restart", "not needed: an instance that ends is replaced"),
        ("max_attempts", "not needed: an instance that ends is replaced"),
        ("ports", "use url for a function URL"),
        ("ttl", "use idle"),
        ("type", "not supported: an instance is a service"),
        ("name", "the name is in the path"),
        ("Handler", 'use command, such as ["app.handler"]'),
        ("MemorySize", "use memory"),
        ("Environment", "use env"),
        ("MaximumRetryAttempts", "use retries"),
        ("MaximumEventAgeInSeconds", "use max_age"),
        ("schedule", "use schedules: a list, each with cron"),
        ("callback", "use on_success and on_failure"),
        ("DestinationConfig", "use on_success and on_failure"),
        ("privileged", "not supported, because it could reach the host"),
        ("maxInstances", "did you mean max_instances?"),
        ("frobnicate", "; known: image, command"),
    ],
)
def test_another_word_is_answered_with_a_field(field: str, says: str) -> None:
    """Those of a run that a function lacks, and those of other tools."""
    said = refused({**SPEC, field: 1})
    assert said.startswith(f"unknown field '{field}'")
    assert says in said


def test_each_field_that_only_a_run_has_is_answered() -> None:
    """None of them is just unknown."""
    for field in set(RunRequest.__struct_fields__) - set(FIELDS):
        assert "; known" not in refused({**SPEC, field: 1}), field


def test_every_answer_fits() -> None:
    """Own answers are of words that are no fields; those of a run that name a field that is missing are replaced."""
    assert all(word == validation.squeezed(word) for word in functions.INSTEAD)
    assert not set(functions.INSTEAD) & set(map(validation.squeezed, FIELDS))
    for word, answer in words.ANSWERS.items():
        if word in map(validation.squeezed, FIELDS):  # such as runtime
            continue
        said = refused({**SPEC, word: 1})
        named = {name for _, name, _, _ in string.Formatter().parse(answer) if name}
        assert said.startswith(f"unknown field '{word}': ")
        assert named <= set(FIELDS) or word in functions.INSTEAD or said.endswith("not supported for a function")


def test_an_image_is_required() -> None:
    """And nothing else."""
    assert refused({}) == "image: is required"
    assert read_spec({"image": "busybox"}) == FunctionSpec(image="busybox")


def test_an_instance_is_a_run_of_the_same_fields() -> None:
    """A service that runs once, with another image where it is pinned, and without the limits of calls."""
    spec = read_spec({**SPEC, "command": "a b", "env": {"A": "1"}, "memory": 64, "timeout": 5, "secrets": ["s"]})
    run = spec.request("one", "busybox@sha256:" + "a" * 64)
    assert {field: getattr(run, field) for field in RunFields.__struct_fields__ if field != "image"} == {
        field: getattr(spec, field) for field in RunFields.__struct_fields__ if field != "image"
    }
    assert (run.image, run.name, run.type, run.restart, run.replicas) == (
        "busybox@sha256:" + "a" * 64, "one", "service", "none", 1,
    )  # fmt: skip
    assert run.timeout is None
    assert spec.request().image == "busybox"


def test_no_view_shows_the_values_of_the_environment() -> None:
    """Their names only; nor does the text of a spec."""
    spec = read_spec({**SPEC, "env": {"PASSWORD": "hush", "A": "hush"}})
    assert spec.shown()["env"] == ["A", "PASSWORD"]
    assert "hush" not in repr(spec) + str(msgspec.json.encode(spec.shown()))
    assert list(spec.shown()) == list(FIELDS)


@pytest.mark.parametrize(("qualifier", "number"), [(None, None), ("", None), ("$LATEST", None), ("7", 7), ("007", 7)])
def test_a_qualifier_is_a_version_or_the_newest(qualifier: str | None, number: int | None) -> None:
    """As in AWS's tools."""
    assert read_qualifier("f", qualifier) == number


@pytest.mark.parametrize("qualifier", ["latest", "v1", "-1", "1.0", "٣", "1" * 10, " "])
def test_another_qualifier_is_of_no_version(qualifier: str) -> None:
    """It is not found, as an alias is not."""
    with pytest.raises(NotFound, match="has no version"):
        read_qualifier("f", qualifier)


@pytest.mark.parametrize("body", [{}, {"version": 0}, {"version": "1"}, {"version": 1.5}, {"version": 1, "to": 2}])
def test_a_rollback_needs_a_number(body: dict[str, Any]) -> None:
    """And nothing else."""
    with pytest.raises(BadRequest, match=r"^(version|unknown field)"):
        convert(body, RollbackRequest)


def test_schedules_need_a_queue() -> None:
    """With queue 0 each tick would be refused. A published version that says so is still understood."""
    fields = {"image": "busybox", "queue": 0, "schedules": [{"cron": "@hourly"}]}
    with pytest.raises(BadRequest, match=r"^queue: 0 takes no asynchronous calls"):
        read_spec(fields)
    assert read_spec({**fields, "queue": 1}).queue == 1
    assert msgspec.convert(fields, FunctionSpec).queue == 0
