"""Pure: the attempts of a run that ended and were followed by another: ``restarts`` and ``last_exit``.

Swarm keeps five tasks of a slot, and Docker the last end of a container: what was counted before is in the view before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from ..models.responses import LastExit, Service
from . import modes
from . import status as lifecycle

Json = Mapping[str, Any]

ENDED = frozenset({"complete", "failed", "rejected"})  # of their own accord: an update or a stop shuts a task down


def of_service(shown: Service, raw: Json, tasks: Collection[Json], before: Service | None) -> Service:
    """The view of a service with its attempts counted.

    Args:
        shown: the service as it is.
        raw: the service, as Docker lists it.
        tasks: its tasks, as Docker lists them.
        before: what was last said of it. What it showed of each slot, and all older tasks there, is counted.
    """
    told = frozenset(task.id for task in before.tasks) if before else frozenset()
    current = frozenset(task.id for task in shown.tasks)
    chains = _by_place(modes.counted(raw, tasks, {}), modes.by_node(raw["Spec"]))
    fresh = [task for chain in chains for task in _between(chain, told, current) if task["Status"]["State"] in ENDED]
    last = before.last_exit if before else None
    if fresh:
        last = _exit_of(max(fresh, key=lifecycle.updated))
    return msgspec.structs.replace(shown, restarts=(before.restarts if before else 0) + len(fresh), last_exit=last)


def of_container(shown: Service, raw: Json, before: Service | None) -> Service:
    """As ``of_service``, for a container that Docker restarts itself.

    Args:
        raw: the container, as Docker inspects it.
    """
    last, state = before.last_exit if before else None, raw["State"]
    count, at = raw.get("RestartCount") or 0, lifecycle.present(state.get("FinishedAt"))
    waits = state.get("Status") == "restarting"  # else Docker tells another code, or none, but still when
    if count and at and (waits or (state.get("Running") and (last is None or last.finished_at != at))):
        last = LastExit(state.get("ExitCode"), state.get("Error") or None, at) if waits else LastExit(None, None, at)
    return msgspec.structs.replace(shown, restarts=max(count, before.restarts if before else 0), last_exit=last)


def _by_place(tasks: Iterable[Json], by_node: bool) -> Iterable[list[Json]]:
    """The tasks of each slot or node, the oldest first."""
    chains: dict[tuple[int, str], list[Json]] = {}
    for raw in sorted(tasks, key=lifecycle.age):
        chains.setdefault(modes.place(raw, by_node), []).append(raw)
    return chains.values()


def _between(chain: list[Json], told: Collection[str], current: Collection[str]) -> list[Json]:
    """Those from the one that was shown last on, before the one that is shown now: it may be the last of all."""
    start = next((at for at, raw in enumerate(chain) if raw["ID"] in told), 0)
    end = next((at for at, raw in enumerate(chain) if raw["ID"] in current), len(chain) - 1)
    return chain[start:end]


def _exit_of(raw: Json) -> LastExit:
    status = raw["Status"]
    return LastExit(lifecycle.exit_code(raw), status.get("Err") or None, status.get("Timestamp"))
