"""cloudevents: what is told between two views of a service or a node, and how."""

import json
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from fakes import CREATED, LATER, service, task
from msgspec.structs import replace
from swarm_cases import NODES, NOW

from qmaster.api.openapi import functions as openapi_functions
from qmaster.events import cloudevents, frames
from qmaster.events.cloudevents import Event
from qmaster.models.functions import FunctionVersion
from qmaster.models.responses import Node, Replicas, Reserved, Service
from qmaster.runs.views import status

NOW_TEXT = "2024-05-06T07:09:00Z"
NODE = Node(
    id="n1", hostname="host-1", role="worker", state="ready", availability="active", address=None, engine="28.5.2",
    memory=1024, cpus=2.0, reserved=Reserved(0, 0.0), leader=False,
)  # fmt: skip


def see(*tasks: Any, **spec: Any) -> Service:
    return status.service(service(**spec), tasks, NODES, NOW)


def told(before: Service | None, after: Service) -> list[tuple[str, str]]:
    return [
        (event.type.removeprefix("io.qmaster."), event.time)
        for event in cloudevents.of_service(before, after, NOW_TEXT)
    ]


PENDING = see(task("pending", ID="t", at="2024-05-06T07:08:10.5Z"))
RUNNING = see(task("running", ID="t", at="2024-05-06T07:08:11.5Z"))
FAILED = see(task("failed", ID="t", at="2024-05-06T07:08:12.5Z", code=3))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, see(), [("service.created", CREATED)]),
        (None, PENDING, [("service.created", CREATED), ("task.pending", "2024-05-06T07:08:10.5Z")]),
        (
            None,
            FAILED,
            [
                ("service.created", CREATED),
                ("task.failed", "2024-05-06T07:08:12.5Z"),
                ("service.failed", "2024-05-06T07:08:12.5Z"),
            ],
        ),
        (
            PENDING,
            RUNNING,
            [("task.running", "2024-05-06T07:08:11.5Z"), ("service.running", "2024-05-06T07:08:11.5Z")],
        ),
        (RUNNING, RUNNING, []),
        (RUNNING, replace(RUNNING, status="removed", removed_at=LATER), [("service.removed", LATER)]),
        (RUNNING, replace(RUNNING, status="stopping", reason="stopped"), [("service.stopping", NOW_TEXT)]),
        (RUNNING, replace(RUNNING, status="unknown", reason="node_down"), [("service.updated", NOW_TEXT)]),
        (PENDING, replace(PENDING, reason="unschedulable"), [("service.updated", "2024-05-06T07:08:10.5Z")]),
        (RUNNING, replace(RUNNING, replicas=Replicas(2, 1, 0, 0)), [("service.updated", "2024-05-06T07:08:11.5Z")]),
        (FAILED, replace(FAILED, exit_code=4), [("service.updated", "2024-05-06T07:08:12.5Z")]),
        (RUNNING, replace(RUNNING, labels={"a": "b"}), []),
    ],
)
def test_what_is_told_of_a_service(before: Service | None, after: Service, expected: list[tuple[str, str]]) -> None:
    """Its creation, its tasks' changes in the order of their times, and its own change, with the engine's time."""
    assert told(before, after) == expected


def test_each_task_is_told_with_the_service_as_it_is() -> None:
    """Several that moved, the earliest first; one that did not is not told."""
    one, two, three = (task("running", slot, ID=f"t{slot}", at=f"2024-05-06T07:08:0{9 - slot}Z") for slot in (1, 2, 3))
    replicas = {"Mode": {"Replicated": {"Replicas": 3}}}
    before = see(one, **replicas)
    fresh = list(cloudevents.of_service(before, see(one, two, three, **replicas), NOW_TEXT))
    moved = [event.task.id for event in fresh if event.task]
    assert moved == ["t3", "t2"]
    assert all(earlier.time <= later.time for earlier, later in pairwise(fresh[:2]))


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        (None, NODE, "joined"),
        (NODE, None, "removed"),
        (NODE, replace(NODE, state="down"), "down"),
        (replace(NODE, state="down"), NODE, "ready"),
        (NODE, replace(NODE, state="disconnected"), "updated"),
        (NODE, replace(NODE, availability="drain"), "updated"),
        (NODE, replace(NODE, role="manager"), "updated"),
        (NODE, replace(NODE, reserved=Reserved(64, 0.5)), None),
        (NODE, NODE, None),
        (None, None, None),
    ],
)
def test_what_is_told_of_a_node(before: Node | None, after: Node | None, word: str | None) -> None:
    """That it joined or went, its state, its availability and role; not what is reserved on it."""
    assert [event.type for event in cloudevents.of_node(before, after, NOW_TEXT)] == (
        [f"io.qmaster.node.{word}"] if word else []
    )


def test_an_event_is_a_cloud_event() -> None:
    """Its id is the cursor, its source the epoch; with the task that moved beside the service."""
    *_, moved, changed = cloudevents.of_service(PENDING, RUNNING, NOW_TEXT)
    event = json.loads(cloudevents.encode(changed, "0a0b0c0d", 7))
    assert event.pop("data") == json.loads(msgspec.json.encode(RUNNING))
    assert event == {
        "specversion": "1.0", "id": "0a0b0c0d:7", "source": "/qmaster/0a0b0c0d", "type": "io.qmaster.service.running",
        "subject": "s1", "time": "2024-05-06T07:08:11.5Z", "datacontenttype": "application/json",
    }  # fmt: skip
    data = json.loads(cloudevents.encode(moved, "0a0b0c0d", 6))["data"]
    assert data["task"] == json.loads(msgspec.json.encode(RUNNING.tasks[0]))


def test_a_task_is_told_without_what_does_not_change() -> None:
    """Neither the labels nor the command of its service: a crash loop would write them with each attempt."""
    view = replace(RUNNING, labels={"a": "x" * 1000}, command=["y" * 1000])
    moved, changed = (
        cloudevents.encode(event, "0a0b0c0d", 7) for event in cloudevents.of_service(PENDING, view, NOW_TEXT)
    )
    data = json.loads(moved)["data"]
    assert not {"labels", "command", "spec", "attempts"} & data.keys()
    assert data.keys() >= {"id", "name", "owner", "image", "status", "tasks", "task"}
    assert len(moved) < len(changed) - 1500
    assert json.loads(changed)["data"]["labels"] == view.labels


def test_a_function_is_published_or_removed() -> None:
    """With the time of its publication; where an earlier version is the newest again, with the time it was seen."""
    first = msgspec.convert(openapi_functions.VERSION, FunctionVersion)
    second = replace(first, version=first.version + 1, published_at="2026-12-01T00:00:00Z")
    (new,) = cloudevents.of_function(None, first, NOW_TEXT)
    assert (new.topic, new.type, new.subject) == ("function", "io.qmaster.function.published", "resize")
    assert new.time == first.published_at
    (more,) = cloudevents.of_function(first, second, NOW_TEXT)
    (less,) = cloudevents.of_function(second, first, NOW_TEXT)
    assert (more.time, less.time, less.view) == (second.published_at, NOW_TEXT, first)
    (gone,) = cloudevents.of_function(first, None, NOW_TEXT)
    assert (gone.type, gone.time, gone.view) == ("io.qmaster.function.removed", NOW_TEXT, first)
    assert list(cloudevents.of_function(first, first, NOW_TEXT)) == list(cloudevents.of_function(None, None, "")) == []


def test_every_type_is_a_known_one() -> None:
    """The words that the contract names."""
    assert Event("service", "io.qmaster.service.created", "s1", CREATED, RUNNING).task is None
    assert set(cloudevents.SERVICE_EVENTS) == {
        "created",
        "updated",
        "running",
        "complete",
        "failed",
        "stopping",
        "removed",
    }


@pytest.mark.parametrize("seconds", [0.001, 1.0, 1_733_040_000.123, 99_999_999_999.0])
def test_a_cursor_carries_its_time(seconds: float) -> None:
    """To the millisecond; a client cannot tell its parts, and sends it in a URL as it is."""
    text = cloudevents.cursor("0a0b0c0d", 7, cloudevents.cursor_time(seconds))
    assert quote(text) == text.replace(":", "%3A")
    parsed = frames.parse_cursor(text)
    assert parsed is not None
    assert (parsed[:2], cloudevents.cursor(*parsed)) == (("0a0b0c0d", 7), text)
    assert abs(cloudevents.seconds_of(parsed[2]) - seconds) < 0.0011


@pytest.mark.parametrize("text", ["0a0b0c0d", "0a0b0c0d.:7", "0a0b0c0d.0x:7", "0a0b0c0d.X:7", "0a0b0c0d.12345678901:7"])
def test_a_malformed_cursor(text: str) -> None:
    """None, so that the API refuses it."""
    assert frames.parse_cursor(text) is None


def test_a_cursor_of_an_earlier_version_has_no_time() -> None:
    """It is understood as before."""
    assert frames.parse_cursor("0a0b0c0d:7") == ("0a0b0c0d", 7, "")
    assert cloudevents.cursor("0a0b0c0d", 7) == "0a0b0c0d:7"


def test_the_cursor_of_an_encoded_event() -> None:
    """Is read without decoding it all; other ids in it are not meant."""
    (event, *_) = cloudevents.of_service(None, PENDING, NOW_TEXT)
    assert cloudevents.cursor_of(cloudevents.encode(event, "0a0b0c0d", 7, "abc")) == "0a0b0c0d.abc:7"
    assert cloudevents.cursor_of(b"{}") == ""
