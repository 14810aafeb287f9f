"""What there is, as last listed, beside what was last told of it. The reconciler owns it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from ..engine.labels import BODY, END
from ..errors import JournalUnwritable
from ..events import cloudevents
from ..events.cloudevents import Event
from ..models.responses import ROOT, Node, Reserved, Result, Service, Task, masked
from . import attempts, ends, modes
from . import status as lifecycle

Json = Mapping[str, Any]

_NO_TASKS: dict[str, Json] = {}


class CachedRun:
    """A service or container: ``shown`` is what it is, ``told`` the last of it that the journal holds.

    ``body`` is the digest of the request that a run under a key was started with, else "".
    """

    __slots__ = ("_packed", "_raw", "_tasks", "body", "node_was_down", "seen", "shown", "state", "told")

    def __init__(self, shown: Service) -> None:
        self.shown = shown
        self.told: Service | None = None
        self.node_was_down = False
        self.body = ""
        self.seen = 0.0  # monotonic: when the listing began that it was last in
        self.state: int | None = None  # of the listing that it was last in; None where that says nothing
        self._raw: Json | None = None
        self._tasks: dict[str, Json] = {}
        self._packed: bytes | None = None

    @property
    def is_over(self) -> bool:
        """Whether it and all of its tasks have ended."""
        return self._packed is not None

    @property
    def raw(self) -> Json | None:
        """The service as it was listed, None of a container."""
        return self._unpacked()[0]

    @property
    def tasks(self) -> Mapping[str, Json]:
        """Its tasks as they were listed, by id."""
        return self._unpacked()[1]

    def keep(self, raw: Json | None, tasks: dict[str, Json]) -> None:
        """What ``shown`` was made of. Of what is over it is packed: that takes a fifth of the memory."""
        over = self.shown.status in ("complete", "failed") and all(map(_is_terminal, tasks.values()))
        self._packed = msgspec.msgpack.encode((raw, tasks)) if over else None
        self._raw, self._tasks = (None, _NO_TASKS) if over else (raw, tasks)

    def _unpacked(self) -> tuple[Json | None, dict[str, Json]]:
        if self._packed is None:
            return self._raw, self._tasks
        raw, tasks = msgspec.msgpack.decode(self._packed)
        return raw, tasks


def _for_owner(view: Service) -> Service:
    """As its owner may see it: one frame tells all of it."""
    return view if view.owner in (None, ROOT) else masked(view)


class Untold(NamedTuple):
    """What a commit has taken."""

    ids: frozenset[str]
    nodes: bool


class RunCache:
    """Entries and nodes by id.

    ``dirty`` are those that may have something to tell, ``going`` the services that have not ended, ``unstarted`` those
    that have, and were not seen to run.
    """

    def __init__(self) -> None:
        self.entries: dict[str, CachedRun] = {}
        self.nodes: dict[str, Json] = {}
        self._told_nodes: dict[str, Node] = {}
        self.dirty: set[str] = set()
        self.going: set[str] = set()
        self.unstarted: set[str] = set()
        self._nodes_dirty = False
        self.restored = False  # whether all that the journal has was put in

    # -- what the listings say -----------------------------------------------------------------------------------

    def restore(self, service: Service, body: str) -> None:
        """An entry as the journal has it; the next listing says what has come of it."""
        entry = self.entries.get(service.id) or self.entries.setdefault(service.id, CachedRun(service))
        entry.told, entry.body = service, body
        if entry.shown is not service:  # it was listed before this was read
            again = (
                ends.container_begun_again(entry.shown, entry.shown.started_at, service)
                if service.type == "container"
                else ends.tasks_begun_again(entry.shown, service, ())
            )
            entry.shown = ends.keep(entry.shown, service, again)
        self._note(entry)

    def restore_node(self, node: Node) -> None:
        self._told_nodes[node.id] = node

    def list_service(self, raw: Json, tasks: Collection[Json], seen: float) -> None:
        """A service with all its tasks, from a listing that began at ``seen``."""
        entry = self.entries.get(raw["ID"])
        if entry is not None and seen < entry.seen:  # an older answer that comes last
            return
        state = _state_of(raw, tasks)
        if entry is not None and entry.state == state is not None and (entry.is_over or _is_timeless(entry.raw)):
            entry.seen = max(entry.seen, seen)
            return
        known = entry.tasks if entry else {}
        slim = lifecycle.slim_service(raw)
        merged = {t["ID"]: lifecycle.grown(known.get(t["ID"]), lifecycle.slim_task(t)) for t in tasks}
        shown = self._view(slim, merged, entry)
        if entry is None:
            entry = self.entries[shown.id] = CachedRun(shown)
        entry.shown = entry.told if entry.told == shown else shown  # one of two equal ones is enough
        entry.state, entry.seen = state, max(entry.seen, seen)
        entry.keep(slim, merged)
        entry.body = (raw["Spec"].get("Labels") or {}).get(BODY, "")
        self._note(entry)

    def list_task(self, raw: Json) -> bool:
        """One task of a service; False where the service is not known."""
        entry = self.entries.get(raw["ServiceID"])
        if entry is None or entry.raw is None:
            return False
        known = entry.tasks.get(raw["ID"])
        if known is None or _moved(known, raw):
            entry.state = None
            grown = {raw["ID"]: lifecycle.grown(known, lifecycle.slim_task(raw))}
            self._show_again(entry, {**entry.tasks, **grown})
        return True

    def list_tasks(self, service_id: str, tasks: Collection[Json]) -> bool:
        """All tasks of a service; False where the service itself is to be read first.

        A task that is new, has ended or is missing may come of a change of its service, such as that it is being ended.
        """
        entry = self.entries.get(service_id)
        if entry is None or entry.raw is None or not tasks or entry.tasks.keys() != {task["ID"] for task in tasks}:
            return False
        if any(_is_terminal(task) and not _is_terminal(entry.tasks[task["ID"]]) for task in tasks):
            return False
        for task in tasks:
            self.list_task(task)
        return True

    def list_container(self, raw: Json, ending: str | None, seen: float) -> None:
        """A container, inspected by a call that began at ``seen``; an older answer that comes last is dropped."""
        entry = self.entries.get(raw["Id"])
        if entry is not None and seen < entry.seen:
            return
        before = entry.shown if entry else None
        shown = attempts.of_container(lifecycle.container(raw, ending, before), raw, before)
        again = ends.container_begun_again(shown, raw["State"].get("StartedAt"), before)
        shown = _for_owner(ends.keep(shown, before, again))
        if entry is None:
            entry = self.entries[shown.id] = CachedRun(shown)
        entry.seen, entry.shown = seen, shown
        entry.body = (raw["Config"].get("Labels") or {}).get(BODY, "")
        self._note(entry)

    def show_result(self, run_id: str, result: Result) -> bool:
        """What a run has said was read; False where it is not there, or runs again."""
        entry = self.entries.get(run_id)
        if entry is None or not (lifecycle.has_ended(entry.shown) or entry.shown.status in ("stopping", "removed")):
            return False
        entry.shown = ends.keep(msgspec.structs.replace(entry.shown, result=result), None, False)
        self._note(entry)
        return True

    def container_to_ask(self, run_id: str, node_id: str) -> str | None:
        """The container on a node that ran a service first of those there, where nothing else tells of its start."""
        entry = self.entries.get(run_id)
        there = [task for task in entry.shown.tasks if task.container_id and task.node_id == node_id] if entry else []
        if not there:
            self.unstarted.discard(run_id)
            return None
        return min(there, key=lambda task: task.updated_at or "").container_id

    def show_start(self, run_id: str, started_at: str | None) -> None:
        """When a service began to run, as its container tells; it is asked once."""
        self.unstarted.discard(run_id)
        entry = self.entries.get(run_id)
        if entry is not None and entry.shown.started_at is None and lifecycle.present(started_at):
            entry.shown = ends.keep(msgspec.structs.replace(entry.shown, started_at=started_at), None, False)
            self._note(entry)

    def vanish(self, gone_id: str, at: str, stopped: bool) -> None:
        """It is there no longer.

        Args:
            at: when that was (RFC 3339).
            stopped: whether quartermaster has removed it.
        """
        entry = self.entries.get(gone_id)
        if entry is None or entry.shown.status == "removed":
            return
        raw = entry.raw
        labels = (raw["Spec"].get("Labels") or {}) if raw else {}
        stopped = stopped or labels.get(END) == "stopped"
        over = entry.shown.status in lifecycle.OVER  # why it ended is not that it was removed afterwards
        reason = "stopped" if stopped and not over and entry.shown.reason != "timeout" else entry.shown.reason
        entry.shown = msgspec.structs.replace(entry.shown, status="removed", reason=reason, removed_at=at)
        entry.state = None  # where it comes back after all, it is looked at anew
        self._note(entry)

    def list_nodes(self, nodes: Iterable[Json]) -> None:
        """All nodes; the services that run on one whose state or name has changed are looked at again."""
        fresh = {raw["ID"]: raw for raw in nodes}
        changed = {i for i in fresh.keys() | self.nodes.keys() if _shows(fresh.get(i)) != _shows(self.nodes.get(i))}
        self.nodes = fresh
        self._nodes_dirty = True
        if changed:
            for entry in self.entries.values():
                if any(t.get("NodeID") in changed for t in entry.tasks.values()):
                    self._show_again(entry, dict(entry.tasks))

    # -- what there is to tell -----------------------------------------------------------------------------------

    def _untold(self, ids: Iterable[str], nodes: bool, now: str) -> Iterator[Event]:
        for dirty_id in ids:
            entry = self.entries.get(dirty_id)
            if entry:
                yield from cloudevents.of_service(entry.told, entry.shown, now)
        if nodes:
            fresh = {node.id: node for node in self.node_views()}
            for node_id in sorted(fresh.keys() | self._told_nodes.keys()):
                yield from cloudevents.of_node(self._told_nodes.get(node_id), fresh.get(node_id), now)

    def tell(self, told: Iterable[Event]) -> None:
        """These events are in the journal now."""
        for event in told:
            if isinstance(event.view, Node):
                self._tell_node(event)
            else:
                self._tell_service(event.view)

    def take_untold(self, ids: Iterable[str], nodes: bool, now: str) -> tuple[list[Event], Untold]:
        """Events that nobody was told of, and what to put back where they could not be told.

        Args:
            ids: of which services.
            nodes: whether of the nodes too.
        """
        untold = Untold(frozenset(ids) & self.dirty, self._nodes_dirty and nodes)
        fresh = list(self._untold(sorted(untold.ids), untold.nodes, now))
        self.dirty -= untold.ids
        self._nodes_dirty = self._nodes_dirty and not untold.nodes
        return fresh, untold

    def put_back(self, untold: Untold) -> None:
        self.dirty |= untold.ids
        self._nodes_dirty = self._nodes_dirty or untold.nodes

    # -- what is shown -------------------------------------------------------------------------------------------

    def services(self) -> list[Service]:
        return [entry.shown for entry in self.entries.values()]

    def told_services(self) -> list[Service]:
        """As of the journal's last event: what a snapshot shows.

        Raises:
            JournalUnwritable: the journal has not been read yet; what it has would be missing for good.
        """
        if not self.restored:
            raise JournalUnwritable("the journal has not been read yet; connect again")
        return [entry.told for entry in self.entries.values() if entry.told]

    def node_views(self) -> list[Node]:
        reserved = self._reserved()
        return [lifecycle.node(raw, reserved.get(i, Reserved(0, 0.0))) for i, raw in self.nodes.items()]

    def find(self, name_or_id: str, owner: str | None = None) -> CachedRun | None:
        """The entry of exactly this id or name; with an owner, of theirs."""
        entry = self.entries.get(name_or_id)
        if entry is not None and owner in (None, entry.shown.owner):
            return entry
        named = [
            entry
            for entry in self.entries.values()
            if entry.shown.name == name_or_id and owner in (None, entry.shown.owner)
        ]
        # A name may be taken again while the end of the one that had it is still to be told.
        return max(named, key=lambda e: (e.shown.status != "removed", e.shown.created_at or ""), default=None)

    def earlier(self, service_id: str) -> list[Task]:
        """The tasks of a service that had a container and are not shown, as others took their places; oldest first."""
        entry = self.entries.get(service_id)
        if entry is None or entry.raw is None:
            return []
        shown = {task.id for task in entry.shown.tasks}
        raws = [raw for raw in entry.tasks.values() if raw["ID"] not in shown and lifecycle.has_container(raw)]
        by_node = modes.by_node(entry.raw["Spec"])
        return [
            lifecycle.task(raw, self.nodes, by_node) for raw in sorted(raws, key=lambda raw: raw.get("CreatedAt") or "")
        ]

    def body(self, run_id: str) -> str:
        """The digest of the request that a run under a key was started with, else ""."""
        entry = self.entries.get(run_id)
        return entry.body if entry else ""

    def _show_again(self, entry: CachedRun, tasks: dict[str, Json]) -> None:
        raw = entry.raw
        if raw is not None and entry.shown.status != "removed":  # until that is told, nodes and tasks take it not back
            entry.shown = self._view(raw, tasks, entry)
            entry.keep(raw, tasks)
            self._note(entry)

    def _note(self, entry: CachedRun) -> None:
        """It is shown otherwise, perhaps."""
        shown = entry.shown
        self.dirty.add(shown.id)
        if shown.type == "service" and shown.status not in lifecycle.OVER:
            self.going.add(shown.id)
        else:
            self.going.discard(shown.id)

    def _view(self, raw: Json, tasks: Mapping[str, Json], entry: CachedRun | None) -> Service:
        before = entry.shown if entry else None
        was_down = entry is not None and (entry.node_was_down or entry.shown.status == "unknown")
        shown = lifecycle.service(raw, tasks.values(), self.nodes, datetime.now(UTC), before, was_down)
        if entry is not None and shown.status == "unknown":
            entry.node_was_down = True
        if END not in (raw["Spec"].get("Labels") or {}):  # what is being ended is tried no more
            shown = attempts.of_service(shown, raw, tasks.values(), before)
        again = ends.tasks_begun_again(shown, before, entry.tasks.keys() if entry else ())
        shown = _for_owner(ends.keep(shown, before, again))
        if shown.started_at is None and lifecycle.has_ended(shown) and not (before and lifecycle.has_ended(before)):
            self.unstarted.add(shown.id)
        return shown

    def _tell_service(self, view: Service) -> None:
        if view.status == "removed":
            self.entries.pop(view.id, None)
        else:
            self.entries[view.id].told = view

    def _tell_node(self, event: Event) -> None:
        if event.type.endswith(".removed"):
            self._told_nodes.pop(event.subject, None)
        elif isinstance(event.view, Node):
            self._told_nodes[event.subject] = event.view

    def _reserved(self) -> dict[str, Reserved]:
        totals: dict[str, Reserved] = {}
        for entry in self.entries.values():
            if entry.is_over or entry.raw is None:
                continue
            memory, cpus = lifecycle.reservation(entry.raw)
            for task in entry.tasks.values():
                node_id = task.get("NodeID")
                if node_id and task["Status"]["State"] not in lifecycle.TERMINAL:
                    had = totals.get(node_id, Reserved(0, 0.0))
                    totals[node_id] = Reserved(had.memory + memory, had.cpus + cpus)
        return totals


def _is_terminal(raw: Json) -> bool:
    return raw["Status"]["State"] in lifecycle.TERMINAL


def _is_timeless(raw: Json | None) -> bool:
    """Whether time alone changes nothing in how it is shown: no task of it is due again, and it is not being ended."""
    if raw is None:
        return False
    spec = raw["Spec"]
    policy = spec["TaskTemplate"].get("RestartPolicy") or {}
    return policy.get("Condition") == "none" and END not in (spec.get("Labels") or {})


def _state_of(raw: Json, tasks: Iterable[Json]) -> int | None:
    """A digest of the versions that Swarm gives a service and its tasks, which change with all that changes in them."""
    version = raw.get("Version")
    if not version:
        return None
    moves = ((task["ID"], task["Version"]["Index"], task["Status"]["State"]) for task in tasks)
    return hash((version["Index"], frozenset(moves)))


def _moved(known: Json, raw: Json) -> bool:
    """Whether a task reads otherwise; also why it waits, which the scheduler may say long after it began to."""
    before, after = known["Status"], raw["Status"]
    return (before["State"], before.get("Err"), known["DesiredState"]) != (
        after["State"],
        after.get("Err"),
        raw["DesiredState"],
    )


def _shows(raw: Json | None) -> tuple[str | None, ...]:
    """What services show of a node: its state, its name, and whether it takes tasks."""
    if not raw:
        return None, None, None
    status, description, spec = (raw.get(part) or {} for part in ("Status", "Description", "Spec"))
    return status.get("State"), description.get("Hostname"), spec.get("Availability")
