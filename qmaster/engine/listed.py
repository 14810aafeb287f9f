"""The part of Docker's listings that is used: the rest, most of it, is not even decoded."""

from __future__ import annotations

from typing import Any, TypedDict, cast

import msgspec

# What is told in a few words stays ``Any``: a listing is not refused for one of its values.


class _ContainerStatus(TypedDict, total=False):
    ContainerID: Any
    ExitCode: Any


class _TaskStatus(TypedDict, total=False):
    Timestamp: Any
    State: Any
    Message: Any
    Err: Any
    ContainerStatus: _ContainerStatus | None


class _Task(TypedDict, total=False):
    ID: Any
    ServiceID: Any
    Slot: Any
    NodeID: Any
    CreatedAt: Any
    Version: Any
    DesiredState: Any
    Status: _TaskStatus


class _ContainerSpec(TypedDict, total=False):
    Image: Any
    Args: Any


class _Template(TypedDict, total=False):
    ContainerSpec: _ContainerSpec | None
    Resources: Any
    RestartPolicy: Any


class _Spec(TypedDict, total=False):
    Name: Any
    Labels: Any
    Mode: Any
    TaskTemplate: _Template


class _Service(TypedDict, total=False):
    ID: Any
    Version: Any
    CreatedAt: Any
    UpdatedAt: Any
    Spec: _Spec


# Plain dictionaries, like all that Docker answers.
TASKS = cast(msgspec.json.Decoder[list[dict[str, Any]]], msgspec.json.Decoder(list[_Task]))
SERVICES = cast(msgspec.json.Decoder[list[dict[str, Any]]], msgspec.json.Decoder(list[_Service]))
