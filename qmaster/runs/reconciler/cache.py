"""Cache of all runs: the last listing, and what was last published. The reconciler owns it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from ...engine.labels import BODY, END
from ...errors import JournalUnwritable
from ...events import cloudevents
from ...events.cloudevents import Event
from ...models.functions import FunctionVersion
from ...models.invocations import InvocationView
from ...models.responses import ROOT, Node, Reserved, Result, Service, Task, masked, masker
from ...models.units import present
from ..views import attempts, container_status, run_view, status, task_status
from .functions import EndedInvocations, FunctionViews
from .nodes import NodeViews, reservation

Json = Mapping[str, Any]


class CachedRun:
    """A service or container.

    Attributes:
        current: the current view.
        name: what it is found by; that of the view, once the cache has noted it.
        published: the last published view, None if there is none.
        raw: the service as Docker lists it, None for a container.
        tasks: its tasks as Docker lists them, by id.
        body: the digest of the request if the run was started with a key, else "".
        node_was_down: whether a node that it ran on was down since it started.
        seen: when the last listing that has it began (monotonic).
    """

    __slots__ = ("body", "current", "name", "node_was_down", "published", "raw", "seen", "tasks")

    def __init__(self, current: Service) -> None:
        self.current = current
        self.name = ""
        self.published: Service | None = None
        self.raw: Json | None = None
        self.tasks: dict[str, Json] = {}
        self.body = ""
        self.node_was_down = False
        self.seen = 0.0

    def is_due(self) -> bool:
        """Return whether its status may change although the listing has not.

        A restart may be due, the run is being ended, or it was missing from the listing of a manager that was behind.
        """
        if self.raw is None or self.current.status == "removed":
            return True
        if self.current.status in ("complete", "failed"):
            return False
        policy = self.raw["Spec"]["TaskTemplate"].get("RestartPolicy") or {}
        return policy.get("Condition") != "none" or END in (self.raw["Spec"].get("Labels") or {})


def _for_owner(view: Service) -> Service:
    """Return the view as its owner may see it; one frame is shared by all subscribers."""
    return view if view.owner in (None, ROOT) else masked(view)


class Unpublished(NamedTuple):
    """The runs, nodes, functions and ends of invocations that a commit has taken."""

    ids: frozenset[str]
    nodes: bool
    functions: frozenset[str] = frozenset()
    ended: tuple[InvocationView, ...] = ()


class RunCache:
    """Runs by id, and the nodes and functions as the stream has them.

    ``dirty`` are the runs that may have unpublished changes, ``going`` the services that have not ended, ``unstarted``
    the services that have ended without being seen running.
    """

    def __init__(self) -> None:
        self.entries: dict[str, CachedRun] = {}
        self._named: dict[str, tuple[CachedRun, ...]] = {}  # each run that is started looks whether its name is taken
        self.nodes = NodeViews()
        self.functions = FunctionViews()
        self.ended = EndedInvocations()
        self.dirty: set[str] = set()
        self.going: set[str] = set()
        self.unstarted: set[str] = set()
        self.revision = 0  # grows with each change of ``services``
        self.restored = False  # whether the records of the journal are in the cache

    # -- listings ------------------------------------------------------------------------------------------------

    def restore(self, service: Service, body: str) -> None:
        """Add a run from its record in the journal; the next listing brings it up to date."""
        service = msgspec.structs.replace(service, spec=service.spec.copy())  # else it keeps all of the record
        entry = self.entries.get(service.id) or self.entries.setdefault(service.id, CachedRun(service))
        entry.published, entry.body = service, body
        if entry.current is not service:  # it was listed before the journal was read
            again = (
                container_status.begun_again(entry.current, entry.current.started_at, service)
                if service.type == "container"
                else status.begun_again(entry.current, service, ())
            )
            entry.current = run_view.keep(entry.current, service, again)
        self._note(entry)

    def list_service(self, raw: Json, tasks: Collection[Json], seen: float) -> None:
        """Update a service with all its tasks, from a listing that began at ``seen``."""
        entry = self.entries.get(raw["ID"])
        if entry is not None and seen < entry.seen:  # an older listing that arrives later
            return
        known = entry.tasks if entry else {}
        merged = {task["ID"]: task_status.grown(known.get(task["ID"]), task) for task in tasks}
        # Of 5,000 services few have changed. To compare the others takes a third of the time of a new view.
        if entry is not None and entry.raw == raw and known == merged and not entry.is_due():
            entry.seen = max(entry.seen, seen)
            return
        shown = self._view(raw, merged, entry)
        if entry is None:
            entry = self.entries[shown.id] = CachedRun(shown)
        # Of two equal views, keep one object.
        entry.current = entry.published if entry.published == shown else shown
        entry.raw, entry.tasks, entry.seen = raw, merged, max(entry.seen, seen)
        entry.body = (raw["Spec"].get("Labels") or {}).get(BODY, "")
        self._note(entry)

    def list_task(self, raw: Json) -> bool:
        """Update one task; return False if its service is unknown."""
        entry = self.entries.get(raw["ServiceID"])
        if entry is None or entry.raw is None:
            return False
        known = entry.tasks.get(raw["ID"])
        if known is None or _moved(known, raw):
            self._show_again(entry, {**entry.tasks, raw["ID"]: task_status.grown(known, raw)})
        return True

    def list_tasks(self, service_id: str, tasks: Collection[Json]) -> bool:
        """Update all tasks of a service; return False if the service itself has to be read first.

        A task that is new, has ended or is missing may be due to a change of the service: it may be being ended.
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
        """Update a container, inspected by a call that began at ``seen``; ignore an older answer that arrives later."""
        entry = self.entries.get(raw["Id"])
        if entry is not None and seen < entry.seen:
            return
        before = entry.current if entry else None
        shown = container_status.with_attempts(container_status.container(raw, ending, before), raw, before)
        if not ending:
            shown = attempts.with_attempts(shown, attempts.of_container(raw, shown.last_exit, before))
        again = container_status.begun_again(shown, raw["State"].get("StartedAt"), before)
        shown = _for_owner(run_view.keep(shown, before, again))
        if entry is None:
            entry = self.entries[shown.id] = CachedRun(shown)
        entry.seen, entry.current = seen, shown
        entry.body = (raw["Config"].get("Labels") or {}).get(BODY, "")
        self._note(entry)

    def show_result(self, run_id: str, result: Result) -> bool:
        """Add the result of a run; return False if the run is not in the cache, or runs again."""
        entry = self.entries.get(run_id)
        if entry is None or not (run_view.has_ended(entry.current) or entry.current.status in ("stopping", "removed")):
            return False
        entry.current = run_view.keep(msgspec.structs.replace(entry.current, result=result), None, False)
        self._note(entry)
        return True

    def container_to_ask(self, run_id: str, node_id: str) -> str | None:
        """Return the first container of a service on a node, to inspect for the unknown start of the service."""
        entry = self.entries.get(run_id)
        there = [task for task in entry.current.tasks if task.container_id and task.node_id == node_id] if entry else []
        if not there:
            self.unstarted.discard(run_id)
            return None
        return min(there, key=lambda task: task.updated_at or "").container_id

    def show_start(self, run_id: str, started_at: str | None) -> None:
        """Set when a service started, from its container, which is inspected once."""
        self.unstarted.discard(run_id)
        entry = self.entries.get(run_id)
        if entry is not None and entry.current.started_at is None and present(started_at):
            entry.current = run_view.keep(msgspec.structs.replace(entry.current, started_at=started_at), None, False)
            self._note(entry)

    def vanish(self, gone_id: str, at: str, stopped: bool) -> None:
        """Mark a run as removed.

        Args:
            gone_id: of the run.
            at: when it was removed (RFC 3339).
            stopped: whether quartermaster stopped it.
        """
        entry = self.entries.get(gone_id)
        if entry is None or entry.current.status == "removed":
            return
        raw = entry.raw
        labels = (raw["Spec"].get("Labels") or {}) if raw else {}
        stopped = stopped or labels.get(END) == "stopped"
        over = entry.current.status in run_view.OVER  # an end before the removal keeps its reason
        reason = "stopped" if stopped and not over and entry.current.reason != "timeout" else entry.current.reason
        entry.current = msgspec.structs.replace(entry.current, status="removed", reason=reason, removed_at=at)
        self._note(entry)

    def list_nodes(self, nodes: Iterable[Json]) -> None:
        """Replace all nodes; update the services with tasks on a node whose state or name has changed."""
        changed = self.nodes.replace(nodes)
        if changed:
            for entry in self.entries.values():
                if any(t.get("NodeID") in changed for t in entry.tasks.values()):
                    self._show_again(entry, dict(entry.tasks))

    # -- unpublished changes -------------------------------------------------------------------------------------

    def _events(self, ids: Iterable[str], nodes: bool, now: str) -> Iterator[Event]:
        for dirty_id in ids:
            entry = self.entries.get(dirty_id)
            if entry:
                yield from cloudevents.of_service(entry.published, entry.current, now)
        if nodes:
            yield from self.nodes.events(self._reserved(), now)

    def mark_published(self, events: Iterable[Event]) -> None:
        """Record that events are in the journal."""
        for event in events:
            if isinstance(event.view, Node):
                self.nodes.mark_published(event, event.view)
            elif isinstance(event.view, FunctionVersion):
                self.functions.mark_published(event, event.view)
            elif isinstance(event.view, Service):
                self._publish_service(event.view)

    def take_unpublished(self, ids: Iterable[str], nodes: bool, now: str) -> tuple[list[Event], Unpublished]:
        """Return the unpublished events, and what to ``put_back`` if they cannot be journaled.

        Args:
            ids: of the services to look at.
            nodes: whether to look at the nodes, the functions and the invocations too.
            now: the time (RFC 3339) of changes without a timestamp.
        """
        functions = frozenset(self.functions.dirty) if nodes else frozenset()
        ended = tuple(self.ended.take()) if nodes else ()
        unpublished = Unpublished(frozenset(ids) & self.dirty, self.nodes.dirty and nodes, functions, ended)
        fresh = list(self._events(sorted(unpublished.ids), unpublished.nodes, now))
        fresh += self.functions.events(functions, now)
        fresh += map(cloudevents.of_invocation, ended)
        self.dirty -= unpublished.ids
        self.functions.dirty -= functions
        self.nodes.dirty = self.nodes.dirty and not unpublished.nodes
        return fresh, unpublished

    def put_back(self, unpublished: Unpublished) -> None:
        """Mark what could not be published, so that the next commit publishes it."""
        self.dirty |= unpublished.ids
        self.functions.dirty |= unpublished.functions
        self.ended.put_back(unpublished.ended)
        self.nodes.dirty = self.nodes.dirty or unpublished.nodes

    # -- views ---------------------------------------------------------------------------------------------------

    def services(self) -> list[Service]:
        """Return the current views of all services and containers."""
        return [entry.current for entry in self.entries.values()]

    def published_services(self) -> list[Service]:
        """Return the services as of the journal's last event, for a snapshot.

        Raises:
            JournalUnwritable: the journal has not been read yet, so that its runs would be missing.
        """
        if not self.restored:
            raise JournalUnwritable("the journal has not been read yet; connect again")
        return [entry.published for entry in self.entries.values() if entry.published]

    def node_views(self, with_reserved: bool = True) -> list[Node]:
        """Return the nodes. To count reservations takes tens of ms with 5,000 tasks, so only where they are shown."""
        return self.nodes.views(self._reserved() if with_reserved else {})

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        """Return the run with exactly this id or name, of one owner or of all."""
        entry = self._find(name_or_id, owner)
        return entry.current if entry else None

    def keyed(self, name: str) -> tuple[Service, str] | None:
        """Return the run with this name, and the digest of the request that started it."""
        entry = self._find(name)
        return None if entry is None or entry.current.name != name else (entry.current, entry.body)

    def ends_within(self, service_id: str) -> float:
        """Return the seconds that the tasks of a service may take to end."""
        entry = self.entries.get(service_id)
        return status.ends_within(entry.raw if entry else None).total_seconds()

    def _find(self, name_or_id: str, owner: str | None = None) -> CachedRun | None:
        entry = self.entries.get(name_or_id)
        if entry is not None and owner in (None, entry.current.owner):
            return entry
        named = [entry for entry in self._named.get(name_or_id, ()) if owner in (None, entry.current.owner)]
        # A name may be taken again before the removal of its previous run is published.
        return max(named, key=lambda e: (e.current.status != "removed", e.current.created_at or ""), default=None)

    def earlier(self, service_id: str) -> list[Task]:
        """Return a service's earlier tasks that had a container and were replaced, the oldest first."""
        entry = self.entries.get(service_id)
        if entry is None or entry.raw is None:
            return []
        shown = {task.id for task in entry.current.tasks}
        raws = [raw for raw in entry.tasks.values() if raw["ID"] not in shown and task_status.has_container(raw)]
        by_node = task_status.is_per_node(entry.raw["Spec"])
        return [
            task_status.task(raw, self.nodes.listed, by_node)
            for raw in sorted(raws, key=lambda raw: raw.get("CreatedAt") or "")
        ]

    def body(self, run_id: str) -> str:
        """Return the digest of the request if the run was started with a key, else ""."""
        entry = self.entries.get(run_id)
        return entry.body if entry else ""

    def _show_again(self, entry: CachedRun, tasks: dict[str, Json]) -> None:
        raw = entry.raw
        if raw is not None and entry.current.status != "removed":  # no task or node undoes a removal
            entry.current = self._view(raw, tasks, entry)
            entry.tasks = tasks
            self._note(entry)

    def _note(self, entry: CachedRun) -> None:
        """Record that the view of a run may have changed."""
        shown = entry.current
        if entry.name != shown.name:  # it is new, or a container that was renamed
            self._forget_name(entry)
            entry.name = shown.name
            self._named[shown.name] = (*self._named.get(shown.name, ()), entry)
        self.revision += 1
        self.dirty.add(shown.id)
        if shown.type == "service" and shown.status not in run_view.OVER:
            self.going.add(shown.id)
        else:
            self.going.discard(shown.id)

    def _forget_name(self, entry: CachedRun) -> None:
        others = tuple(each for each in self._named.pop(entry.name, ()) if each is not entry)
        if others:
            self._named[entry.name] = others

    def _view(self, raw: Json, tasks: Mapping[str, Json], entry: CachedRun | None) -> Service:
        before = entry.current if entry else None
        was_down = entry is not None and (entry.node_was_down or entry.current.status == "unknown")
        shown = status.service(raw, tasks.values(), self.nodes.listed, datetime.now(UTC), before, was_down)
        if entry is not None and shown.status == "unknown":
            entry.node_was_down = True
        if END not in (raw["Spec"].get("Labels") or {}):  # a run that is being ended is not restarted
            shown = status.with_attempts(shown, raw, tasks.values(), before)
        hide = str if shown.owner in (None, ROOT) else masker(shown)
        shown = attempts.with_attempts(shown, attempts.of_service(raw, tasks.values(), before, hide))
        again = status.begun_again(shown, before, entry.tasks.keys() if entry else ())
        shown = _for_owner(run_view.keep(shown, before, again))
        if shown.started_at is None and run_view.has_ended(shown) and not (before and run_view.has_ended(before)):
            self.unstarted.add(shown.id)
        return shown

    def _publish_service(self, view: Service) -> None:
        if view.status == "removed":
            gone = self.entries.pop(view.id, None)
            if gone is not None:
                self._forget_name(gone)
            self.revision += 1
        else:
            self.entries[view.id].published = view

    def _reserved(self) -> dict[str, Reserved]:
        totals: dict[str, Reserved] = {}
        for entry in self.entries.values():
            for task in entry.tasks.values():
                node_id = task.get("NodeID")
                if node_id and entry.raw is not None and not _is_terminal(task):
                    memory, cpus = reservation(entry.raw)
                    had = totals.get(node_id, Reserved(0, 0.0))
                    totals[node_id] = Reserved(had.memory + memory, had.cpus + cpus)
        return totals


def _is_terminal(raw: Json) -> bool:
    return raw["Status"]["State"] in task_status.TERMINAL


def _moved(known: Json, raw: Json) -> bool:
    """Return whether a task has changed, also in its error: the scheduler may give the reason for a wait late."""
    before, after = known["Status"], raw["Status"]
    return (before["State"], before.get("Err"), known["DesiredState"]) != (
        after["State"],
        after.get("Err"),
        raw["DesiredState"],
    )
