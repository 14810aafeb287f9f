"""watcher: streams end, fail, babble, grow old and hang; it opens another, and stops at once."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from fakes import until
from structlog.testing import capture_logs
from testbed import eventually
from testbed.stub import Stub

from qmaster.engine import Endpoint, Engine, watcher
from qmaster.engine.labels import MANAGED
from qmaster.engine.watcher import SERVICE_LABEL, Change, EventStream, Watcher, changes

END = None


class Stream:
    """An event stream that gives what is put into it; an error is raised, END ends it."""

    def __init__(self, *given: Change | Exception | None) -> None:
        self._given: queue.Queue[Change | Exception | None] = queue.Queue()
        self.closed = threading.Event()
        for each in given:
            self._given.put(each)

    def __iter__(self) -> Iterator[Change]:
        while (given := self._given.get()) is not END:
            if isinstance(given, Exception):
                raise given
            yield given

    def close(self) -> None:
        self.closed.set()
        self._given.put(END)


class Watched:
    """A watcher on those streams, opened one after the other; then on one that says nothing."""

    def __init__(self, *streams: Stream | Exception) -> None:
        self.hints: list[Change] = []
        self.opened = 0
        self.quiet = Stream()
        self._streams = iter([*streams, self.quiet])
        self.watcher = Watcher(self._open, self.hints.append)

    def _open(self) -> Any:
        self.opened += 1
        stream = next(self._streams)
        if isinstance(stream, Exception):
            raise stream
        return stream


RELIST, SERVICE, GONE = Change("relist"), Change("service", "s1", 5.0), Change("service", "s2", 6.0, True)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """`watch(*streams)`: a started watcher that pauses for no time worth mentioning."""
    monkeypatch.setattr(watcher, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(watcher, "LAST_PAUSE", 0.002)
    monkeypatch.setattr(watcher, "CHECK_EVERY", 0.01)
    made: list[Watched] = []

    def start(*streams: Stream | Exception) -> Watched:
        made.append(Watched(*streams))
        made[-1].watcher.start()
        return made[-1]

    yield start
    for each in made:
        each.watcher.stop()


def test_a_stream_begins_with_a_relist(watch: Callable[..., Watched]) -> None:
    """What changed before it was open is seen by a listing that begins after; then its hints in order."""
    watched = watch(Stream(SERVICE, GONE))
    eventually(lambda: len(watched.hints) == 3)
    assert watched.hints == [RELIST, SERVICE, GONE]


@pytest.mark.parametrize("end", [END, OSError("cut"), ValueError("no JSON at all"), KeyError("Type")])
def test_an_end_an_error_and_garbage_mean_again(watch: Callable[..., Watched], end: Exception | None) -> None:
    """The stream is closed, another one is opened, and all is listed again."""
    first = Stream(SERVICE, end)
    watched = watch(first, Stream(GONE))
    eventually(lambda: len(watched.hints) == 4)
    assert watched.hints == [RELIST, SERVICE, RELIST, GONE]
    assert first.closed.is_set()


def test_an_engine_that_is_away_is_asked_again(watch: Callable[..., Watched]) -> None:
    """However it fails; no hint is made up."""
    watched = watch(ConnectionRefusedError(), TimeoutError(), RuntimeError("constructor"), Stream(SERVICE))
    eventually(lambda: len(watched.hints) == 2)
    assert (watched.opened, watched.hints) == (4, [RELIST, SERVICE])
    assert watched.watcher.reopened == {"age": 0, "lost": 3}


def renew_until(watched: Watcher, condition: Callable[[], object]) -> None:
    """Let the loop end what is old, until that holds."""

    async def run() -> None:
        renewing = asyncio.create_task(watched.renew())
        await until(condition)
        renewing.cancel()

    asyncio.run(run())


def test_an_old_stream_is_left(watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute another is opened; what had come on the old one is not lost."""
    first = Stream(SERVICE, GONE)
    watched = watch(first)
    eventually(lambda: len(watched.hints) == 3)
    assert not first.closed.is_set()
    monkeypatch.setattr(watcher, "MAX_AGE", 0.0)
    renew_until(watched.watcher, lambda: watched.opened >= 2)
    assert watched.hints[:3] == [RELIST, SERVICE, GONE]
    assert first.closed.is_set()
    assert watched.watcher.reopened["lost"] == 0 < watched.watcher.reopened["age"]


def test_pauses_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0.2 to 5 seconds, each with some jitter, while streams fail at once."""
    pauses: list[float] = []
    watched = Watched(*[OSError("away")] * 8)

    def wait(timeout: float) -> bool:
        pauses.append(timeout)
        return False

    monkeypatch.setattr(watched.watcher._stopped, "wait", wait)
    monkeypatch.setattr("qmaster.engine.watcher.random.uniform", lambda low, high: high)
    watched.watcher.start()
    eventually(lambda: watched.hints)
    watched.watcher.stop()
    assert pauses[:8] == [0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]


def logged(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What it logs until there is a stream, and as it is stopped then."""
    monkeypatch.setattr(watched.watcher._stopped, "wait", lambda timeout: False)
    with capture_logs() as logs:
        watched.watcher.start()
        eventually(lambda: watched.hints)
        watched.watcher.stop()
        watched.watcher._thread.join(2)
    return logs


def test_a_reason_is_logged_once_per_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every few seconds while the engine is away."""
    away, late = OSError("away"), TimeoutError("late")
    watched = Watched(away, away, late, late, away)
    logs = logged(watched, monkeypatch)
    assert [(line["event"], line["reason"]) for line in logs] == [
        ("events_lost", "away"),
        ("events_lost", "late"),
        ("events_lost", "away"),
    ]


def test_a_reason_is_logged_again_after_a_stream_that_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is another loss. Its words are cut; an end that was asked for is none."""
    watched = Watched(OSError("x" * 1000), OSError("x" * 1000))
    monkeypatch.setattr(watcher, "LAST_PAUSE", -1.0)  # every stream has lasted
    logs = logged(watched, monkeypatch)
    with capture_logs() as after:
        watched.watcher._log_once(OSError("away"))
    assert after == []
    assert [line["reason"] for line in logs] == ["x" * watcher.MAX_REASON] * 2


def test_it_stops_at_once_while_it_listens(watch: Callable[..., Watched]) -> None:
    """The stream is closed under it, and its thread ends."""
    watched = watch()
    eventually(lambda: watched.hints)
    watched.watcher.stop()
    watched.watcher._thread.join(2)
    assert not watched.watcher._thread.is_alive()
    assert watched.quiet.closed.is_set()


def test_it_stops_at_once_while_it_connects() -> None:
    """A connect that hangs holds nothing up; what it opens after all is closed, and says nothing."""
    connecting, connected = threading.Event(), threading.Event()
    hints: list[Any] = []
    stream = Stream()

    def open_events() -> Stream:
        connecting.set()
        connected.wait(10)
        return stream

    watched = Watcher(cast(Any, open_events), hints.append)
    watched.start()
    assert connecting.wait(5)
    began = time.monotonic()
    watched.stop()
    assert time.monotonic() - began < 0.5
    connected.set()
    watched._thread.join(2)
    assert not watched._thread.is_alive()
    assert (hints, stream.closed.is_set()) == ([], True)


def test_it_stops_while_it_pauses() -> None:
    """In the middle of the longest pause."""
    watched = Watched(*[OSError("away")] * 20)
    watched.watcher.start()
    eventually(lambda: watched.opened >= 1)
    watched.watcher.stop()
    watched.watcher._thread.join(2)
    assert not watched.watcher._thread.is_alive()


# The SDK's stream


def event(kind: str, actor: str, action: str, **attributes: str) -> dict[str, Any]:
    """One of Docker's."""
    return {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "timeNano": 2_500_000_000}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (event("service", "s1", "remove"), [Change("service", "s1", 2.5, True)]),
        (event("node", "n1", "update"), [Change("node", "n1", 2.5)]),
        (event("config", "f1", "create", name="qm-fn-f-1"), [Change("config", "f1", 2.5)]),
        (event("config", "f2", "update", name="qm-cron-f"), []),
        (event("container", "c1", "die"), []),
        (event("container", "c2", "destroy", **{MANAGED: "true"}), [Change("container", "c2", 2.5, True)]),
        (event("container", "c3", "start", **{SERVICE_LABEL: "s3"}), [Change("service", "s3", 2.5)]),
        (
            event("container", "c4", "start", **{SERVICE_LABEL: "s4", MANAGED: "true"}),
            [Change("service", "s4", 2.5), Change("container", "c4", 2.5)],
        ),
    ],
)
def test_an_event_is_a_change_of_what_it_may_be_about(given: dict[str, Any], expected: list[Change]) -> None:
    """A foreign container is nobody's; one that seems to be a service's may be ours, where its image says the other.

    The claims of schedules are read where they are needed.
    """
    assert list(changes(given)) == expected


def test_a_stream_of_the_sdk_that_is_silent_is_opened_again(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop closes it under the thread, which the SDK's read would hold for ever; and it stops at once."""
    monkeypatch.setattr(watcher, "MAX_AGE", 0.05)
    monkeypatch.setattr(watcher, "CHECK_EVERY", 0.01)
    hints: list[Change] = []
    watched = Watcher(Engine(Endpoint.read(stub.host, {})).events, hints.append)
    watched.start()
    renew_until(watched, lambda: len(hints) >= 3)
    assert hints[:3] == [RELIST] * 3
    assert watched.reopened["age"] >= 2
    watched.stop()
    watched._thread.join(2)
    assert not watched._thread.is_alive()


def test_no_authority_of_the_environment_is_trusted(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of DOCKER_CERT_PATH is the engine's."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "others.pem")
    stream = EventStream(stub.host, None)
    settings = stream._client.merge_environment_settings("https://engine:2376", {}, None, True, None)
    assert settings["verify"] is True
    stream.close()
