"""A proxy in front of an engine's socket: transparent, except for the faults that a test asks for."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from testbed.faults import Fault
from testbed.wire import SIZE, Head, Reader


@dataclass(frozen=True)
class Request:
    """A request that came in; `at` is of the monotonic clock."""

    method: str
    path: str
    at: float = field(compare=False)


@dataclass
class Rule:
    """Which requests a fault befalls, and how many of them: None is all. `hits` counts those it befell."""

    path: re.Pattern[str]
    method: str | None
    fault: Fault
    times: int | None
    hits: int = 0

    def matches(self, head: Head) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        return self.method in (None, head.method) and self.path.search(head.path) is not None


class Proxy:
    """The proxy on a unix socket of its own. Requests are recorded when they come in, with their version prefix."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.socket = str(path)
        self.host = f"unix://{path}"
        self._upstream = upstream
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._requests: list[Request] = []
        self._connections: set[_Connection] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen(512)
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    # For tests

    def on(self, path: str, fault: Fault, method: str | None = None, times: int | None = None) -> Rule:
        """Let a fault (see `testbed.faults`) befall the requests whose path matches; the newest rule goes first."""
        rule = Rule(re.compile(path), method, fault, times)
        with self._lock:
            self._rules.insert(0, rule)
        return rule

    def off(self, rule: Rule) -> None:
        """Take a rule back."""
        with self._lock:
            self._rules.remove(rule)

    def clear(self) -> None:
        """Take all rules back, and forget the requests."""
        with self._lock:
            self._rules.clear()
            self._requests.clear()

    def cut_all(self) -> int:
        """Close all connections now; how many there were."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        return len(connections)

    @property
    def requests(self) -> list[Request]:
        """The requests that came in, oldest first."""
        with self._lock:
            return list(self._requests)

    def count(self, path: str = "", method: str | None = None) -> int:
        """How many requests came in whose path matches."""
        found = re.compile(path)
        return sum(method in (None, request.method) and bool(found.search(request.path)) for request in self.requests)

    def forget(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests.clear()

    def close(self) -> None:
        """End the proxy."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        Path(self.socket).unlink(missing_ok=True)

    # For its connections

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="proxy-connection", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        connection = _Connection(client, self._upstream)
        with self._lock:
            self._connections.add(connection)
        try:
            with contextlib.suppress(OSError):  # either side may go at any time
                self._talk(connection)
        finally:
            connection.close()
            with self._lock:
                self._connections.discard(connection)

    def _talk(self, connection: "_Connection") -> None:
        while (head := connection.next()) is not None:
            fault = self._fault_for(head)
            if fault is not None and not fault(connection):
                return
            connection.pass_on()
        connection.finish()

    def _fault_for(self, head: Head) -> Fault | None:
        with self._lock:
            self._requests.append(Request(head.method, head.path, time.monotonic()))
            rule = next((rule for rule in self._rules if rule.matches(head)), None)
            if rule is None:
                return None
            rule.hits += 1
            return rule.fault


class _Connection:
    """One client's connection, and the engine's that belongs to it. It is an `Exchange` for the faults."""

    def __init__(self, client: socket.socket, upstream: str) -> None:
        self.client = client
        self.closed = threading.Event()
        self._upstream = upstream
        self._reader = Reader(client)
        self._head: Head | None = None
        self._body: Iterator[bytes] = iter(())  # of that head; a fault may take it before another does
        self._engine: socket.socket | None = None
        self._answers: threading.Thread | None = None
        self._open = {client}

    def next(self) -> Head | None:
        self._head = self._reader.head()
        if self._head:
            self._body = self._reader.body(self._head)
        return self._head

    @property
    def head(self) -> Head:
        assert self._head
        return self._head

    def _connect(self) -> socket.socket:
        engine = socket.socket(socket.AF_UNIX)
        self._open.add(engine)
        engine.connect(self._upstream)
        return engine

    def pass_on(self) -> None:
        """Send the request to the engine; its answers come back as they are, on a thread of their own."""
        assert self._head
        if self._engine is None:
            self._engine = self._connect()
            self._answers = threading.Thread(target=self._return, args=(self._engine,), daemon=True)
            self._answers.start()
        self._engine.sendall(self._head.raw)
        for data in self._reader.rest() if self._head.hijacks else self._body:
            self._engine.sendall(data)

    def _return(self, engine: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := engine.recv(SIZE):
                self.client.sendall(data)
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)

    def finish(self) -> None:
        """The client sends no more: tell the engine, and wait for the rest of what it says."""
        if self._engine and self._answers:
            self._engine.shutdown(socket.SHUT_WR)
            self._answers.join()

    def drain(self) -> None:
        for _ in self._body:
            pass

    @contextlib.contextmanager
    def forward(self) -> Iterator[socket.socket]:
        assert self._head
        with self._connect() as engine:
            engine.sendall(self._head.closing())
            for data in self._body:
                engine.sendall(data)
            yield engine

    def close(self) -> None:
        """Close both sides; what waits on them wakes up."""
        self.closed.set()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
