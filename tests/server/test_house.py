"""server: what the parts of a house are wired to."""

import asyncio
from typing import Any

import pytest
from fakes import until
from house import Home, home, options

from qmaster.errors import EngineAway
from qmaster.server import app as server

__all__ = ["home", "options"]  # the fixtures

pytestmark = [pytest.mark.gen_test, pytest.mark.slow]  # a whole house each


async def test_the_trouble_that_is_told_is_the_first_cause(home: Home) -> None:
    """An engine that is away leaves the journal alone; without a journal the view cannot catch up."""
    house, away = home.house, EngineAway("away")
    assert house.parts.trouble() is None
    house.reconciler._stale(away)
    assert str(house.parts.trouble()).startswith("stale since ")
    house.journal.trouble = "full"
    assert str(house.parts.trouble()) == "the journal cannot be written: full"
    home.engine.health.trouble = away
    assert house.parts.trouble() is away


async def test_readers_are_looked_at_now_and_then(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind is cut though nothing more is sent."""
    looks: list[Any] = []
    monkeypatch.setattr(server, "CHECK_EVERY", 0.001)
    monkeypatch.setattr(home.house.parts.broker, "check", lambda: looks.append(1))
    looking = asyncio.create_task(home.house._check_readers())
    await until(lambda: len(looks) > 1)
    looking.cancel()
