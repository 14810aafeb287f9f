"""Callbacks of runs: accepted with the run, told at its end, shown to its owner; also across a crash."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import task, until
from in_process import TOKEN, Ask, InProcess, app, ask, home
from msgspec.structs import replace
from receivers import SECRET, Receiver, allowed, receiving, status
from run_service_cases import SEEN, outcome
from standardwebhooks import Webhook
from tornado.ioloop import IOLoop

from qmaster.events.journal import Journal
from qmaster.events.rows import Record
from qmaster.functions.callbacks import runs
from qmaster.functions.callbacks.queue import NOT_COVERED, NOT_KEPT, CallbackQueue
from qmaster.functions.callbacks.runs import RunBodies, RunCallbacks
from qmaster.functions.callbacks.sender import Resolver, Sender
from qmaster.models import results
from qmaster.models.responses import CallbackView, Service
from qmaster.models.results import Line, Output
from qmaster.runs.callbacks import CallbackStore
from qmaster.runs.reconciler.cache import RunCache
from qmaster.runs.reconciler.reconciler import Reconciler

__all__ = ["app", "ask", "home"]  # the fixtures

pytestmark = pytest.mark.gen_test

Json = dict[str, Any]
BRIEF = results.result(results.decode(outcome(b"x" * 5000)), results.BRIEF)
DONE = replace(SEEN, status="complete", exit_code=0, finished_at="2026-01-02T03:04:05Z", owner="root", result=BRIEF)


# --- the end of a run -------------------------------------------------------------------------------------------------


class Seen(Reconciler):
    """What a reconciler has; its own constructor is not called."""

    def __init__(self) -> None:
        self.views: dict[str, Service] = {}
        self.cache = Cache(self.views)
        self.stale_since = None


class Cache(RunCache):
    def __init__(self, views: dict[str, Service]) -> None:
        self.views = views

    def find(self, name_or_id: str, owner: str | None = None) -> Service | None:
        return self.views.get(name_or_id)


class Quartermaster:
    """One process: a journal, and what sends the callbacks of runs."""

    def __init__(self, folder: Path, *prefixes: str) -> None:
        self.journal, self.reconciler = Journal(folder, 1000, 30), Seen()
        self.store = CallbackStore(self.journal)
        receivers = allowed(folder, *prefixes)
        sender = Sender(receivers, Resolver())
        self.queue = CallbackQueue(self.store, receivers, sender, {"run": RunBodies(self.journal)}, (0.01, 0.01))
        self.runs = RunCallbacks(self.store, self.queue, self.journal, self.reconciler)

    async def started(self, view: Service, url: str) -> None:
        """A run was created, and its callback kept; then it was recorded."""
        await self.store.arm(view.id, view.owner or "", url)
        await self.recorded(view)

    async def recorded(self, view: Service) -> None:
        """The last view of a run is in the journal, as the reconciler puts it there before it tells of it."""
        removed = view.status == "removed"
        record = Record(view.id, "service", view.name, removed, msgspec.json.encode(view), owner=view.owner or "")
        await self.journal.append([], [record])
        if not removed:
            self.reconciler.views[view.id] = view

    async def told(self, run_id: str) -> CallbackView:
        """Wait until nothing is left to do for a run."""
        async with asyncio.timeout(50):
            while True:
                (view,) = await self.store.views("run", run_id)
                if view.delivered_at or (view.last_error and not await self.store.waiting()):
                    return view
                await asyncio.sleep(0.002)


@asynccontextmanager
async def working(qm: Quartermaster) -> AsyncIterator[Quartermaster]:
    """A process from its start to its end."""
    await qm.journal.open()
    tasks = [asyncio.create_task(work) for work in (qm.queue.run(), qm.runs.run())]
    try:
        yield qm
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await qm.runs.close()
        await qm.queue.close()
        await qm.journal.close()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(runs, "AGAIN_EVERY", 0.02)


def event(receiver: Receiver) -> Json:
    """The only one that it got, of which the signature is right."""
    (got,) = receiver.got
    found = Webhook(SECRET).verify(got.body, got.headers)
    assert isinstance(found, dict)
    assert found["id"] == got.headers["webhook-id"]
    return found


async def test_the_event_of_an_end_has_the_result(tmp_path: Path) -> None:
    """All of its output, as `GET /status/{id}` has it, and not only the part that the stream has."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url)
        await qm.journal.keep_outcome("s1", outcome(b"x" * 5000))
        await qm.recorded(DONE)
        qm.runs.notice(DONE)
        assert (await qm.told("s1")).delivered_at
        found = event(receiver)
        assert found["source"] == f"/qmaster/{qm.journal.id}"
    assert (found["specversion"], found["type"], found["subject"]) == ("1.0", "io.qmaster.service.complete", "s1")
    assert (found["time"], found["datacontenttype"]) == (DONE.finished_at, "application/json")
    assert found["data"]["result"]["stdout"] == "x" * 5000
    assert msgspec.json.decode(json.dumps(found["data"]), type=Service) == replace(
        DONE, result=results.result(results.decode(outcome(b"x" * 5000)))
    )


async def test_nothing_is_told_before_the_end(tmp_path: Path) -> None:
    """Nor while the result is not read."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url)
        for view in (replace(SEEN, owner="root"), replace(DONE, result=None), replace(DONE, status="stopping")):
            await qm.recorded(view)
            qm.runs.notice(view)
            await asyncio.sleep(0.05)
        assert qm.store.armed == {"s1"}
        await qm.recorded(DONE)  # which only the next look sees
        assert (await qm.told("s1")).delivered_at
        assert len(receiver.got) == 1


async def test_an_end_is_told_once(tmp_path: Path) -> None:
    """However often it is noticed, and though the run is removed later."""
    removed = replace(DONE, status="removed", removed_at="2026-01-03T00:00:00Z")
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url)
        for view in (DONE, DONE, removed):
            await qm.recorded(view)
            qm.runs.notice(view)
        await qm.told("s1")
        qm.runs.notice(removed)
        await qm.told("s1")
        assert event(receiver)["type"] == "io.qmaster.service.complete"


async def test_a_later_try_tells_the_same(tmp_path: Path) -> None:
    """Though the run was removed meanwhile."""
    async with receiving(status(500), status(200)) as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url)
        await qm.recorded(DONE)
        qm.runs.notice(DONE)
        await until(lambda: receiver.got)
        await qm.recorded(replace(DONE, status="removed", removed_at="2026-01-03T00:00:00Z"))
        await qm.told("s1")
    first, second = receiver.got
    assert json.loads(first.body) == json.loads(second.body)


async def test_a_run_that_was_stopped_is_told_as_removed(tmp_path: Path) -> None:
    """With the time of its removal."""
    gone = replace(SEEN, owner="root", status="removed", reason="stopped", removed_at="2026-01-03T00:00:00Z")
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url)) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url)
        await qm.recorded(gone)
        qm.runs.notice(gone)
        await qm.told("s1")
    found = event(receiver)
    assert (found["type"], found["time"]) == ("io.qmaster.service.removed", gone.removed_at)
    assert found["data"]["reason"] == "stopped"


@pytest.mark.parametrize("view", [DONE, replace(DONE, status="removed", removed_at="2026-01-03T00:00:00Z")])
async def test_an_end_while_quartermaster_was_away_is_told(tmp_path: Path, view: Service) -> None:
    """Also where it was recorded, and the process died before the callback was made due."""
    async with receiving() as receiver:
        async with working(Quartermaster(tmp_path, receiver.url)) as first:
            await first.started(replace(SEEN, owner="root"), receiver.url)
        second = Quartermaster(tmp_path, receiver.url)
        second.reconciler.stale_since = "2026-01-01T00:00:00Z"
        async with working(second):
            await second.recorded(view)
            await until(lambda: second.store.armed == {"s1"})
            await asyncio.sleep(0.05)
            assert receiver.got == []  # until everything was listed
            second.reconciler.stale_since = None
            assert (await second.told("s1")).delivered_at
    assert event(receiver)["subject"] == "s1"


async def test_a_run_that_nobody_knows_is_given_up(tmp_path: Path) -> None:
    """It was created and never acknowledged, and the process died before it was recorded."""
    async with receiving() as receiver:
        async with working(Quartermaster(tmp_path, receiver.url)) as first:
            await first.store.arm("s1", "root", receiver.url)
            await asyncio.sleep(0.1)
            assert first.store.armed == {"s1"}  # it may be about to be recorded
        async with working(Quartermaster(tmp_path, receiver.url)) as second:
            view = await second.told("s1")
    assert (view.last_error, view.attempts, receiver.connections) == (NOT_KEPT, 0, 0)


async def test_a_url_that_is_no_longer_allowed_is_given_up_at_the_end(tmp_path: Path) -> None:
    """The options have changed while the run went on."""
    async with receiving() as receiver, working(Quartermaster(tmp_path, receiver.url + "hooks")) as qm:
        await qm.started(replace(SEEN, owner="root"), receiver.url + "other")
        await qm.recorded(DONE)
        qm.runs.notice(DONE)
        assert (await qm.told("s1")).last_error == NOT_COVERED
        assert receiver.connections == 0


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.fixture
def receiver(io_loop: IOLoop) -> Any:
    made = receiving()
    yield io_loop.run_sync(made.__aenter__)
    io_loop.run_sync(lambda: made.__aexit__(None, None, None))


@pytest.fixture
def options(tmp_path: Path, receiver: Receiver) -> dict[str, str]:
    (tmp_path / "keys").write_text(SECRET)
    return {"callbacks": f"{receiver.url}hooks", "webhook_key_file": str(tmp_path / "keys")}


def work(home: InProcess) -> None:
    home._tasks.append(asyncio.create_task(home.server.runs.callbacks.run()))


class Logs:
    async def capture(self, *args: object, **options: object) -> Output:
        return Output([Line("2026-01-02T03:04:05Z", "stdout", b"42\n")])


Wanted = Callable[[Json], object]


async def shown(ask: Ask, who: str, run_id: str, wanted: Wanted = lambda answer: True) -> Json:
    """The status document, as soon as it is as wanted."""
    async with asyncio.timeout(50):
        while True:
            answer: Json = json.loads((await ask(who, "GET", f"/status/{run_id}")).body)
            if wanted(answer):
                return answer
            await asyncio.sleep(0.01)


def _delivered(answer: Json) -> object:
    return answer["callbacks"][0]["delivered_at"]


@pytest.mark.parametrize("who", ["root", "bob"])
async def test_the_way_of_a_callback(ask: Ask, home: InProcess, receiver: Receiver, who: str) -> None:
    """From `/run`, where it becomes a label, to the receiver, and to the status, for its owner and root alone."""
    work(home)
    home.server.runs.collector._logs = Logs()  # type: ignore[assignment]
    url = f"{receiver.url}hooks/done?job=1"
    answer = json.loads((await ask(who, "POST", "/run", {"image": "busybox", "callback": url})).body)
    run_id = answer["id"]
    labels = home.engine.created()[0]["Labels"]
    journal = home.server.journal.id
    assert (labels["io.qmaster.callback"], labels["io.qmaster.callback-by"]) == (url, journal)
    before = await shown(ask, who, run_id)
    assert before["callbacks"] == [{"url": url, "delivered_at": None, "attempts": 0, "last_error": None}]
    assert (before["callback"], before["labels"]) == (url, {})
    home.engine.swarm.its_tasks.append(task("complete", code=0, ID="t-new", ServiceID=run_id, DesiredState="shutdown"))
    await home.look()
    after = await shown(ask, who, run_id, _delivered)
    assert (after["status"], after["callbacks"][0]["attempts"]) == ("complete", 1)
    found = event(receiver)
    assert (found["type"], found["data"]["result"]["stdout"]) == ("io.qmaster.service.complete", "42\n")
    assert receiver.got[0].line == "POST /hooks/done?job=1 HTTP/1.1"
    assert "callbacks" in await shown(ask, "root", run_id)
    assert (await ask("alice", "GET", f"/status/{run_id}")).code == 404


async def test_a_run_without_a_callback_shows_none(ask: Ask, home: InProcess) -> None:
    """And nothing about it is kept."""
    answer = json.loads((await ask("root", "POST", "/run", {"image": "busybox"})).body)
    found = await shown(ask, "root", answer["id"])
    assert found["callback"] is None
    assert "callbacks" not in found
    assert home.server.runs.recovery.callbacks.armed == set()


@pytest.mark.parametrize("who", ["root", "bob"])
async def test_a_callback_elsewhere_is_forbidden(ask: Ask, home: InProcess, receiver: Receiver, who: str) -> None:
    """To the root token too; nothing was asked of the engine."""
    for url in (receiver.url, f"{receiver.url}hooksx", "http://169.254.169.254/"):
        answer = await ask(who, "POST", "/run", {"image": "busybox", "callback": url})
        assert answer.code == 403
        assert json.loads(answer.body)["error"].startswith("callback: no prefix of the server's option --callbacks")
    assert home.engine.asked() == []


async def test_a_callback_that_is_no_url_is_a_400(ask: Ask, home: InProcess, receiver: Receiver) -> None:
    """It names the field."""
    for url in (f"{receiver.url}hooks/../x", "http://127.1/hooks", "hooks", 1):
        answer = await ask("root", "POST", "/run", {"image": "busybox", "callback": url})
        assert (answer.code, json.loads(answer.body)["error"].partition(":")[0]) == (400, "callback")
    assert home.engine.asked() == []


async def test_a_retry_under_a_key_is_told_once(ask: Ask, home: InProcess, receiver: Receiver) -> None:
    """And another URL under the same key is another request."""
    work(home)
    key = {"Idempotency-Key": "one"}
    body = {"image": "busybox", "callback": f"{receiver.url}hooks"}
    first, second = [json.loads((await ask("root", "POST", "/run", body, key)).body) for _ in range(2)]
    assert first["id"] == second["id"]
    assert (await ask("root", "POST", "/run", {**body, "callback": f"{receiver.url}hooks/x"}, key)).code == 422
    await home.engine.swarm.remove(first["id"])
    await home.look()
    await shown(ask, "root", first["id"], _delivered)
    assert event(receiver)["type"] == "io.qmaster.service.removed"


async def test_the_callback_of_a_run_that_is_adopted_is_kept(ask: Ask, home: InProcess, receiver: Receiver) -> None:
    """One with a key, whose process died after the engine had made it; another quartermaster's is left to that one."""
    recovery, journal = home.server.runs.recovery, home.server.journal
    for name, by in (("mine", journal.id), ("other", "ffffffff")):
        labels = {"io.qmaster.callback": f"{receiver.url}hooks/{name}", "io.qmaster.callback-by": by}
        await recovery._arm(name, {**labels, "io.qmaster.owner": "bob"})
    assert recovery.callbacks.armed == {"mine"}
    rows = await journal.read(lambda db: db.execute("SELECT subject, owner, url, state FROM callbacks").fetchall())
    assert rows == [("mine", "bob", f"{receiver.url}hooks/mine", "armed")]


async def test_no_answer_or_log_shows_the_key(ask: Ask, home: InProcess, receiver: Receiver, capfd: Any) -> None:
    """Nor the journal."""
    work(home)
    url = f"{receiver.url}hooks"
    run_id = json.loads((await ask("root", "POST", "/run", {"image": "busybox", "callback": url})).body)["id"]
    await home.engine.swarm.remove(run_id)
    await home.look()
    answer = await shown(ask, "root", run_id, _delivered)
    secret = SECRET.removeprefix("whsec_")
    rows = await home.server.journal.read(lambda db: list(db.iterdump()))
    out, err = capfd.readouterr()
    for text in (json.dumps(answer), str(rows), out + err, receiver.got[0].body.decode(), str(receiver.got[0].headers)):
        assert secret not in text
        assert TOKEN not in text
