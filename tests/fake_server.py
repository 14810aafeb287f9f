"""A quartermaster without an engine, for the command line's quick tests: it speaks the contract and does as it is told.

It lives on a thread and a loop of its own; the tests call it from theirs.
"""

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from qmaster import errors
from qmaster.models.responses import Node, Replicas, Reserved, Service, Task

Json = dict[str, Any]
T = TypeVar("T")

TOKEN = "the-token-of-the-fake"
EPOCH = "0badcafe"
ENDED = ("complete", "failed", "removed")


def service(job: str = "job-1", **over: Any) -> Json:
    """A service as answers show it: one that runs."""
    view = Service(
        id=job,
        type="service",
        name=f"name-of-{job}",
        image="busybox@sha256:" + "a" * 64,
        command=["echo", "a b"],
        labels={},
        owner="root",
        status="running",
        reason=None,
        error=None,
        exit_code=None,
        replicas=Replicas(1, 1, 0, 0),
        created_at="2026-11-22T20:29:03.085076548Z",
        started_at=None,
        finished_at=None,
        removed_at=None,
        memory=250,
        cpus=None,
        tasks=[task()],
    )
    return {**msgspec.json.decode(msgspec.json.encode(view)), **over}


def task(**over: Any) -> Task:
    fields: Json = {
        "id": "t1",
        "slot": 1,
        "node_id": "n1",
        "node": "worker-1",
        "state": "running",
        "message": None,
        "error": None,
        "exit_code": None,
        "container_id": None,
        "updated_at": "2026-11-22T20:29:03Z",
    }
    return Task(**{**fields, **over})


def line(at: int, text: str, stream: str = "stdout", **over: Any) -> Json:
    """A document of `GET /logs`, written `at` nanoseconds into a second."""
    time = f"2026-11-22T20:29:03.{at:09d}Z"
    return {"time": time, "stream": stream, "node": "worker-1", "task": "t1", "line": text, **over}


class Job:
    """What a started job is: the tests write its lines and end it."""

    def __init__(self, view: Json) -> None:
        self.view = view
        self.lines: list[Json] = []
        self.changed = asyncio.Condition()

    @property
    def ended(self) -> bool:
        return self.view["status"] in ENDED


class FakeServer:
    """`asked` are the calls: method, path with query, body. `refuse` holds what the next calls of a path fail with.

    `begins` is of a job that is started, `stops_end` whether a stop ends it; `swallow` a start that gets no answer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.headers: list[Any] = []
        self.refuse: dict[str, list[int]] = {}
        self.jobs: dict[str, Job] = {}
        self.events: list[Json] = []
        self.stops_end = True
        self.begins: Json = {}
        self.swallow = False
        self.next_page: str | None = None
        self.tls: ssl.SSLContext | None = None
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self.handlers: set[RequestHandler] = set()
        self._server: HTTPServer | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="fake-server", daemon=True)
        self._thread.start()
        self.up()

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def _call(self, make: Callable[[], Any]) -> Any:
        async def call() -> Any:
            made = make()
            return await made if asyncio.iscoroutine(made) else made

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(20)

    # Its life

    def up(self) -> None:
        """Listen; on the port that it had."""

        def listen() -> None:
            (socket,) = bind_sockets(self.port, "127.0.0.1")
            self.port = socket.getsockname()[1]
            kinds = {
                "/run": _Run,
                "/stop": _Stop,
                "/status": _List,
                "/status/(.*)": _Status,
                "/logs/(.*)": _Logs,
                "/events": _Events,
                "/nodes": _Nodes,
                "/functions.*": _Functions,
            }
            application = Application([(path, kind, {"fake": self}) for path, kind in kinds.items()])
            self._server = HTTPServer(application, ssl_options=self.tls)
            self._server.add_socket(socket)

        self._call(listen)

    def down(self) -> None:
        """Cut all connections, and take no more."""
        assert self._server is not None
        self._call(self._server.stop)
        self.cut()

    def cut(self) -> None:
        """Cut all connections that wait for something."""

        def cut() -> None:
            for handler in list(self.handlers):
                handler.request.connection.stream.close()  # type: ignore[union-attr]

        self._call(cut)

    def close(self) -> None:
        self.down()
        self._call(lambda: asyncio.sleep(0.05))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    # What the tests do with it

    def add(self, view: Json) -> Job:
        """A job that is there."""
        job: Job = self._call(lambda: Job(view))
        self.jobs[view["id"]] = job
        return job

    def write(self, job: str, *lines: Json) -> None:
        self._change(job, lambda: self.jobs[job].lines.extend(lines))

    def end(self, job: str = "job-1", code: int | None = 0, **over: Any) -> None:
        status = "complete" if code == 0 else "failed"
        ended = {"status": status, "reason": "exit", "exit_code": code, **over}
        self._change(job, lambda: self.jobs[job].view.update(ended))

    def _change(self, job: str, change: Callable[[], object]) -> None:
        async def notify() -> None:
            change()
            async with self.jobs[job].changed:
                self.jobs[job].changed.notify_all()

        self._call(notify)

    def tell(self, kind: str, data: Json, **over: Any) -> None:
        """An event."""
        cursor = f"{EPOCH}:{len(self.events) + 1}"
        base = {"specversion": "1.0", "source": "/fake", "type": f"io.qmaster.{kind}", "time": "2026-11-22T20:29:03Z"}
        self._call(lambda: self.events.append({**base, "id": cursor, "subject": data["id"], "data": data, **over}))


class _Handler(RequestHandler):
    def initialize(self, fake: FakeServer) -> None:
        self.fake = fake

    def prepare(self) -> None:
        body = json.loads(self.request.body) if self.request.body else None
        self.fake.asked.append((self.request.method or "", self.request.uri or "", body))
        self.fake.headers.append(self.request.headers)
        self.fake.handlers.add(self)
        if self.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise HTTPError(401, reason="invalid token")
        waiting = self.fake.refuse.get(self.request.path, [])
        if waiting:
            raise HTTPError(waiting.pop(0), reason="as told")

    def on_finish(self) -> None:
        self.fake.handlers.discard(self)

    def on_connection_close(self) -> None:
        self.fake.handlers.discard(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish(errors.problem(status_code, self._reason, "r"))

    def log_exception(self, *args: Any) -> None:
        pass

    def job(self, name: str) -> Job:
        if name not in self.fake.jobs:
            raise HTTPError(404, reason=f"no service or container {name}")
        return self.fake.jobs[name]


class _Run(_Handler):
    async def post(self) -> None:
        if self.get_argument("dry_run", ""):
            sent = json.loads(self.request.body)
            told = {"image": f"{sent['image']}@sha256:{'a' * 64}", "spec": sent, "warnings": ["of the fake"]}
            self.finish({"success": True, "dry_run": True, **told})
            return
        if self.fake.swallow:
            await asyncio.sleep(60)
        job = f"job-{len(self.fake.jobs) + 1}"
        self.fake.jobs[job] = Job(service(job, **self.fake.begins))
        self.finish({"success": True, "id": job})


class _Stop(_Handler):
    async def post(self) -> None:
        job = self.job(json.loads(self.request.body)["id"])
        if self.fake.stops_end:
            job.view |= {"status": "removed", "reason": "stopped", "exit_code": 143}
        async with job.changed:
            job.changed.notify_all()
        self.finish({"success": True, "id": job.view["id"]})


class _Functions(_Handler):
    """Answers as another program might."""

    def get(self) -> None:
        self.finish({"success": True})

    put = post = get


class _List(_Handler):
    def get(self) -> None:
        services = [job.view for job in self.fake.jobs.values()]
        page = self.fake.next_page
        self.finish({"success": True, "cursor": f"{EPOCH}:0", "services": services, "next_page": page})


class _Nodes(_Handler):
    def get(self) -> None:
        node = Node(
            id="n1",
            hostname="lab",
            role="manager",
            state="ready",
            availability="active",
            address=None,
            engine="20.10",
            memory=4096,
            cpus=2.0,
            reserved=Reserved(250, 0.5),
            leader=True,
        )
        self.finish({"success": True, "cursor": f"{EPOCH}:0", "nodes": [msgspec.to_builtins(node)]})


class _Status(_Handler):
    async def get(self, name: str) -> None:
        job = self.job(name)
        wait = float(self.get_argument("wait", "0"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait), job.changed:
                await job.changed.wait_for(lambda: job.ended)
        self.finish({"success": True, **job.view})


class _Logs(_Handler):
    async def get(self, name: str) -> None:
        assert self.request.headers["Accept"] == "application/x-ndjson"
        job = self.job(name)
        stream, follow = self.get_argument("stream", ""), self.get_argument("follow", "0") == "1"
        tail = int(self.get_argument("tail", "1000000"))
        told = max(0, len(job.lines) - tail)
        self.set_header("Content-Type", "application/x-ndjson")
        while True:
            for one in job.lines[told:]:
                told += 1
                if stream in ("", one["stream"]):
                    await self._send(one)
            if told < len(job.lines):
                continue
            if job.ended or not follow:
                return
            async with job.changed:
                await job.changed.wait()

    async def _send(self, one: Json) -> None:
        self.write(json.dumps(one) + "\n")
        try:
            await self.flush()
        except StreamClosedError:
            raise HTTPError(500) from None


class _Events(_Handler):
    async def get(self) -> None:
        since = self.get_argument("since", "")
        self.set_header("Content-Type", "text/event-stream")
        at = int(since.partition(":")[2] or 0) if since else len(self.fake.events)
        self._frame("hello", {"type": "hello", "cursor": f"{EPOCH}:{at}"})
        if since and not since.startswith(EPOCH):
            at = len(self.fake.events)
            gap = {"type": "gap", "reason": "epoch_changed", "from": since, "to": f"{EPOCH}:{at}"}
            self._frame("gap", gap | ({"resumed": True} if "." in since else {}))
        if not since or not (since.startswith(EPOCH) or "." in since):
            views = [job.view for job in self.fake.jobs.values()]
            self._frame("snapshot", {"type": "snapshot", "services": views, "nodes": []}, f"{EPOCH}:{at}")
        try:
            while True:
                for event in self.fake.events[at:]:
                    self._frame(event["type"], event, event["id"])
                at = len(self.fake.events)
                await self.flush()
                await asyncio.sleep(0.02)
        except StreamClosedError:
            return

    def _frame(self, kind: str, data: Json, cursor: str = "") -> None:
        self.write((f"id: {cursor}\n" if cursor else "") + f"event: {kind}\ndata: {json.dumps(data)}\n\n")
