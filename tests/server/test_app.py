"""app: how the parts are wired."""

import asyncio
from typing import Any

import pytest
from fakes import until
from in_process import InProcess, home, options

from qmaster.errors import EngineAway
from qmaster.server import app

__all__ = ["home", "options"]  # the fixtures

pytestmark = [pytest.mark.gen_test, pytest.mark.slow]  # a whole server each


async def test_the_trouble_that_is_told_is_the_first_cause(home: InProcess) -> None:
    """An engine that is away leaves the journal alone; without a journal the view cannot catch up."""
    server, away = home.server, EngineAway("away")
    assert server.api.trouble() is None
    server.runs.reconciler._stale(away)
    assert str(server.api.trouble()).startswith("the cache may be out of date")
    server.journal.trouble = "full"
    assert str(server.api.trouble()) == "the journal cannot be written: full"
    home.engine.health.trouble = away
    assert server.api.trouble() is away


async def test_readers_are_looked_at_now_and_then(home: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind is cut though nothing more is sent."""
    looks: list[Any] = []
    monkeypatch.setattr(app, "CHECK_EVERY", 0.001)
    monkeypatch.setattr(home.server.api.broker, "check", lambda: looks.append(1))
    looking = asyncio.create_task(home.server._check())
    await until(lambda: len(looks) > 1)
    looking.cancel()
