"""`POST /run?dry_run=1`: checked as a run is, answered with what would be run, and nothing made."""

import json
from typing import Any

import pytest
from fakes import AUTH, DIGEST
from in_process import ALICE, BOB, LIMITS, Ask, InProcess, app, ask, entry, home, options

__all__ = ["app", "ask", "home", "options"]  # the fixtures

pytestmark = pytest.mark.gen_test(timeout=20)

Json = dict[str, Any]

DRY = "/run?dry_run=1"


async def dry(ask: Ask, who: str, **body: object) -> Json:
    answer = await ask(who, "POST", DRY, {"image": "busybox", **body})
    assert answer.code == 200, answer.body
    assert "Location" not in answer.headers
    return dict(json.loads(answer.body))


@pytest.mark.parametrize("path", ["/run?dry_run=1", "/start?dry_run=true"])
@pytest.mark.parametrize(
    ("kind", "more", "image"),
    [("service", {"networks": ["blue"], "secrets": ["key"]}, f"busybox@{DIGEST}"), ("container", {}, "busybox")],
)
async def test_it_answers_with_what_would_run(
    ask: Ask, home: InProcess, path: str, kind: str, more: Json, image: str
) -> None:
    """The fields without secrets, and the image with its digest; the engine is asked, but makes nothing."""
    body = {"image": "busybox", "type": kind, "env": {"A": "secret"}, "auth": AUTH, "wait": 60, **more}
    answer = await ask("root", "POST", path, body)
    assert answer.code == 200
    shown = {"image": "busybox", "env": ["A"], **({"type": kind} if kind == "container" else {}), **more}
    document = json.loads(answer.body)
    warnings = document.pop("warnings")
    assert document == {"success": True, "dry_run": True, "image": image, "spec": shown}
    assert [each.partition(":")[0] for each in warnings] == ["no_new_privileges"] * (kind == "service")
    assert home.engine.created() == []
    assert set(home.engine.asked()) <= {
        "pin",
        "check_image",
        "network_ids",
        "secret_ids",
        "config_ids",
        "service",
        "container",
    }
    assert len(json.loads((await ask("root", "GET", "/status")).body)["services"]) == 4


async def test_it_shows_what_the_token_adds(ask: Ask) -> None:
    """Its limits are the run's."""
    spec = (await dry(ask, "alice"))["spec"]
    assert (spec["memory"], spec["cpus"], spec["image"]) == (64, 0.5, "docker.io/library/busybox:latest")


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize("name", ["roots", "bobs-box"])
async def test_a_name_that_is_taken_is_told(ask: Ask, home: InProcess, kind: str, name: str) -> None:
    """409, as the run would be."""
    answer = await ask("root", "POST", DRY, {"image": "busybox", "name": name, "type": kind})
    assert answer.code == 409
    assert b"is taken" in answer.body


async def test_it_counts_for_nothing(ask: Ask, home: InProcess) -> None:
    """Neither as a run that has not ended nor as one of this minute; but where no run may be started, it is refused."""
    home.write(entry("alice", *LIMITS, "max_rate = 1"), BOB)
    home.server.token_file.load()  # type: ignore[union-attr]
    for _ in range(5):
        await dry(ask, "alice")
    assert (await ask("alice", "POST", "/run", {"image": "busybox"})).code == 200
    await dry(ask, "alice")
    home.write(ALICE.replace("max_running = 3", "max_running = 1"), BOB)
    home.server.token_file.load()  # type: ignore[union-attr]
    answer = await ask("alice", "POST", DRY, {"image": "busybox"})
    assert answer.code == 403
    assert b"max_running" in answer.body


async def test_a_key_is_not_used_up(ask: Ask, home: InProcess) -> None:
    """The run that has it next may have another body; but it is checked."""
    key = {"Idempotency-Key": "one"}
    for body in ({"image": "busybox", "memory": 64}, {"image": "busybox"}):
        assert (await ask("root", "POST", DRY, body, key)).code == 200
    answer = await ask("root", "POST", "/run", {"image": "busybox", "memory": 32}, key)
    assert (answer.code, answer.headers.get("Idempotency-Replayed")) == (200, None)
    assert (await ask("root", "POST", DRY, {"image": "busybox", "name": "a"}, key)).code == 400


@pytest.mark.parametrize("query", ["dry_run=maybe", "dry_run=1&dry_run=1", "dry_run=", "dry=1", "dryRun=1"])
async def test_a_wrong_query_starts_nothing(ask: Ask, home: InProcess, query: str) -> None:
    """400: whoever asks for a dry run in other words gets none that is not dry."""
    assert (await ask("root", "POST", f"/run?{query}", {"image": "busybox"})).code == 400
    assert home.engine.asked() == []


async def test_without_it_the_run_is_started(ask: Ask, home: InProcess) -> None:
    """`dry_run=0` is what is meant by default."""
    assert (await ask("root", "POST", "/run?dry_run=0", {"image": "busybox"})).code == 200
    assert len(home.engine.created()) == 1
