"""Pure: views of Docker's containers. A container is shown as a service without tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ...engine.subfolders import explained
from ...models.responses import LastExit, Replicas, Service
from ...models.units import cores, mib, parse_time, present
from .run_view import Verdict, make_view

Json = Mapping[str, Any]


def container(raw: Json, ending: str | None = None, before: Service | None = None) -> Service:
    """Return the view of a plain container: a service of type ``container`` without tasks.

    Args:
        raw: the container, as Docker inspects it.
        ending: why it is being ended, None if it is not; no label says it, as Docker cannot change labels.
        before: the last view.
    """
    config, state, host = raw["Config"], raw["State"], raw["HostConfig"]
    labels = config.get("Labels") or {}
    verdict = left_alone = _judge(state)
    ended = state.get("Status") in ("exited", "dead")
    if ending == "timeout":
        verdict = Verdict("failed" if ended else "stopping", "timeout", verdict.error, verdict.exit_code)
    elif ending:
        verdict = Verdict("stopping", "stopped", verdict.error, verdict.exit_code)
    return make_view(
        verdict,
        labels,
        before.result if before and ended else None,
        id=raw["Id"],
        type="container",
        name=raw["Name"].removeprefix("/"),
        image=config["Image"],
        command=config.get("Cmd"),
        replicas=Replicas(
            desired=1,
            running=int(left_alone.status == "running"),
            complete=int(verdict.status == "complete"),
            failed=int(left_alone.status in ("complete", "failed") and verdict.status != "complete"),
        ),
        created_at=raw.get("Created"),
        # Of the first run: Docker moves it with each restart.
        started_at=(before.started_at if before else None) or present(state.get("StartedAt")),
        finished_at=present(state.get("FinishedAt")) if ended else None,
        memory=mib(host.get("Memory")),
        cpus=cores(host.get("NanoCpus")),
        tasks=[],
    )


def with_attempts(shown: Service, raw: Json, before: Service | None) -> Service:
    """Return the view of a container with its attempts counted, as Docker restarts it.

    Args:
        shown: the view without attempts.
        raw: the container, as Docker inspects it.
        before: the last view.
    """
    last, state = before.last_exit if before else None, raw["State"]
    count, at = raw.get("RestartCount") or 0, present(state.get("FinishedAt"))
    waits = state.get("Status") == "restarting"  # otherwise Docker shows another exit code or none, but still the time
    if count and at and (waits or (state.get("Running") and (last is None or last.finished_at != at))):
        last = LastExit(state.get("ExitCode"), explained(state.get("Error")), at) if waits else LastExit(None, None, at)
    return msgspec.structs.replace(shown, restarts=max(count, before.restarts if before else 0), last_exit=last)


def begun_again(shown: Service, started_at: str | None, before: Service | None) -> bool:
    """Return whether a container has started again since the end that the last view shows.

    For a very short container Docker may show a start after the end, which changes only with another start.

    Args:
        shown: the new view.
        started_at: Docker's time of the last start.
        before: the last view.
    """
    if before is None or before.finished_at is None:
        return False
    if shown.status in ("running", "pending"):
        return True
    started, finished = parse_time(started_at), parse_time(before.finished_at)
    return bool(
        shown.finished_at and shown.finished_at != before.finished_at and started and finished and started > finished
    )


def _judge(state: Json) -> Verdict:
    """Return the status of a plain container from its ``State``."""
    word, code = state.get("Status"), state.get("ExitCode")
    if word in ("running", "paused"):
        return Verdict("running")
    if word == "created":
        return (
            Verdict("failed", "rejected", explained(state["Error"]), code)
            if state.get("Error")
            else Verdict("preparing")
        )
    if word == "restarting":
        return Verdict("pending")
    if word == "removing":
        return Verdict("stopping")
    if code == 0:
        return Verdict("complete", "exit", None, 0)
    return Verdict("failed", "oom" if state.get("OOMKilled") else "exit", explained(state.get("Error")), code)
