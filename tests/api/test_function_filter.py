"""The filter `function` of the listing and of the stream."""

import msgspec
import pytest
from api_cases import GOING_ON, Ask, FakeRunService, check_refused, document

from qmaster.models.responses import FunctionRef

pytestmark = pytest.mark.gen_test

INSTANCE = msgspec.structs.replace(GOING_ON, id="s2", function=FunctionRef("hello", 3))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["s1"]),
        ("?function=hello", ["s2"]),
        ("?function=other", []),
        ("?all=1", ["s1", "s2"]),
        ("?all=1&function=", ["s1"]),
    ],
)
async def test_instances_are_listed_where_they_are_asked_for(
    ask: Ask, run_service: FakeRunService, query: str, ids: list[str]
) -> None:
    """By their function, or with `all`."""
    run_service.views = [GOING_ON, INSTANCE]
    listed = document(await ask("GET", f"/status{query}"))["services"]
    assert [each["id"] for each in listed] == ids
    assert all((each["function"] is not None) == (each["id"] == "s2") for each in listed)


WRONG = ["*", "Hello", "a&function=b", "-a", "a" * 49]


@pytest.mark.parametrize(
    ("path", "value"), [("/events", ""), *((path, value) for path in ("/status", "/events") for value in WRONG)]
)
async def test_a_wrong_name_is_refused(ask: Ask, path: str, value: str) -> None:
    """It names the parameter."""
    check_refused(await ask("GET", f"{path}?function={value}"), 400, "function: expected the name of one function")
