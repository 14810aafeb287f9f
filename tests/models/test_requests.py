"""requests: what a request may hold; whatever is wrong is refused with the name of its field."""

import base64
import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fakes import AUTH, DIGEST, encoded, run, steady
from hypothesis import given
from hypothesis import strategies as st
from request_cases import WRONG

from qmaster.auth.tokens import Table
from qmaster.errors import BadRequest
from qmaster.models import requests
from qmaster.models.requests import RunRequest, StopRequest
from qmaster.models.responses import Service, Task

IMAGE = {"image": "busybox"}


def test_an_image_is_enough() -> None:
    """The rest has the defaults of the contract: a service, once, with the image's own command."""
    request = run()
    assert (request.type, request.replicas, request.restart) == ("service", 1, "none")
    chosen = (request.command, request.entrypoint, request.memory, request.cpus, request.name)
    assert chosen == (None,) * 5
    assert request.credentials() is None


SIZES: list[tuple[str, Any, Any]] = [  # the largest value, and what is beyond it
    ("labels", {"a": "b" * 8191}, {"a": "b" * 8192}),
    ("labels", {"a" * 4096: "", "b": "é" * 2047 + "b"}, {"a" * 4096: "", "b": "é" * 2048}),
    ("command", ["a" * 16384] * 2, ["a" * 16384, "b" * 16385]),
    ("command", "é" * 16384, "é" * 16385),
    ("entrypoint", "a" * 32768, "a" * 32769),
    ("env", {"A": "é" * 16383 + "b"}, {"A": "é" * 16384}),
]


@pytest.mark.parametrize(("field", "most", "more"), SIZES)
def test_a_field_has_a_size(field: str, most: Any, more: Any) -> None:
    """Bytes in all; the error has the bound and what was sent."""
    assert getattr(run(**{field: most}), field) == most
    limit = 8192 if field == "labels" else 32768
    with pytest.raises(BadRequest, match=rf"^{field}: expected at most {limit} bytes in all; got [0-9]+$"):
        run(**{field: more})


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"image": "i" * 513}, 512),
        ({"name": "n" * 64}, 63),
        ({"workdir": "/" * 4097}, 4096),
        ({"user": "u" * 256}, 255),
        ({"auth": "a" * 16385}, 16384),
        ({"constraints": ["aa==" + " " * 60_000 + "\x01"]}, 512),
        ({"networks": ["n" * 256]}, 255),
        ({"secrets": ["s" * 256]}, 255),
        ({"ports": ["8080:" + "0" * 60_000]}, 64),
    ],
)
def test_a_string_has_a_length(fields: dict[str, Any], limit: int) -> None:
    """Each of a request; the error has the bound."""
    with pytest.raises(BadRequest, match=rf"^{next(iter(fields))}.*: expected a string of at most {limit} characters"):
        run(**fields)


def every_string(schema: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "string" and "enum" not in schema:
            yield at, schema
        for key, inner in schema.items():
            yield from every_string(inner, f"{at}.{key}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from every_string(inner, at)


def test_no_string_of_a_request_is_without_a_length() -> None:
    """In the types of requests and of the tokens file; what SIZES bounds in all needs none of its own."""
    schema = msgspec.json.schema_components([RunRequest, StopRequest, Table])[1]
    bounded = {field for field, _, _ in SIZES}
    without = {at for at, each in every_string(schema) if "maxLength" not in each}
    assert {at for at in without if not bounded & set(at.split("."))} == set()


def test_an_empty_entrypoint_wants_a_command() -> None:
    """Docker takes no command of the image's own beside it, so that there would be nothing to run."""
    empties: tuple[Any, ...] = ([], "", "  ")
    for empty in empties:
        assert requests.entrypoint_words(run(entrypoint=empty, command="true").entrypoint) == requests.CLEARED
        with pytest.raises(BadRequest, match=r"^command: is required if entrypoint is empty"):
            run(entrypoint=empty)


def test_a_byte_order_mark_is_skipped() -> None:
    """One, as editors write it in front of UTF-8."""
    assert requests.decode_object(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    auth = base64.b64encode(b"\xef\xbb\xbf" + base64.b64decode(AUTH)).decode()
    assert run(auth=auth).credentials() == run(auth=AUTH).credentials()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "registry:5000/team/tool:v1"),
        ("command", "echo 'two words'"),
        ("command", ["echo", ""]),
        ("type", "container"),
        ("auth", AUTH),
        ("name", "a"),
        ("name", "A-b_9"),
        ("name", "n" * 63),
        ("labels", {"team": "data", "empty": ""}),
        ("env", {"A": "1=2", "lower.case": ""}),
        ("workdir", "/srv"),
        ("user", "1000:1000"),
        ("user", "nobody"),
        ("entrypoint", "/bin/sh -c"),
        ("memory", 6),
        ("cpus", 0.5),
        ("cpus", 2),
        ("cpus", 0.01),
        ("ttl", 0),
        ("ttl", "never"),
        ("replicas", 3),
        ("restart", "any"),
        ("constraints", ["node.role==worker", "node.labels.zone != a b", "engine.labels.x==1.*"]),
        ("networks", ["backend"]),
        ("secrets", ["password_1.txt"]),
        ("ports", ["8080:80", "1:65535/udp", "53:53/sctp"]),
    ],
)
def test_a_field_is_taken(field: str, value: object) -> None:
    """Each field of the contract, with values at its bounds."""
    assert getattr(run(**{field: value}), field) == value


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    """Type, bounds and grammar; a boolean is no number and a string no list."""
    with pytest.raises(BadRequest, match=rf"^{field}\b.*: |^{field}: "):
        run(**{field: value})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"constraints": ["node.role==worker"]}, "constraints"),
        ({"networks": ["a"]}, "networks"),
        ({"secrets": ["a"]}, "secrets"),
        ({"ports": ["80:80"]}, "ports"),
        ({"replicas": 2}, "replicas"),
        ({"max_attempts": 2}, "max_attempts"),
        ({"max_attempts": 2, "restart": "any"}, "max_attempts"),
        ({"restart_delay": 2, "restart": "any"}, "restart_delay"),
        ({"restart_window": 2, "restart": "any"}, "restart_window"),
        ({"name": "a"}, "name"),
    ],
)
def test_what_only_services_have_is_refused_for_a_container(fields: dict[str, Any], named: str) -> None:
    """Left out in silence it would do something else than was asked."""
    with pytest.raises(BadRequest, match=f"^{named}: "):
        run(type="container", **fields)


def test_a_container_may_be_restarted_a_few_times() -> None:
    """Docker counts attempts with on-failure only."""
    assert run(type="container", restart="on-failure", max_attempts=2).max_attempts == 2


@pytest.mark.parametrize("restart", ["on-failure", "any"])
def test_a_restart_may_wait(restart: str) -> None:
    """Also for no time at all."""
    asked = run(restart=restart, restart_delay=0, restart_window=90.5)
    assert (asked.restart_delay, asked.restart_window) == (0, 90.5)


@pytest.mark.parametrize(
    "field", ["imagee", "Image", "mount", "privileged", "pid_mode", "cap_add", "token", "a`b", "a\nb", ""]
)
def test_an_unknown_field_is_named(field: str) -> None:
    """A 400 that names it, with what cannot be printed replaced."""
    with pytest.raises(BadRequest, match=r"^unknown field '") as caught:
        run(**{field: 1})
    assert field.replace("\n", "\N{REPLACEMENT CHARACTER}") in str(caught.value)


def test_a_long_unknown_field_is_cut() -> None:
    """An answer does not send back 60 KB."""
    with pytest.raises(BadRequest) as caught:
        run(**{"x" * 60_000: 1})
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("to", [RunRequest, StopRequest])
def test_a_missing_field_is_named(to: Any) -> None:
    """`image` of a run, `id` of a stop."""
    with pytest.raises(BadRequest, match=r"^(image|id): is required$"):
        requests.convert({}, to)


@pytest.mark.parametrize("value", ["", "i" * 256, 1, None, ["a"]])
def test_a_wrong_id_is_named(value: object) -> None:
    """`/stop` takes a string that is not empty."""
    with pytest.raises(BadRequest, match=r"^id: "):
        requests.convert({"id": value}, StopRequest)


def test_an_error_shows_no_secret() -> None:
    """What is wrong with `auth` and `env` is said without their values, and so is the request's repr."""
    with pytest.raises(BadRequest) as caught:
        run(auth=encoded({"username": "hunter2"}), env={"A": "hunter2"})
    assert "hunter2" not in str(caught.value)
    shown = repr(run(auth=AUTH, env={"A": "hunter2"}))
    assert AUTH not in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b"not json",
        b" ",
        b"{",
        b"{'image': 'a'}",
        b'{"image": "a",}',
        b'{"image": "a"} {}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": "\xff"}',
        b'{"\xff": 1}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}',
        '{"a": "b"}'.encode("utf-16"),
        b'{"a": "\n"}',
        b'{"a": 01}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """Strictly: UTF-8, no NaN, and no half of a surrogate."""
    with pytest.raises(BadRequest, match="the body is not"):
        requests.decode_object(body)


@pytest.mark.parametrize(
    "body", [b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 1}', b'{"b": {"a": 1, "a": 1}}', b'{"b": [{"a": 1, "a": 1}]}']
)
def test_a_key_twice_is_refused(body: bytes) -> None:
    """Two readers could take different ones; the error names it."""
    with pytest.raises(BadRequest, match="the key 'a' twice"):
        requests.decode_object(body)


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("depth", [33, 200, 900, *range(930, 1001, 7), 10_000])
def test_what_is_nested_deeply_is_refused(depth: int) -> None:
    """Far below what a stack takes: the digest of a body, for one, needs more of it than its decoding did."""
    with pytest.raises(BadRequest, match=r"nested more than 32 levels deep|more than 256 arrays"):
        requests.decode_object(nested(depth))


@pytest.mark.parametrize("part", ["[]", "{}", '["]"]', '{"a":[1]}'])
def test_a_body_of_many_small_arrays_is_refused(part: str) -> None:
    """They take many times as long to decode as text does, before anybody knows whose body it is."""
    assert requests.decode_object(b'{"a":[%s]}' % ",".join([part] * 100).encode())
    with pytest.raises(BadRequest, match="more than 256 arrays and objects"):
        requests.decode_object(b'{"a":[%s]}' % ",".join([part] * 257).encode())


def test_brackets_in_strings_do_not_count() -> None:
    """A command may be a script."""
    document = {"command": ["[" * 1000, '"' + "{[" * 1000, "\\" + "[" * 1000]}
    assert requests.decode_object(json.dumps(document).encode()) == document


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b",".join([b"[" * 30 + b"]" * 30] * 1000) + b"]}",
        b'{"a":[' + b",".join([b'{"b":1}'] * 8000) + b"]}",
        b'{"a":[' + b",".join([b"1"] * 30000) + b"]}",
        b"{" + b",".join(b'"f%d":1' % n for n in range(6000)) + b"}",
        b'{"a":["' + b'","'.join([b""] * 20000) + b'"]}',
        b'{"a":"' + b'\\"' * 30000 + b'"}',
        b"{" + b",".join([b'"a":1'] * 10000) + b"}",
        b"[" * 60000,
        b'"' * 60001,
    ],
)
def test_no_body_takes_long_to_decode(body: bytes) -> None:
    """A thousand at once, which need no token, hold the event loop for a thousand times as long."""
    took = []
    for _ in range(5):
        began = time.process_time()
        with contextlib.suppress(BadRequest):
            requests.decode_object(body)
        took.append(time.process_time() - began)
    assert min(took) < 0.016  # a busy machine takes twice as long


def test_a_few_levels_are_taken() -> None:
    """Clients wrap what they send, and an unknown field is named then."""
    assert list(requests.decode_object(nested(32))) == ["a"]


@pytest.mark.slow
@steady
@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_an_object_comes_through(document: dict[str, Any]) -> None:
    """What json writes is read back as it was."""
    assert requests.decode_object(json.dumps(document, ensure_ascii=False).encode()) == document


@steady
@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """No body makes it fail in another way."""
    with contextlib.suppress(BadRequest):
        requests.decode_object(body)


@pytest.mark.slow
@steady
@given(
    st.dictionaries(
        st.sampled_from(RunRequest.__struct_fields__),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    )
)
def test_any_fields_are_taken_or_refused(fields: dict[str, Any]) -> None:
    """No value of a field makes it fail in another way."""
    with contextlib.suppress(BadRequest):
        run(**fields)


def test_a_long_command_is_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run needs its words several times, and each split of 32 KiB takes 10 ms of the event loop."""
    calls: list[str] = []
    split = shlex.split

    def counted(text: str) -> list[str]:
        calls.append(text)
        return split(text)

    monkeypatch.setattr(shlex, "split", counted)
    asked = requests.convert({"image": "busybox", "command": "'split once' " * 2000}, RunRequest)
    made = requests.words("command", asked.command)
    assert made is not None
    made.append("changed")
    assert requests.words("command", asked.command) == ["split once"] * 2000
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("value", "split"),
    [
        (None, None),
        ("echo one two", ["echo", "one", "two"]),
        ("sh -c 'echo \"a b\"; exit 3'", ["sh", "-c", 'echo "a b"; exit 3']),
        (r"echo a\ b $HOME #x", ["echo", "a b", "$HOME", "#x"]),
        ("''", [""]),
        (["a b", ""], ["a b", ""]),
    ],
)
def test_a_command_is_split_as_a_shell_splits_words(value: Any, split: list[str] | None) -> None:
    """Quotes and backslashes, and nothing is expanded; a list stays as it is."""
    assert requests.words("command", value) == split


ANY_TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@given(st.text(ANY_TEXT | st.sampled_from(" \t\r\n\v\x1c#;$&|a")))
def test_a_command_without_quotes_is_split_as_with_them(command: str) -> None:
    """At the same spaces and at no others."""
    try:
        split = shlex.split(command)
    except ValueError:
        split = []
    if split:
        assert requests.words("command", command) == split


def test_a_service_has_the_keys_of_the_contract() -> None:
    """Its JSON has each key of the API, as far as they are there without a result."""
    service = (
        "id type name image command labels owner status reason error exit_code replicas created_at started_at "
        "finished_at removed_at memory cpus tasks"
    )
    task = "id slot node_id node state message error exit_code container_id updated_at"
    assert set(Service.__struct_fields__) >= {*service.split(" ")}
    assert set(Task.__struct_fields__) >= {*task.split(" ")}
    assert "env" not in Service.__struct_fields__


def test_the_messages_have_a_schema() -> None:
    """OpenAPI is made of it."""
    (_, components) = msgspec.json.schema_components([RunRequest, StopRequest, Service])
    assert components["RunRequest"]["required"] == ["image"]


@pytest.mark.parametrize(
    ("image", "fields", "pulls"),
    [
        ("busybox", {}, "always"),
        ("busybox:latest", {}, "always"),
        ("registry:5000/team/tool", {}, "always"),
        ("busybox:1", {}, "missing"),
        (f"busybox@{DIGEST}", {}, "missing"),
        (f"busybox:latest@{DIGEST}", {}, "missing"),
        ("busybox", {"pull_policy": "never"}, "never"),
        ("busybox", {"pull_policy": "missing"}, "missing"),
        ("busybox:1", {"pull_policy": "always"}, "always"),
    ],
)
def test_what_is_pulled_follows_kubernetes(image: str, fields: dict[str, Any], pulls: str) -> None:
    """Where pull_policy is left out: no tag and latest are asked for anew, a digest never changes."""
    assert run(**{"image": image, **fields}).pulls == pulls
