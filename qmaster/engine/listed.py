"""The part of Docker's listings that is used: the rest, most of it, is not even decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import msgspec

Json = dict[str, Any]

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
    JobIteration: Any
    Status: _TaskStatus


class _ContainerSpec(TypedDict, total=False):
    Image: Any
    Args: Any
    Healthcheck: Any


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
    JobStatus: Any
    Spec: _Spec


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


class Listing(Sequence[Json]):
    """What Docker answered, decoded one by one as it is asked for: together it would take more than all that is kept.

    Args:
        body: Docker's answer.
        decoder: takes what is used of an item.

    Raises:
        msgspec.DecodeError: it is no list.
    """

    def __init__(self, body: bytes, decoder: msgspec.json.Decoder[Any]) -> None:
        self._items = _ITEMS.decode(body)
        self._decoder = decoder

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        item = self._items[at]
        try:
            return self._decoder.decode(item)
        except msgspec.ValidationError:  # a part is not what it was in all engines so far: who reads it may do without
            return msgspec.json.decode(item)


TASK = msgspec.json.Decoder(_Task)
SERVICE = msgspec.json.Decoder(_Service)
