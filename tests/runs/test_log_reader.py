"""LogReader: the engine's logs and the journal's as one, each line once. (Real engines are in test_logs.)"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from fakes import CREATED, FakeSwarm, container, node, task

from qmaster.engine.errors import EngineTimeout
from qmaster.engine.logs import LogReaders, LogRequest, Message, OpenLog
from qmaster.errors import EngineAway, HttpError, NotFound, TooManyReaders
from qmaster.events.journal import Journal
from qmaster.models import results
from qmaster.models.responses import Node, Reserved, Service
from qmaster.models.results import Line, Outcome, TaskOutput
from qmaster.runs import logs
from qmaster.runs.logs import LogQuery, LogReader, Piece, Source
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.views import container_status, task_status

Script = list[list[Message] | HttpError | Callable[[], None]]

NODES = {"n1": node("n1"), "n2": node("n2", hostname="host-2")}
T1, T2 = "t-running-1", "t-running-2"


def at(second: int) -> str:
    return f"2026-11-24T19:10:{second:02}.000000000Z"


def said(second: int, text: str, source: Source = "stdout", task_id: str | None = None, node_id: str = "n1") -> Message:
    """What the engine sends; with a task where a whole service is read."""
    assert source != "qmaster"
    return Message(at(second), source, text.encode(), node_id if task_id else None, task_id)


class Components:
    """A run, its tasks as Docker lists them, and what each reading of it gives.

    A script is the batches of one reading, errors that end it, and calls that change the world in between.
    """

    def __init__(self, *tasks: Any, kind: str = "service") -> None:
        self.swarm = FakeSwarm(tasks=tasks)
        self.kind = kind
        self.scripts: dict[tuple[str, bool], list[Script]] = {}
        self.requests: list[LogRequest] = []
        self.slots = 0
        self.status = "running"
        self.finished: str | None = None
        self.kept: Outcome | None = None
        self.down: set[str] = set()
        self.closed = 0

    def gives(self, target: str, *script: Any, follow: bool = False) -> None:
        """The next reading of it."""
        self.scripts.setdefault((target, follow), []).append(list(script))

    def open(self, request: LogRequest) -> "FakeReading":
        self.requests.append(request)
        scripts = self.scripts.get((request.id, request.follow), [])
        return FakeReading(self, scripts.pop(0) if scripts else [], request.follow)

    @property
    def log_reader(self) -> LogReader:
        return LogReader(self.swarm, FakeReaders(self), FakeJournal(self), FakeCache(self))

    def view(self) -> Service:
        shown = container_status.container(container("s1")) if self.kind == "container" else self._service()
        over: dict[str, Any] = {"status": self.status, "finished_at": self.finished}
        return Service(**{**{name: getattr(shown, name) for name in shown.__struct_fields__}, **over})

    def _service(self) -> Service:
        shown = container_status.container(container("s1"))
        fields = {name: getattr(shown, name) for name in shown.__struct_fields__}
        tasks = [task_status.task(raw, NODES) for raw in self.swarm.its_tasks]
        return Service(**{**fields, "type": "service", "tasks": tasks})

    def nodes(self) -> list[Node]:
        raws = [{**raw, "Status": {"State": "down" if i in self.down else "ready"}} for i, raw in NODES.items()]
        return [
            Node(
                id=raw["ID"], hostname=raw["Description"]["Hostname"], role="worker", state=raw["Status"]["State"],
                availability="active", address=None, engine=None, memory=1, cpus=1.0, reserved=Reserved(0, 0.0),
                leader=False,
            )
            for raw in raws
        ]  # fmt: skip

    def end(self, status: str = "complete") -> Callable[[], None]:
        """Something that ends the run, as a step of a script."""

        def step() -> None:
            self.status, self.finished = status, CREATED

        return step

    def read(self, **wanted: Any) -> list[Piece]:
        """All pieces of one flow."""
        self.batches: list[list[Piece]] = []

        async def run() -> list[Piece]:
            async with asyncio.timeout(20):
                async for batch in self.log_reader.flow(self.view(), LogQuery(**wanted)):
                    self.batches.append(batch)
            return [piece for batch in self.batches for piece in batch]

        return asyncio.run(run())

    def texts(self, **wanted: Any) -> list[str]:
        return [piece.data.decode() for piece in self.read(**wanted)]


class FakeReaders(LogReaders):
    def __init__(self, parts: Components) -> None:
        self._parts = parts

    @contextlib.contextmanager
    def slot(self) -> Iterator[Callable[[LogRequest], OpenLog]]:
        if self._parts.slots < 0:
            raise TooManyReaders("full")
        self._parts.slots += 1
        try:
            yield self._parts.open
        finally:
            self._parts.slots -= 1


class FakeJournal(Journal):
    def __init__(self, parts: Components) -> None:
        self._parts = parts

    async def outcome(self, run_id: str) -> bytes | None:
        return results.encode(self._parts.kept) if self._parts.kept else None


class FakeCache(RunCache):
    def __init__(self, parts: Components) -> None:
        self._parts = parts

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        return self._parts.view()

    def node_views(self, with_reserved: bool = True) -> list[Node]:
        assert not with_reserved  # a look at every task there is, each second
        return self._parts.nodes()


class FakeReading(OpenLog):
    def __init__(self, parts: Components, script: Script, follow: bool) -> None:
        self._parts, self._script, self._follow = parts, script, follow

    def __exit__(self, *raised: object) -> None:
        self._parts.closed += 1

    async def take(self) -> list[Message]:
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, HttpError):
                raise step
            if isinstance(step, list):
                return step
            step()
        if self._follow:
            await asyncio.Event().wait()  # Docker's follow of a service never ends
        return []


def kept(*lines: Line, truncated: bool = False, task_id: str | None = T1, host: str | None = "host-1") -> TaskOutput:
    return TaskOutput(task_id, 1, host, 0, results.Output(list(lines), truncated))


def test_tasks_come_one_after_the_other_the_oldest_first() -> None:
    """Each piece says which task it is of, and on which node; a task that never was on one is not asked."""
    parts = Components(
        task("running", 2, NodeID="n2", CreatedAt=at(9)),
        task("running", 1, CreatedAt=at(1)),
        task("pending", 3, NodeID=""),
    )
    parts.gives(T1, [said(3, "a\n"), said(3, "e\n", "stderr")], [said(4, "b\n")])
    parts.gives(T2, [said(1, "c\n")])
    assert parts.read() == [
        Piece(at(3), "stdout", b"a\n", "host-1", T1),
        Piece(at(3), "stderr", b"e\n", "host-1", T1),
        Piece(at(4), "stdout", b"b\n", "host-1", T1),
        Piece(at(1), "stdout", b"c\n", "host-2", T2),
    ]
    assert [request.id for request in parts.requests] == [T1, T2]
    assert parts.slots == 0


def test_following_tells_each_line_once() -> None:
    """What was said so far, what is said now, and the rest after the end overlap."""
    parts = Components(task("running"))
    parts.gives(T1, [said(1, "one\n"), said(2, "two\n")])
    live = [said(s, text, task_id=T1) for s, text in ((1, "one\n"), (2, "two\n"), (3, "three\n"), (3, "3b\n"))]
    parts.gives("s1", live[:2], live[2:], parts.end(), follow=True)
    parts.gives(T1, [said(2, "two\n"), said(3, "three\n"), said(3, "3b\n"), said(3, "3c\n"), said(4, "four")])
    assert parts.texts(follow=True) == ["one\n", "two\n", "three\n", "3b\n", "3c\n", "four"]
    assert parts.closed == len(parts.requests) == 3
    assert [request.follow for request in parts.requests] == [False, True, False]


def test_following_waits_for_what_has_not_begun() -> None:
    """And takes in tasks that it did not know of."""
    parts = Components()
    parts.status = "pending"

    def begin() -> None:
        parts.swarm.its_tasks = [task("running", NodeID="n2")]
        parts.status = "running"

    parts.gives("s1", begin, [said(1, "one\n", task_id=T1, node_id="n2")], parts.end(), follow=True)
    parts.gives(T1, [said(1, "one\n"), said(2, "two\n")])
    assert parts.read(follow=True) == [
        Piece(at(1), "stdout", b"one\n", "host-2", T1),
        Piece(at(2), "stdout", b"two\n", "host-2", T1),
    ]


def test_what_has_ended_is_not_followed() -> None:
    """Nor what is being stopped, when its tasks have ended; but while one still runs it is."""
    for status, finished in (("complete", CREATED), ("failed", CREATED), ("stopping", CREATED)):
        parts = Components(task("complete"))
        parts.status, parts.finished = status, finished
        parts.gives("t-complete-1", [said(1, "one\n")])
        assert parts.texts(follow=True) == ["one\n"]
        assert len(parts.requests) == 1
    parts = Components(task("running"))
    parts.status = "stopping"
    parts.gives("s1", [said(1, "last words\n", task_id=T1)], parts.end("stopping"), follow=True)
    assert parts.texts(follow=True) == ["last words\n"]


def test_what_ends_while_it_is_read_first_is_read_to_its_end() -> None:
    """A large beginning takes longer than the run: what it writes meanwhile is not in that reading."""
    parts = Components(kind="container")
    parts.gives("s1", [said(1, "one\n")], parts.end())
    parts.gives("s1", [said(1, "one\n"), said(2, "last words", "stderr")])
    assert parts.texts(follow=True) == ["one\n", "last words"]


def test_a_container_is_one_origin() -> None:
    """It has no task and no node, and a follow of it ends by itself."""
    parts = Components(kind="container")
    parts.gives("s1", [said(1, "one\n")])
    parts.gives("s1", [said(2, "two\n")], parts.end(), [], follow=True)
    parts.gives("s1", [said(2, "two\n"), said(3, "end")])
    assert parts.read(follow=True) == [
        Piece(at(second), "stdout", text, None, None) for second, text in ((1, b"one\n"), (2, b"two\n"), (3, b"end"))
    ]
    assert {request.kind for request in parts.requests} == {"container"}


def test_what_is_gone_comes_from_the_journal() -> None:
    """No slot is needed for it; a result that was cut says so first."""
    parts = Components()
    parts.status = "removed"
    parts.kept = Outcome([kept(Line(at(1), "stdout", b"a\n"), Line(at(2), "stderr", b"e\n"), truncated=True)])
    parts.slots = -1
    words = Piece("", "qmaster", b"only the end of its output was kept\n", "host-1", T1)
    assert parts.read() == [
        words,
        Piece(at(1), "stdout", b"a\n", "host-1", T1),
        Piece(at(2), "stderr", b"e\n", "host-1", T1),
    ]
    assert parts.texts(streams=("stderr",))[1:] == ["e\n"]
    assert parts.texts(tail=1) == ["e\n"]
    first = kept(Line(at(0), "stdout", b"first\n"), task_id="t-0")
    parts.kept = Outcome([kept(Line(at(1), "stdout", b"again\n"))], [first])
    assert parts.texts() == ["first\n", "again\n"]
    parts.kept = None
    assert parts.texts(follow=True) == ["the run was removed; its output was not kept\n"]


def test_what_goes_while_it_is_followed_is_told_to_its_end() -> None:
    """The rest comes from the journal, without what was told; where that has nothing, it says so."""
    for outcome, rest in (
        (Outcome([kept(*(Line(at(s), "stdout", b"%d\n" % s) for s in (1, 2)), truncated=True)]), "2\n"),
        (None, "the run was removed; the end of its output may be missing\n"),
    ):
        parts = Components(task("running"))
        parts.kept = outcome

        def remove(parts: Components = parts) -> None:
            parts.swarm.its_tasks = []
            parts.status = "removed"

        parts.gives(T1, [said(1, "1\n")])
        parts.gives("s1", remove, NotFound("no such service"), follow=True)
        assert parts.texts(follow=True) == ["1\n", rest]


@pytest.mark.parametrize(
    ("sent", "whole", "rest"),
    [
        (3, False, ["the end of its output may be missing\n", "last\n"]),
        (1, False, ["the end of its output may be missing\n", "x", "last\n"]),
        (3, True, ["last\n"]),
    ],
)
def test_a_long_line_whose_beginning_was_not_kept_says_so(sent: int, whole: bool, rest: list[str]) -> None:
    """Its parts have one time, so which of them were sent is not known; none is sent twice, none missing in silence."""
    parts = Components(task("running"))
    tail = [Line(at(1), "stdout", b"x")] * (3 if whole else 2)
    parts.kept = Outcome([kept(*tail, Line(at(2), "stdout", b"last\n"), truncated=not whole)])

    def remove() -> None:
        parts.status, parts.swarm.its_tasks = "removed", []

    parts.gives("s1", [said(1, "x", task_id=T1)] * sent, remove, NotFound("no such service"), follow=True)
    assert parts.texts(follow=True) == [*["x"] * sent, *rest]


@pytest.mark.parametrize("words", [None, "Error grabbing logs: … node n1 is not available\n"])
def test_a_node_out_of_reach_is_a_line(words: str | None) -> None:
    """Whether it is silent or Swarm says so; what the journal has of the task comes instead of it."""
    parts = Components(task("running", 1), task("running", 2, NodeID="n2"))

    def script() -> None:
        parts.gives(
            T1, [said(1, "a\n")], EngineTimeout("late") if words is None else [Message("", "engine", words.encode())]
        )
        parts.gives(T2, [said(1, "b\n")])

    script()
    texts = parts.texts()
    assert (texts[0], texts[2:]) == ("a\n", ["b\n"])
    assert texts[1].startswith("node host-1 cannot be reached: ")
    its = kept(Line(at(1), "stdout", b"a\n"), Line(at(2), "stdout", b"kept\n"))
    for parts.kept in (Outcome([its]), Outcome([], [its])):
        script()
        assert parts.texts() == ["a\n", "kept\n", "b\n"]


def test_a_long_line_goes_on_while_another_node_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parts have one time: those that come after are no repetition."""
    monkeypatch.setattr(logs, "NODES_EVERY", 0.0)
    parts = Components(task("running"), task("running", 2, NodeID="n2"))
    part = said(1, "x", task_id=T1)

    def goes() -> None:
        parts.down = {"n2"}

    parts.gives("s1", [part], goes, [part], [part], parts.end(), follow=True)
    assert [text for text in parts.texts(follow=True) if text == "x"] == ["x", "x", "x"]


def test_a_node_that_goes_down_is_told_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked while it is down; back again, it sends all again, and no line is told twice."""
    monkeypatch.setattr(logs, "NODES_EVERY", 0.05)
    parts = Components(task("running"))

    def goes() -> None:
        parts.down = {"n1"}

    def comes() -> None:
        parts.down = set()

    async def later(call: Callable[[], None]) -> None:
        await asyncio.sleep(0.5)
        call()

    tasks: list[Awaitable[None]] = []
    one = said(1, "one\n", task_id=T1)
    parts.gives(
        "s1",
        [one],
        goes,
        lambda: tasks.append(asyncio.ensure_future(later(comes))),
        lambda: tasks.append(asyncio.ensure_future(later(parts.end()))),
        follow=True,
    )
    texts = parts.texts(follow=True)
    assert texts == ["one\n", "node host-1 cannot be reached: its output is missing until it is back\n"]
    parts = Components(task("running"))
    parts.down = {"n1"}
    assert parts.texts() == ["node host-1 cannot be reached: it is down\n"]
    assert parts.requests == []


def test_an_engine_that_was_away_is_followed_again() -> None:
    """From where it was."""
    parts = Components(task("running"))
    parts.gives("s1", [said(1, "one\n", task_id=T1)], EngineAway("broken off"), follow=True)
    parts.gives("s1", [said(1, "one\n", task_id=T1), said(2, "two\n", task_id=T1)], parts.end(), follow=True)
    assert parts.texts(follow=True) == ["one\n", "two\n"]
    assert [request.since is None for request in parts.requests if request.follow] == [True, False]


def test_an_engine_that_is_away_is_an_error() -> None:
    """Before anything was told, and after."""
    parts = Components(task("running"))
    parts.swarm.fails["tasks"] = EngineAway("away")
    with pytest.raises(EngineAway):
        parts.read()
    parts = Components(task("running"))
    parts.gives(T1, [said(1, "one\n")], EngineAway("broken off"))
    with pytest.raises(EngineAway):
        parts.read()
    assert parts.slots == 0


def test_an_answer_begins_when_the_engine_has_answered() -> None:
    """Until then the caller can still be told 503; a job that has said nothing yet is answered at once all the same."""
    parts = Components(kind="container")
    parts.gives("s1", EngineAway("away"))
    with pytest.raises(EngineAway):
        parts.read()
    assert parts.batches == []
    parts.gives("s1")
    parts.gives("s1", lambda: parts.gives("s1"), parts.end(), follow=True)
    assert (parts.read(follow=True), parts.batches) == ([], [[]])
    parts = Components(task("running"))  # of a service the engine was asked for its tasks
    parts.gives(T1, [said(1, "1\n")])
    parts.read()
    assert [len(batch) for batch in parts.batches] == [0, 1, 0]


def test_the_tail_of_one_stream_is_counted_here() -> None:
    """Docker counts both streams, and then leaves one out."""
    parts = Components(task("running"))
    for _ in range(2):
        parts.gives(T1, [said(1, "a\n", "stderr")], [said(2, "b\n", "stderr"), said(3, "c\n", "stderr")])
    assert parts.texts(tail=2, streams=("stderr",)) == ["b\n", "c\n"]
    assert [request.tail for request in parts.requests] == [None, None]
    parts.gives(T1, [said(3, "c\n")])
    assert parts.texts(tail=1) == ["c\n"]
    assert parts.requests[-1].tail == 1


def test_after_a_tail_of_nothing_only_what_is_new_comes() -> None:
    """The last line is read, to know from where on it is new."""
    parts = Components(task("running"))
    parts.gives(T1, [said(5, "old\n")])
    parts.gives("s1", [said(5, "old\n", task_id=T1), said(4, "older\n", "stderr", T1)], parts.end(), follow=True)
    parts.gives(T1, [said(5, "old\n"), said(6, "new\n")])
    assert parts.texts(tail=0, follow=True) == ["new\n"]


def test_a_flow_that_is_left_early_gives_its_slot_back() -> None:
    """As when the client is gone."""
    parts = Components(task("running"))
    parts.gives(T1, [said(1, "one\n")])

    async def leave() -> None:
        flow: Any = parts.log_reader.flow(parts.view(), LogQuery(follow=True))
        async with contextlib.aclosing(flow):
            async for batch in flow:
                if batch:
                    break
        assert parts.slots == 0

    asyncio.run(leave())
    parts.slots = -1
    with pytest.raises(TooManyReaders):
        parts.read()
