"""Listing: Docker's answer, of which only the used fields are decoded, and only when an item is read."""

import json
from typing import Any

import pytest

from qmaster.engine.services import SERVICE, TASK, Listing
from qmaster.errors import EngineRefused

RAW: dict[str, Any] = {
    "ID": "t1",
    "ServiceID": "s1",
    "Slot": 1,
    "Version": {"Index": 7},
    "Status": {"State": "failed", "Err": "x", "ContainerStatus": {"ContainerID": "c", "PID": 5, "ExitCode": 3}},
    "Spec": {"ContainerSpec": {"Env": ["A=1"] * 1000}},
    "NetworksAttachments": [{"Addresses": ["10.0.0.2/24"]}],
}


def listing(*items: Any) -> Listing:
    return Listing(json.dumps(items).encode(), TASK)


def test_an_item_has_the_fields_that_are_used() -> None:
    """The rest, most of a listing, is left out; what is used is as Docker sent it."""
    status = {"State": "failed", "Err": "x", "ContainerStatus": {"ContainerID": "c", "ExitCode": 3}}
    (item,) = listing(RAW)
    assert item == {"ID": "t1", "ServiceID": "s1", "Slot": 1, "Version": {"Index": 7}, "Status": status}


def test_it_is_a_sequence() -> None:
    """Read as often as one likes, from both ends."""
    several = listing({"ID": "a"}, {"ID": "b"}, {"ID": "c"})
    assert len(several) == 3
    assert [item["ID"] for item in several] == [item["ID"] for item in several] == ["a", "b", "c"]
    assert several[-1]["ID"] == "c"
    assert list(listing()) == []
    with pytest.raises(IndexError):
        listing()[0]


@pytest.mark.parametrize("inner", [None, {}, {"ContainerID": None}])
def test_a_part_may_be_missing(inner: Any) -> None:
    """As of a task without a container."""
    (item,) = listing({"ID": "t1", "Status": {"State": "new", "ContainerStatus": inner}})
    assert item["Status"].get("ContainerStatus") == inner


def test_an_item_of_another_form_is_decoded_whole() -> None:
    """An engine to come may change a type; whoever reads the field decides, and the other items are as ever."""
    odd = {**RAW, "Status": ["failed"]}
    first, second = listing(odd, RAW)
    assert (first["Status"], first["NetworksAttachments"]) == (["failed"], RAW["NetworksAttachments"])
    assert "NetworksAttachments" not in second


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'[{"ID": "t1"}', b"\xff", b"<html>"])
def test_what_is_no_list_is_the_engine_s_failure(body: bytes) -> None:
    """At once, not when an item is read."""
    with pytest.raises(EngineRefused):
        Listing(body, SERVICE)
