"""A stand-in for a busy quartermaster: the real page, the real frames, and a thousand services that nobody runs."""

import asyncio
import contextlib
import itertools
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import msgspec
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketHandler

from qmaster.api import pages
from qmaster.api.openapi import document as openapi
from qmaster.auth.authenticator import Authenticator
from qmaster.errors import HttpError, problem
from qmaster.events import cloudevents, frames
from qmaster.models.responses import Node, Replicas, Reserved, Service, Status, Task

TOKEN = "the-token-of-the-crowd"
EPOCH = "c0ffee00"
NODES = 6
NEXT: dict[Status, Status] = {"pending": "preparing", "preparing": "running", "running": "complete"}
CODES: dict[Status, int] = {"complete": 0, "failed": 1}
MIX: tuple[Status, ...] = ("running", "complete", "running", "complete", "running", "pending", "running", "preparing")
FLOOD = b'{"stream":"stdout","line":"flood %d \\u001b[32mgreen\\u001b[0m"}\n'
KINDS = ("render", "transcode", "index", "resize", "report", "crawl")


def stamp(seconds_ago: float = 0, now: datetime | None = None) -> str:
    """The time that many seconds before ``now``."""
    return ((now or datetime.now(UTC)) - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")


def node(number: int, held: int = 0) -> Node:
    """A node on which that many tasks have their memory reserved."""
    return Node(
        id=f"node{number}",
        hostname=f"host-{number}",
        role="worker" if number else "manager",
        state="ready",
        availability="active",
        address=f"10.0.0.{number + 1}",
        engine="28.5.2",
        memory=65536,
        cpus=64.0,
        reserved=Reserved(256 * held, 0.25 * held),
        leader=number == 0,
    )


def task(number: int, status: Status, at: str) -> Task:
    where = number % NODES if status != "pending" else None
    return Task(
        id=f"task{number}",
        slot=1,
        node_id=None if where is None else f"node{where}",
        node=None if where is None else f"host-{where}",
        state=status,
        message=None,
        error=None,
        exit_code=CODES.get(status),
        container_id=None,
        updated_at=at,
    )


def service(number: int, status: Status, at: str) -> Service:
    """A service of one task, in that status since ``at``."""
    code, kind = CODES.get(status), KINDS[number % len(KINDS)]
    return Service(
        id=f"service{number:05}",
        type="service",
        name=f"{kind}-{number:05}",
        image=f"registry.example.com/media/{kind}:2.{number % 10}",
        command=["work", str(number)],
        labels={"team": ("blue", "red")[number % 2]},
        owner="root",
        status=status,
        reason="exit" if code is not None else None,
        error=None,
        exit_code=code,
        replicas=Replicas(1, int(status == "running"), int(code == 0), int(code == 1)),
        created_at=at,
        started_at=None if status in ("pending", "preparing") else at,
        finished_at=at if code is not None else None,
        removed_at=at if status == "removed" else None,
        memory=256,
        cpus=0.25,
        tasks=[task(number, status, at)],
    )


class Crowd:
    """Serves on its own thread and loop; ``changes`` each second, in which runs begin, go on, end and are removed.

    The output of a service is ``logs``, as newline-delimited JSON; without it, no service has any. While ``writing``, a
    log that is followed stays open, and gets what is appended to ``written``, and ``flood`` lines a second. The queries
    of logs are in ``log_queries``. Other calls are answered from ``answers`` by method and path, such as
    ``GET /functions``, and kept in ``asked`` with query and body. An ``HttpError`` among them is answered as the server
    renders it.
    """

    def __init__(self, services: int = 1000, changes: float = 50, logs: bytes = b"") -> None:
        self._pace = 1 / changes if changes else 0
        self.logs = logs
        self.writing = False
        self.written: list[bytes] = []
        self.flood = 0
        self.log_queries: list[str] = []
        self._random = random.Random(7)
        self._numbers = itertools.count(services)
        self._sequence = itertools.count(1)
        self.sent = 0
        self.answers: dict[str, Any] = {"GET /openapi.json": openapi.document()}
        self.asked: list[tuple[str, str, str]] = []
        self.services = {n: service(n, MIX[n % len(MIX)], stamp(7 * n)) for n in range(services)}
        self.readers: set[_Events] = set()
        self.away = False  # refuses streams
        self.refuses = False  # closes them, as the token is wrong
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "Crowd":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._loop
        assert self._over
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        page: dict[str, Any] = {"auth": Authenticator(TOKEN), "busy": set(), "files": pages.read(pages.folder())}
        routes: list[Any] = [
            (r"/", pages.PageHandler, page),
            (r"/static/([^/]+)", pages.PageHandler, page),
            (r"/events", _Events, {"crowd": self}),
            (r"/logs/[^/]+", _Logs, {"crowd": self}),
            (r"/.+", _Answers, {"crowd": self}),
        ]
        server = HTTPServer(web.Application(routes, log_function=lambda handler: None))
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        changing = asyncio.create_task(self._change() if self._pace else asyncio.sleep(0))
        self._ready.set()
        await self._over.wait()
        changing.cancel()
        server.stop()
        for reader in list(self.readers):
            reader.close(1001)
        await server.close_all_connections()

    def cut(self, away: bool) -> None:
        """Close every stream, and refuse new ones while it is ``away``; from any thread."""
        assert self._loop
        self.away = away
        for reader in list(self.readers):
            self._loop.call_soon_threadsafe(reader.close, 1001)

    def say(self, frame: frames.Frame) -> None:
        """Send this to everyone; from any thread."""
        assert self._loop
        self._loop.call_soon_threadsafe(self._write, frame)

    def _write(self, frame: frames.Frame) -> None:
        for reader in list(self.readers):
            reader.write_message(frame.payload.decode()).add_done_callback(lambda sent: sent.exception())

    async def _change(self) -> None:
        due = asyncio.get_running_loop().time()
        while True:
            due += self._pace
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            for event in self._step():
                sequence = next(self._sequence)
                cloud_event = cloudevents.encode(event, EPOCH, sequence)
                frame = frames.event(cloudevents.cursor(EPOCH, sequence), event.type, cloud_event)
                self.sent += 1
                self._write(frame)

    def _step(self) -> list[cloudevents.Event]:
        """One service goes on, and one that was removed long enough is forgotten for a new one."""
        number = self._random.choice(list(self.services))
        before: Service | None = self.services[number]
        assert before
        if before.status == "removed":
            del self.services[number]
            number, before = next(self._numbers), None
            status: Status = "pending"
        else:
            status = NEXT.get(before.status, "removed")
            if status == "complete" and number % 9 == 0:
                status = "failed"
        after = service(number, status, stamp())
        if before:
            after = msgspec.structs.replace(after, created_at=before.created_at)
        self.services[number] = after
        return list(cloudevents.of_service(before, after, stamp()))[-1:]

    @property
    def snapshot(self) -> frames.Frame:
        services = [each for each in self.services.values() if each.status != "removed"]
        held = [t.node_id for each in services for t in each.tasks if t.state in ("preparing", "running")]
        nodes = [node(number, held.count(f"node{number}")) for number in range(NODES)]
        return frames.snapshot(cloudevents.cursor(EPOCH, 0), services, nodes)


class _Events(WebSocketHandler):
    def initialize(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def prepare(self) -> None:
        if self._crowd.away:
            raise web.HTTPError(503)

    def on_message(self, message: str | bytes) -> None:
        if self._crowd.refuses:
            self.close(4401, "invalid token")
            return
        self.write_message(frames.hello("0", cloudevents.cursor(EPOCH, 0)).payload.decode())
        self.write_message(self._crowd.snapshot.payload.decode())
        self._crowd.readers.add(self)

    def on_close(self) -> None:
        self._crowd.readers.discard(self)


class _Logs(web.RequestHandler):
    def initialize(self, crowd: Crowd) -> None:
        self._crowd = crowd

    async def get(self) -> None:
        crowd = self._crowd
        crowd.log_queries.append(self.request.query)
        if not crowd.logs and not crowd.writing:
            raise web.HTTPError(404)
        self.set_header("Content-Type", "application/x-ndjson")
        await self.flush()
        with contextlib.suppress(StreamClosedError):
            await self._send(b"".join(self._last()))
            await self._follow()

    def _last(self) -> list[bytes]:
        """The last lines, as `tail` and `stream` want them."""
        lines = self._crowd.logs.splitlines(keepends=True)
        if stream := self.get_argument("stream", ""):
            lines = [line for line in lines if msgspec.json.decode(line)["stream"] == stream]
        return lines[-int(self.get_argument("tail")) :]

    async def _send(self, data: bytes) -> None:
        step = 7 if len(data) < 2048 else 65536  # lines, and characters, are cut in the middle
        for at in range(0, len(data), step):
            self.write(data[at : at + step])
            await self.flush()

    async def _follow(self) -> None:
        crowd, sent, flooded, begun = self._crowd, 0, 0, time.monotonic()
        while crowd.writing:
            new = crowd.written[sent:]
            sent += len(new)
            due = int(crowd.flood * (time.monotonic() - begun))
            new += [FLOOD % number for number in range(flooded, due)]
            flooded = due
            self.write(b"".join(new))
            await self.flush()
            await asyncio.sleep(0.02)


class _Answers(web.RequestHandler):
    def initialize(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def _answer(self) -> None:
        call = f"{self.request.method} {self.request.path}"
        self._crowd.asked.append((call, self.request.query, self.request.body.decode()))
        if call not in self._crowd.answers:
            raise web.HTTPError(404)
        answer = self._crowd.answers[call]
        if isinstance(answer, HttpError):
            self.set_status(answer.status)
            answer = problem(answer.status, str(answer), "")
        self.write(msgspec.json.encode(answer))

    get = post = put = delete = _answer
