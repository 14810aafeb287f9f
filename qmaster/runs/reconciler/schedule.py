"""Pure: when the reconciler looks at which services, containers and nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, KeysView, Set
from typing import NamedTuple

# Shortest and longest pause between two looks at a service, in seconds. Swarm takes 0.3 s to start a task: a look at
# once would find nothing new, and delay the next create.
SOON, LATER = 0.02, 1.0
# The pause after a look, as a share of the time since the service's last news; events are late by at most that share.
PAUSE_SHARE = 0.1
# Shares of the time that looks may take, so that a slow engine, or one with many services, has time for other calls.
# A twentieth for looks at single services was too little: one slow look caused a pause of a second.
LOOK_SHARE, SWEEP_SHARE = 0.2, 0.05
# Longest such pause in seconds, as no end should be late by minutes because an engine is slow. A call to list takes at
# most three seconds, so listings still take less than a sixth of the time.
LONGEST_REST = 15.0
# Seconds between listings of everything: the engine silently drops events for a slow reader.
FULL_EVERY = 60.0


class Due(NamedTuple):
    """What to look at now.

    ``everything`` includes the rest. The tasks of ``services`` are listed; those of them in ``whole`` are also read
    themselves, as their labels may have changed. ``wanted``: list the tasks that Swarm wants running (a sweep).
    """

    everything: bool = False
    nodes: bool = False
    containers: Collection[str] = ()
    services: Collection[str] = ()
    whole: Collection[str] = ()
    wanted: bool = False


class _Look(NamedTuple):
    """A young service: the time of its last news, when its next look is due, and whether to read the service too."""

    news: float
    due: float
    whole: bool


class _Budget:
    """A share of the time: a look is followed by a pause, at most ``LONGEST_REST``.

    The shorter of the last two looks counts, so that a single slow one has no effect.
    """

    def __init__(self, share: float) -> None:
        self.free_at = 0.0
        self._factor = 1 / share - 1
        self._before = 0.0

    def spend(self, began: float, ended: float) -> None:
        took = ended - began
        self.free_at = ended + min(min(took, self._before) * self._factor, LONGEST_REST)
        self._before = took


class Schedule:
    """The due times of all looks. Times are of one monotonic clock, in seconds.

    News of a service are that it was created, hinted, or changed. A service is young until it has ended, or a tenth of
    the time since its last news exceeds ``LATER``.
    """

    def __init__(self) -> None:
        self._young: dict[str, _Look] = {}
        self._containers: set[str] = set()
        self._nodes = False
        self._full_at = 0.0
        self._failed = False  # if so, only a listing of everything is due
        self._sweep_at = 0.0
        self._looks, self._sweeps = _Budget(LOOK_SHARE), _Budget(SWEEP_SHARE)

    @property
    def young(self) -> KeysView[str]:
        """The ids of the services that had news lately, which are looked at one by one."""
        return self._young.keys()

    def news(self, service_id: str, now: float, whole: bool = False) -> float:
        """Record news of a service; return when its next look is due."""
        before = self._young.get(service_id)
        due = now + SOON if before is None else min(before.due, now + SOON)
        self._young[service_id] = _Look(now, due, whole or (before is not None and before.whole))
        return max(due, self._looks.free_at)

    def news_of_container(self, container_id: str) -> None:
        """Make a look at a container due now, as no listing is scheduled for it."""
        self._containers.add(container_id)

    def news_of_nodes(self) -> None:
        """Make a listing of the nodes due now."""
        self._nodes = True

    def relist(self, now: float) -> None:
        """Make a listing of everything due now, as the event stream was reopened and may have missed events."""
        self._full_at = now

    def failed(self, now: float) -> None:
        """Make only a listing of everything due, after a pause, as a turn has failed halfway."""
        self._full_at, self._failed = now + LATER, True
        self._young = {each: look._replace(due=min(look.due, now + LATER)) for each, look in self._young.items()}

    def forget(self, service_id: str) -> None:
        """Forget a removed service."""
        self._young.pop(service_id, None)

    def next(self, going: Set[str]) -> float:
        """Return when the next look is due.

        Args:
            going: the services that have not ended.
        """
        if self._failed:
            return self._full_at
        if self._nodes or self._containers:
            return 0.0
        due = self._full_at
        if self._young:
            due = min(due, max(self._looks.free_at, min(look.due for look in self._young.values())))
        return min(due, self._sweep_at) if self._has_settled(going) else due

    def take(self, now: float, going: Set[str]) -> Due:
        """Return what is due, and mark it as begun.

        Args:
            now: the current time.
            going: the services that have not ended.
        """
        if now >= self._full_at:
            self._full_at, self._failed = now + FULL_EVERY, False
            self._nodes = False
            return Due(everything=True)
        due = [each for each, look in self._young.items() if look.due <= now] if self._looks.free_at <= now else []
        whole = [each for each in due if self._young[each].whole]
        for each in due:  # a hint from now on makes it due again
            self._young[each] = self._young[each]._replace(due=math.inf, whole=False)
        nodes, self._nodes = self._nodes, False
        containers, self._containers = self._containers, set()
        return Due(False, nodes, containers, due, whole, now >= self._sweep_at and self._has_settled(going))

    def looked(self, services: Iterable[str], began: float, ended: float, goes_on: Callable[[str], bool]) -> None:
        """Mark looks as done, and schedule the next ones.

        Args:
            services: the services that were due.
            began: when the looks began.
            ended: when they ended.
            goes_on: returns whether a service has not ended.
        """
        self._looks.spend(began, ended)
        for each in services:
            look = self._young.get(each)
            if look is None:
                continue
            pause = max(SOON, (ended - look.news) * PAUSE_SHARE)
            if pause <= LATER and goes_on(each):
                self._young[each] = look._replace(due=min(look.due, ended + pause))
            elif look.due == math.inf:
                del self._young[each]

    def swept(self, began: float, ended: float) -> None:
        """Mark a sweep as done, and schedule the next one."""
        self._sweeps.spend(began, ended)
        self._sweep_at = max(began + LATER, self._sweeps.free_at)

    def _has_settled(self, going: Set[str]) -> bool:
        """Return whether some service has not ended and is not young, so that only sweeps look at it."""
        return not going <= self._young.keys()
