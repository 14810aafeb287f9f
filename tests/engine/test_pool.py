"""The engine's pool, health, failures, registry and calls, with clients that are not there."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import docker.errors
import pytest
import requests
import urllib3.exceptions
from fakes import AUTH, DIGEST, until

from qmaster.engine import errors
from qmaster.engine import health as health_room
from qmaster.engine.calls import Calls
from qmaster.engine.containers import own_container_id
from qmaster.engine.core import Engine
from qmaster.engine.endpoint import Endpoint
from qmaster.engine.errors import EngineBusy, EngineTimeout, EngineUnreached, outcome_open, translate
from qmaster.engine.health import Health
from qmaster.engine.pool import Pool
from qmaster.engine.registry import KEPT, Registry
from qmaster.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    EngineAway,
    EngineRefused,
    HttpError,
    NotAManager,
    NotFound,
    RegistryRefused,
    TooManyCalls,
)
from qmaster.limiter import act_for, acting_for
from qmaster.models.credentials import Credentials

BROKEN = requests.exceptions.ConnectionError("Connection aborted.", ConnectionResetError(104, "reset"))
REFUSED = requests.exceptions.ConnectionError("Connection aborted.", ConnectionRefusedError(111, "refused"))
TIMEOUT = requests.exceptions.ReadTimeout("read timed out")
SILENCE = object()
POOL: Any = urllib3.connectionpool.HTTPConnectionPool("localhost")
CREDENTIALS = Credentials.decode(AUTH)

Work = Callable[[Any], Any]


def answered(status: int, said: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("error", response=response, explanation=said)


class FakeClient:
    """What one thread of a pool holds; ``answers`` are given, or raised, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []
        self.timeout = 0.0
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def _next(self, *asked: Any) -> Any:
        self.asked.append(asked)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ping(self) -> Any:
        return self._next("ping")

    def info(self) -> Any:
        return {"Swarm": {"ControlAvailable": True}}

    def fetch(self, path: str, headers: dict[str, str]) -> Any:
        return self._next(path, headers)

    def submit(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        return self._next(path, body, headers)


class FakeLines:
    """Lines whose calls have their turn with ``go``, and are then answered with ``answer``, which may be an error."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.sent: list[Any] = []
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def post(self, path: str, body: Any, headers: Any, turn: Callable[[], None]) -> Any:
        await self.go.wait()
        turn()
        self.sent.append((path, body, headers))
        if self.answer is SILENCE:
            await asyncio.sleep(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        self.closed = True


def pool(client: FakeClient, threads: int = 1, **more: Any) -> Pool:
    connect: Any = lambda: client  # noqa: E731
    return Pool(connect, threads, "test", **more)


def ping(client: Any) -> Any:
    return client.ping()


# --- the pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_call_runs_in_a_thread_with_a_client_and_a_bound() -> None:
    """The answer comes back as it is."""
    client, seen = FakeClient("pong"), []

    def work(client: Any) -> Any:
        seen.append((threading.current_thread().name, client.timeout))
        return client.ping()

    assert await pool(client).call(work, 3.0) == "pong"
    assert seen == [("test_0", 3.0)]


@pytest.mark.gen_test
async def test_each_thread_has_a_client_of_its_own() -> None:
    """The SDK's are not safe between threads; one is kept as long as it works."""
    made: list[FakeClient] = []
    both = threading.Barrier(2, timeout=4)

    def connect() -> Any:
        made.append(FakeClient("pong"))
        return made[-1]

    def work(client: Any) -> int:
        both.wait()
        return id(client)

    calls = Pool(connect, 2, "test")
    for _ in range(3):
        first, second = await asyncio.gather(calls.call(work, 3.0), calls.call(work, 3.0))
        assert first != second
    assert len(made) == 2


@pytest.mark.gen_test
async def test_while_the_engine_is_away_a_call_fails_at_once() -> None:
    """No thread is taken and nothing is asked."""
    client, away = FakeClient("pong"), EngineAway("the engine is away")
    with pytest.raises(EngineAway, match="the engine is away"):
        await pool(client, away=lambda: away).call(ping, 3.0)
    assert client.asked == []


@pytest.mark.gen_test
async def test_what_waited_for_a_thread_fails_at_once_when_the_engine_goes() -> None:
    """It is asked again whether the engine is away when a thread is free."""
    client, gone, go, begun = FakeClient("pong"), threading.Event(), threading.Event(), threading.Event()

    def slow(client: Any) -> None:
        begun.set()
        go.wait(4)

    calls = pool(client, away=lambda: EngineAway("gone") if gone.is_set() else None)
    first = asyncio.ensure_future(calls.call(slow, 3.0))
    second = asyncio.ensure_future(calls.call(ping, 3.0))
    await until(begun.is_set)
    gone.set()
    go.set()
    await first
    with pytest.raises(EngineAway, match="gone"):
        await second
    assert client.asked == []


@pytest.mark.gen_test
async def test_a_call_is_bounded_though_its_thread_is_not() -> None:
    """A client that hangs against its own timeout: the caller has 503 all the same, and the suspicion is told."""
    told: list[EngineAway] = []
    release = threading.Event()
    calls = pool(FakeClient("pong"), failed=told.append)
    with pytest.raises(EngineAway, match="in time"):
        await calls.call(lambda client: release.wait(4), -0.95)
    release.set()
    assert len(told) == 1


@pytest.mark.gen_test
async def test_what_is_given_up_is_told_at_once_and_its_outcome_is_open() -> None:
    """It may have been done; what comes then is not even sent."""
    frozen, failed = threading.Event(), Mock()
    calls = pool(FakeClient("pong"), failed=failed)
    flying = asyncio.ensure_future(calls.call(lambda client: frozen.wait(5), 25.0))
    await asyncio.sleep(0.05)
    waiting = asyncio.ensure_future(calls.call(ping, 25.0))
    await asyncio.sleep(0)
    calls.give_up()
    for each in (flying, waiting):
        with pytest.raises(EngineAway, match="stopping") as told:
            await asyncio.wait_for(each, 1)
        assert outcome_open(told.value) is (each is flying)
    with pytest.raises(EngineAway, match="stopping") as told:
        await calls.call(ping, 25.0)
    assert not outcome_open(told.value)
    failed.assert_not_called()  # it says nothing of the engine
    frozen.set()


@pytest.mark.gen_test
async def test_a_caller_that_is_cancelled_is_told_nothing_else() -> None:
    """Also while calls are given up."""
    frozen = threading.Event()
    calls = pool(FakeClient("pong"))
    flying = asyncio.ensure_future(calls.call(lambda client: frozen.wait(5), 25.0))
    await asyncio.sleep(0.05)
    flying.cancel()
    calls.give_up()
    with pytest.raises(asyncio.CancelledError):
        await flying
    frozen.set()


@pytest.mark.gen_test
async def test_its_threads_are_begun_as_they_are_needed_and_end_with_it() -> None:
    """And never hold up the end of the process."""

    def ours() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("counted_")]

    connect: Any = lambda: FakeClient("pong")  # noqa: E731
    calls = Pool(connect, 4, "counted")
    for _ in range(9):
        await calls.call(ping, 3.0)
        await asyncio.sleep(0.01)
    assert len(ours()) == 1
    together = threading.Barrier(4, timeout=4)
    await asyncio.gather(*(calls.call(lambda client: together.wait(), 3.0) for _ in range(4)))
    assert len(ours()) == 4
    assert all(each.daemon for each in ours())
    calls.close()
    async with asyncio.timeout(4):
        while ours():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.mark.gen_test
async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of an owner is bounded; what is done makes room again. It is no news of the engine."""
    monkeypatch.setattr("qmaster.limiter.MAX_QUEUED", 1)
    act_for("alice")
    go, told = threading.Event(), Mock()
    calls = pool(FakeClient("pong"), failed=told)
    waiting = [asyncio.ensure_future(calls.call(lambda client: go.wait(4), 3.0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyCalls, match="this token"):
        await calls.call(ping, 3.0)
    go.set()
    await asyncio.gather(*waiting)
    assert await calls.call(ping, 3.0) == "pong"
    told.assert_not_called()


@pytest.mark.gen_test
async def test_a_slot_is_taken_until_its_thread_has_ended() -> None:
    """Whoever has left: else the next call would wait for a thread, in the time that the engine has."""
    act_for("alice")
    go = threading.Event()
    calls = pool(FakeClient("pong"))
    with pytest.raises(EngineTimeout):
        await calls.call(lambda client: go.wait(4), -0.95)
    following = asyncio.ensure_future(calls.call(ping, -0.5))
    await asyncio.sleep(0.8)  # longer than the call may take
    assert not following.done()
    go.set()
    assert await following == "pong"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answers", "again", "asked", "error"),
    [
        ([BROKEN, "pong"], True, 2, None),
        ([BROKEN, "pong"], False, 1, EngineAway),
        ([BROKEN, BROKEN, "pong"], True, 2, EngineAway),
        ([TIMEOUT, "pong"], True, 1, EngineAway),
        ([REFUSED, "pong"], True, 1, EngineUnreached),
        ([answered(404, "no such"), "pong"], True, 1, NotFound),
        ([answered(500, "oops"), "pong"], True, 1, EngineRefused),
    ],
)
async def test_a_call_is_sent_again_only_where_that_is_safe(
    answers: list[Any], again: bool, asked: int, error: type[HttpError] | None
) -> None:
    """Once more, where the connection broke and the call changes nothing; never after a timeout or an answer."""
    client = FakeClient(*answers)
    if error is None:
        assert await pool(client).call(ping, 3.0, again) == "pong"
    else:
        with pytest.raises(error):
            await pool(client).call(ping, 3.0, again)
    assert len(client.asked) == asked


@pytest.mark.gen_test
async def test_only_silence_is_a_suspicion() -> None:
    """An answer, whatever it says, shows that the engine is there."""
    told: list[EngineAway] = []
    calls = pool(FakeClient(answered(500, "oops"), answered(404, "no"), BROKEN, "pong"), failed=told.append)
    for error in (EngineRefused, NotFound, EngineAway):
        with pytest.raises(error):
            await calls.call(ping, 3.0)
    assert len(told) == 1


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("pong", "ok"), (answered(404, "no"), "refused"), (answered(503, "busy"), "refused"), (TIMEOUT, "timeout"),
     (BROKEN, "away")],
)  # fmt: skip
async def test_each_call_that_is_sent_is_counted(answer: object, outcome: str) -> None:
    """By its kind, which is the pool's where none is given, its outcome and its seconds."""
    counted: list[tuple[str, str, float]] = []
    calls = pool(FakeClient(answer), count=lambda *call: counted.append(call))
    for kind in ("", "list"):
        with contextlib.suppress(HttpError):
            await calls.call(ping, 3.0, kind=kind)
    assert [call[:2] for call in counted] == [("test", outcome), ("list", outcome)]
    assert all(0 <= seconds < 3 for _, _, seconds in counted)


@pytest.mark.gen_test
async def test_what_is_not_sent_or_not_waited_for() -> None:
    """While the engine is known to be away nothing is counted; a caller who leaves is."""
    counted: list[str] = []
    gone = EngineAway("away")
    calls = pool(FakeClient("pong"), away=lambda: gone, count=lambda kind, outcome, seconds: counted.append(outcome))
    with pytest.raises(EngineAway):
        await calls.call(ping, 3.0)
    assert counted == []
    release = threading.Event()
    calls = pool(FakeClient("pong"), count=lambda kind, outcome, seconds: counted.append(outcome))
    call = asyncio.create_task(calls.call(lambda client: release.wait(5), 3.0))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    release.set()
    assert counted == ["cancelled"]


@pytest.mark.gen_test
async def test_a_client_that_broke_is_not_used_again() -> None:
    """The engine that comes back may be of another version."""
    made: list[FakeClient] = []

    def connect() -> Any:
        made.append(FakeClient("pong") if made else FakeClient(BROKEN))
        return made[-1]

    calls = Pool(connect, 1, "test")
    with pytest.raises(EngineAway):
        await calls.call(ping, 3.0)
    assert await calls.call(ping, 3.0) == "pong"
    assert [client.closed for client in made] == [True, False]


@pytest.mark.gen_test
async def test_an_engine_that_cannot_be_connected_is_away() -> None:
    """The client's constructor asks for the version, and wraps what that raised."""

    def connect() -> Any:
        raise docker.errors.DockerException("Error while fetching server API version") from REFUSED

    with pytest.raises(EngineUnreached):
        await Pool(connect, 1, "test").call(ping, 3.0)


# --- posts ------------------------------------------------------------------------------------------------------------

POSTED = ("/services/create", {"Name": "one"}, {"X-Registry-Auth": "x"})


def posting(lines: FakeLines, **more: Any) -> Pool:
    return pool(FakeClient("by a thread"), threads=2, lines=lines, **more)


def sent(calls: Pool, within: float = 3.0) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(calls.post(*POSTED, within, "create"))


@pytest.mark.gen_test
async def test_a_post_takes_a_line_and_no_thread() -> None:
    """Where there are lines."""
    lines = FakeLines({"ID": "s1"})
    assert await sent(posting(lines)) == {"ID": "s1"}
    assert lines.sent == [POSTED]


@pytest.mark.gen_test
async def test_without_lines_a_post_takes_a_thread() -> None:
    """With the SDK's client: the engine may be elsewhere. It is sent once."""
    client = FakeClient({"ID": "s1"}, BROKEN, "twice")
    calls = pool(client)
    assert await sent(calls) == {"ID": "s1"}
    with pytest.raises(EngineAway):
        await sent(calls)
    assert client.asked == [POSTED] * 2


@pytest.mark.gen_test
async def test_a_post_is_refused_at_once_while_the_engine_is_away_or_all_ends() -> None:
    """Nothing is sent, and nothing counted; of an end the engine is not suspected."""
    lines, counted, told = FakeLines(), Mock(), Mock()
    calls = posting(lines, away=lambda: EngineAway("gone"), count=counted, failed=told)
    with pytest.raises(EngineUnreached, match="gone"):
        await sent(calls)
    calls = posting(lines, count=counted, failed=told)
    calls.give_up()
    with pytest.raises(EngineUnreached, match="stopping"):
        await sent(calls)
    assert lines.sent == []
    counted.assert_not_called()
    told.assert_not_called()


@pytest.mark.gen_test
async def test_a_post_that_waited_for_its_turn_fails_at_once_when_the_engine_goes() -> None:
    """As one does that waited for a thread."""
    lines, gone = FakeLines("made"), False
    calls = posting(lines, away=lambda: EngineAway("gone") if gone else None)
    lines.go.clear()
    waiting = sent(calls)
    await asyncio.sleep(0)
    gone = True
    lines.go.set()
    with pytest.raises(EngineUnreached, match="gone") as caught:
        await waiting
    assert not outcome_open(caught.value)
    assert lines.sent == []


@pytest.mark.gen_test
async def test_a_post_is_bounded() -> None:
    """Its wait and its call together; what was asked may have been done, and the suspicion is told."""
    told: list[EngineAway] = []
    for begun in (True, False):
        lines = FakeLines(SILENCE)
        if not begun:
            lines.go.clear()
        with pytest.raises(EngineTimeout, match="in time") as caught:
            await asyncio.wait_for(sent(posting(lines, failed=told.append), within=0.02), 0.9)
        assert outcome_open(caught.value)
        assert len(lines.sent) == begun
    assert len(told) == 2


@pytest.mark.gen_test
async def test_a_post_that_is_given_up_is_told_at_once_and_its_outcome_is_open() -> None:
    """One whose caller leaves at that moment is told nothing else."""
    lines, failed = FakeLines(SILENCE), Mock()
    calls = posting(lines, failed=failed)
    flying, left = sent(calls), sent(calls)
    await until(lambda: len(lines.sent) == 2)
    left.cancel()
    calls.close()
    with pytest.raises(EngineTimeout, match="stopping") as told:
        await asyncio.wait_for(flying, 1)
    assert outcome_open(told.value)
    with pytest.raises(asyncio.CancelledError):
        await left
    failed.assert_not_called()
    assert lines.closed


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "outcome", "suspected"),
    [("made", "ok", 0), (Conflict("taken"), "refused", 0), (EngineBusy("busy"), "refused", 0),
     (EngineAway("broke"), "away", 1), (EngineTimeout("late"), "timeout", 1), (SILENCE, "timeout", 1)],
)  # fmt: skip
async def test_each_post_that_is_sent_is_counted(answer: object, outcome: str, suspected: int) -> None:
    """By its own kind."""
    counted: list[tuple[str, str, float]] = []
    told: list[EngineAway] = []
    calls = posting(FakeLines(answer), count=lambda *call: counted.append(call), failed=told.append)
    with contextlib.suppress(HttpError):
        await sent(calls, within=0.02)
    assert [call[:2] for call in counted] == [("create", outcome)]
    assert 0 <= counted[0][2] < 3
    assert len(told) == suspected


@pytest.mark.gen_test
async def test_a_post_whose_caller_leaves_is_counted_and_makes_room() -> None:
    """Its connection is closed, so that its slot is free at once."""
    act_for("alice")  # who has one of the two
    counted: list[str] = []
    lines = FakeLines(SILENCE)
    calls = posting(lines, count=lambda kind, outcome, seconds: counted.append(outcome))
    flying = sent(calls)
    await until(lambda: lines.sent)
    flying.cancel()
    await asyncio.wait([flying])
    assert counted == ["cancelled"]
    lines.answer = "made"
    assert await sent(calls) == "made"


# --- failures ---------------------------------------------------------------------------------------------------------


def _caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered(400, "invalid mount"), BadRequest),
        (answered(404, "service x not found"), NotFound),
        (answered(409, "name in use"), Conflict),
        (answered(500, "oops"), EngineRefused),
        (answered(501, "not implemented"), EngineRefused),
        (answered(503, "shutting down"), EngineBusy),
        (answered(503, "This node is not a swarm manager. Use docker swarm init"), NotAManager),
        (answered(406, "This node is not part of a swarm"), NotAManager),
        (answered(503, "This node is not a swarm manager. Worker nodes can't be used to view"), NotAManager),
        (answered(500, "rpc error: code = Unknown desc = The swarm does not have a leader."), EngineBusy),
        (answered(500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"), EngineBusy),
        (answered(500, "rpc error: code = Unavailable desc = connection closed"), EngineBusy),
        (TIMEOUT, EngineTimeout),
        (requests.exceptions.ConnectTimeout("no"), EngineTimeout),
        (urllib3.exceptions.ConnectTimeoutError("no"), EngineTimeout),
        (urllib3.exceptions.ReadTimeoutError(POOL, "/", "no"), EngineTimeout),
        (urllib3.exceptions.NewConnectionError(POOL, "no route"), EngineUnreached),
        (TimeoutError(), EngineTimeout),
        (BROKEN, EngineAway),
        (requests.exceptions.ChunkedEncodingError("broken"), EngineAway),
        (urllib3.exceptions.ProtocolError("broken"), EngineAway),
        (OSError(113, "no route to host"), EngineAway),
        (ValueError("no JSON"), EngineRefused),
        (KeyError("ID"), EngineRefused),
        (requests.exceptions.JSONDecodeError("not JSON", "<html>", 0), EngineRefused),
        (docker.errors.DockerException("what"), EngineRefused),
        (_caused(docker.errors.DockerException("version"), TIMEOUT), EngineTimeout),
        (BadRequest("ours"), BadRequest),
    ],
    ids=str,
)
def test_dockers_failures_become_ours(error: Exception, kind: type[HttpError]) -> None:
    """By what was answered, and by what was not."""
    assert type(translate(error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        requests.exceptions.ConnectionError("x", FileNotFoundError(2, "no such file")),
        requests.exceptions.ConnectionError("x", PermissionError(13, "denied")),
        requests.exceptions.ConnectionError(_caused(OSError("x"), ConnectionRefusedError(111, "refused"))),
        _caused(docker.errors.DockerException("version"), REFUSED),
    ],
)
def test_where_nothing_listens_nothing_was_done(error: Exception) -> None:
    """The call was never sent: its outcome is not open."""
    known = translate(error)
    assert isinstance(known, EngineUnreached)
    assert not outcome_open(known)


def at(path: str, status: int, said: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code, response.url = status, f"http+docker://localhost/v1.41{path}"
    return docker.errors.APIError("error", response=response, explanation=said)


LEADER = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online"
)
SERVICES, START = "/services/create", "/containers/3f/start"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (at(START, 400, 'exec: "context deadline exceeded": executable file not found in $PATH: unknown'), BadRequest),
        (at(START, 500, 'chdir to cwd ("/The swarm does not have a leader") set in config.json failed'), EngineRefused),
        (at(START, 500, "context deadline exceeded"), EngineRefused),
        (at("/containers/create", 404, "No such image: not-a-swarm-manager/code = Unavailable:1"), NotFound),
        (at("/containers/create", 503, "This node is not a swarm manager"), EngineBusy),
        (at("/distribution/x/json", 500, 'Get "https://x/v2/": context deadline exceeded'), EngineRefused),
        (at(SERVICES, 400, "rpc error: code = Unavailable desc = what was sent"), BadRequest),
        (at(SERVICES, 409, "name conflicts: The swarm does not have a leader already exists"), Conflict),
        (at(SERVICES, 500, "bad mount source /not a swarm manager/context deadline exceeded"), EngineRefused),
        (at(SERVICES, 500, "rpc error: code = Unknown desc = bad label: not part of a swarm"), EngineRefused),
        (at(SERVICES, 503, LEADER), EngineBusy),
        (at("/nodes", 500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"), EngineBusy),
        (at("/tasks", 503, 'This node is not a swarm manager. Use "docker swarm init"'), NotAManager),
    ],
    ids=str,
)
def test_words_that_a_caller_sent_mean_nothing(error: Exception, kind: type[HttpError]) -> None:
    """The engine quotes them: its own words of the swarm have their status, their place and their calls."""
    assert type(translate(error)) is kind


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [("/services/create", 503, EngineBusy), ("/services/create", 400, BadRequest), ("/_ping", 500, EngineRefused)],
)
def test_the_loops_own_calls_are_read_alike(path: str, status: int, kind: type[HttpError]) -> None:
    """By their status and path."""
    assert type(errors.refused(status, LEADER.encode(), {}, path)) is kind


@pytest.mark.parametrize(
    ("status", "said", "ambiguous"),
    [
        (400, "Multiple IDs found with provided prefix: 3f", True),
        (500, "rpc error: code = Unknown desc = service x is ambiguous (2 matches found)", True),
        (404, "service multiple IDs found with provided prefix not found", False),
        (400, "invalid name: service x is ambiguous (no)", False),
    ],
)
def test_what_is_ambiguous(status: int, said: str, ambiguous: bool) -> None:
    """Docker says so of the beginning of several ids."""
    assert errors.is_ambiguous(translate(answered(status, said))) is ambiguous


def test_a_lost_stream_is_explained_in_words() -> None:
    """As a call's failure is: no names of Python's or the SDK's."""
    said = Engine.explain(_caused(docker.errors.DockerException("Error while fetching server API version"), REFUSED))
    assert said.startswith("the Docker engine is away: nothing answers at its address")
    assert Engine.explain(BROKEN) == "the Docker engine broke the connection off; try again"


@pytest.mark.parametrize(
    ("error", "open_"), [(BROKEN, True), (TIMEOUT, True), (answered(500, "oops"), True), (answered(404, "no"), False)]
)
def test_an_answer_that_was_lost_leaves_the_outcome_open(error: Exception, open_: bool) -> None:
    """A break or a timeout says nothing of what was done; a 500 may mean that it was."""
    assert outcome_open(translate(error)) is open_


def test_dockers_words_are_one_line_of_bounded_length() -> None:
    """An engine's answer may be a page of HTML."""
    said = errors.explanation(answered(500, "one\n two\t" + "x" * 9999))
    assert said.startswith("one two x")
    assert len(said) == errors.MAX_DETAIL


def test_a_worker_is_told_from_an_engine_without_a_swarm() -> None:
    """What to do is another thing."""
    worker = translate(answered(503, "This node is not a swarm manager. Worker nodes can't be used to view"))
    alone = translate(answered(503, "This node is not a swarm manager. Use docker swarm init"))
    assert "run quartermaster on a manager" in str(worker)
    assert "docker swarm init" in str(alone)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            'Swarm is encrypted and needs to be unlocked. Please use "docker swarm unlock".',
            "unlock",
        ),
        ("Swarm certificates have expired. To replace them, leave the swarm and join again.", "certificates"),
        ("This node is not a swarm manager. Manager is being prepared or has trouble connecting.", "wait"),
    ],
    ids=["locked", "expired", "prepared"],
)
def test_a_swarm_that_is_there_is_never_to_be_made_anew(said: str, hint: str) -> None:
    """`docker swarm init` would destroy it."""
    error = translate(answered(503, said))
    assert isinstance(error, NotAManager)
    assert hint in str(error)
    assert "swarm init" not in str(error)


# --- health -----------------------------------------------------------------------------------------------------------


def health(client: Any) -> Health:
    connect: Any = client if callable(client) else lambda: client
    return Health(connect)


@pytest.mark.gen_test
async def test_it_is_not_ready_before_the_engine_has_answered() -> None:
    """But calls are tried: away is what is known, not what is feared."""
    watched = health(FakeClient("OK"))
    assert isinstance(watched.trouble, EngineAway)
    assert watched.away is None
    await watched._probe()
    assert watched.trouble is watched.away is None


@pytest.mark.gen_test
async def test_an_engine_goes_and_comes_back() -> None:
    """`away` is set by a ping that failed, and taken back by one that did not."""
    watched = health(FakeClient(REFUSED, "OK"))
    await watched._probe()
    assert isinstance(watched.away, EngineUnreached)
    assert watched.trouble is watched.away
    await watched._probe()
    assert watched.away is watched.trouble is None


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"LocalNodeState": "inactive", "ControlAvailable": False}, "docker swarm init"),
        ({"LocalNodeState": "active", "ControlAvailable": False}, "worker"),
        ({"LocalNodeState": "locked", "ControlAvailable": False}, "docker swarm unlock"),
        ({"LocalNodeState": "pending", "ControlAvailable": False}, "joining its swarm"),
        ({"LocalNodeState": "error", "Error": "no room on the disk"}, "(no room on the disk)"),
        ({"LocalNodeState": "error", "Error": "Swarm certificates have expired."}, "certificates have expired"),
        ({"LocalNodeState": "error"}, "'docker info'"),
        ({"LocalNodeState": "of another kind"}, "of another kind"),
        (None, "docker swarm init"),
    ],
)
async def test_an_engine_that_is_no_manager_is_trouble_but_not_away(node: Any, says: str) -> None:
    """Containers run on it."""
    client = FakeClient("OK")
    client.info = lambda: {"Swarm": node}  # type: ignore[method-assign]
    watched = health(client)
    await watched._probe()
    assert isinstance(watched.trouble, NotAManager)
    assert says in str(watched.trouble)
    assert ("swarm init" in str(watched.trouble)) is (says == "docker swarm init"), "it would destroy what there is"
    assert watched.away is None


@pytest.mark.gen_test
async def test_a_call_that_found_nothing_listening_is_believed() -> None:
    """The next call fails at once; a connection that broke is only asked about."""
    watched = health(FakeClient("OK"))
    await watched._probe()
    watched.suspect(EngineAway("broke"))
    assert watched.away is None
    watched.suspect(EngineUnreached("nothing there"))
    assert str(watched.away) == str(watched.trouble) == "nothing there"


@pytest.mark.gen_test
async def test_a_suspicion_wakes_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for its next turn; until cancelled it goes on."""
    monkeypatch.setattr(health_room, "PING_EVERY", 3600.0)
    client = FakeClient("OK")
    watched = health(client)
    watching = asyncio.create_task(watched.watch())
    await until(lambda: watched.trouble is None)
    asked = len(client.asked)
    client.answers = [REFUSED]
    watched.suspect(EngineAway("broke"))
    await until(lambda: watched.away)
    assert len(client.asked) > asked
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


@pytest.mark.gen_test
async def test_the_watch_goes_on_while_the_engine_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sees it come back by itself."""
    monkeypatch.setattr(health_room, "PING_AWAY_EVERY", 0.001)
    watched = health(FakeClient(REFUSED, BROKEN, BROKEN, TIMEOUT, answered(500, "starting"), "OK"))
    watching = asyncio.create_task(watched.watch())
    await until(lambda: watched.away)
    await until(lambda: watched.trouble is None)
    watching.cancel()


@pytest.mark.gen_test
@pytest.mark.parametrize("ticks", range(5))
async def test_the_watch_ends_when_cancelled_as_it_wakes(ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation is not lost to a wake-up of the same moment (as Python 3.11's wait_for can lose it)."""
    monkeypatch.setattr(health_room, "PING_EVERY", 3600.0)
    watched = health(FakeClient("OK"))
    watching = asyncio.create_task(watched.watch())
    await until(lambda: watched.trouble is None)
    await asyncio.sleep(0.01)  # into its pause; were it not there yet, the cancellation would end it all the same
    watched.suspect(EngineAway("broke"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    watching.cancel()
    done, _ = await asyncio.wait([watching], timeout=1)
    watching.cancel()
    assert done


# --- the registry -----------------------------------------------------------------------------------------------------

TOLD = {"Descriptor": {"digest": DIGEST}}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def registry(*answers: Any) -> tuple[Registry, FakeClient, Clock]:
    client, clock = FakeClient(*answers), Clock()
    return Registry(pool(client), clock), client, clock


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("image", "pinned", "asked"),
    [
        ("busybox", f"busybox@{DIGEST}", 1),
        ("team/tool:v1", f"team/tool:v1@{DIGEST}", 1),
        (f"busybox@{'sha256:' + 'b' * 64}", f"busybox@{'sha256:' + 'b' * 64}", 0),
    ],
)
async def test_an_image_is_pinned_as_it_was_written(image: str, pinned: str, asked: int) -> None:
    """With its digest behind it; one that has a digest is not asked about."""
    kept, client, _ = registry(TOLD)
    assert await kept.pin(image, None) == pinned
    assert client.asked == [(f"/distribution/{image}/json", {})] * asked


@pytest.mark.gen_test
async def test_credentials_go_with_the_question() -> None:
    """As this call's own header; also for an image with a digest, as they are checked by it."""
    kept, client, _ = registry(TOLD)
    image = f"busybox@{'sha256:' + 'b' * 64}"
    assert await kept.pin(image, CREDENTIALS) == image
    assert client.asked == [(f"/distribution/{image}/json", {"X-Registry-Auth": CREDENTIALS.header()})]


UNSURE: list[tuple[Any, str]] = [
    (answered(404, "manifest unknown"), "missing"),
    (answered(401, "unauthorized: incorrect username or password"), "denied"),
    (answered(403, "denied: requested access to the resource is denied"), "denied"),
    (answered(500, "no basic auth credentials"), "denied"),
    (answered(500, "dial tcp: lookup registry: no such host"), "silent"),
    (answered(503, "i/o timeout"), "silent"),
    (TIMEOUT, "silent"),
]


@pytest.mark.gen_test
@pytest.mark.parametrize(("answer", "kind"), UNSURE, ids=str)
async def test_without_credentials_an_image_goes_on_unpinned(answer: Exception, kind: str) -> None:
    """An engine may have it, whatever the registry says."""
    kept, _, _ = registry(answer)
    assert await kept.pin("registry:5000/tool", None) == "registry:5000/tool"


@pytest.mark.gen_test
@pytest.mark.parametrize(("answer", "says"), [(TOLD, None), (UNSURE[1][0], "refused the credentials")])
async def test_wrong_credentials_are_refused(answer: Any, says: str | None) -> None:
    """502 before anything is created; the error names the registry, and shows no credentials."""
    kept, _, _ = registry(answer)
    if says is None:
        assert await kept.pin("registry:5000/tool", CREDENTIALS) == f"registry:5000/tool@{DIGEST}"
        return
    with pytest.raises(RegistryRefused, match=says) as caught:
        await kept.pin("registry:5000/tool", CREDENTIALS)
    assert "registry:5000" in str(caught.value)
    assert "something" not in str(caught.value)


@pytest.mark.gen_test
async def test_credentials_that_cannot_be_checked_are_refused() -> None:
    """502 where the registry is silent."""
    kept, _, _ = registry(answered(500, "dial tcp: i/o timeout"))
    with pytest.raises(RegistryRefused, match="did not answer"):
        await kept.pin("registry:5000/tool", CREDENTIALS)


NAMED = "registry:401/denied/unauthorized:404"


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("image", "said", "says"),
    [
        (NAMED, f'Get "https://{NAMED}/v2/": dial tcp 10.77.0.1:403: connect: connection refused', "did not answer"),
        ("forbidden:not-found", "cannot fetch forbidden:not-found: i/o timeout", "did not answer"),
        (NAMED, f"manifest for {NAMED} not found: manifest unknown: manifest unknown", None),
        ("denied:1", "manifest for denied:1 not found: manifest unknown", None),
        (NAMED, "errors: unauthorized: authentication required", "refused the credentials"),
        ("denied:1", "unexpected status from HEAD request to https://x/v2/denied: 403 Forbidden", "refused the creden"),
    ],
)
async def test_what_an_image_is_called_says_nothing_of_its_registry(image: str, said: str, says: str | None) -> None:
    """The engine quotes the reference, and the address that it was sent to."""
    kept, _, _ = registry(answered(500, said))
    if says is None:
        assert await kept.pin(image, CREDENTIALS) == image
        return
    with pytest.raises(RegistryRefused, match=says):
        await kept.pin(image, CREDENTIALS)


@pytest.mark.gen_test
async def test_callers_at_once_share_one_question() -> None:
    """A hundred runs of one image ask the registry once."""
    kept, client, _ = registry(TOLD)
    answers = await asyncio.gather(*(kept.pin("busybox", None) for _ in range(100)))
    assert set(answers) == {f"busybox@{DIGEST}"}
    assert len(client.asked) == 1


@pytest.mark.gen_test
async def test_nobody_waits_in_anothers_queue_for_the_registry() -> None:
    """Another owner asks again while a question is open; what it was told all may have."""
    go, client = threading.Event(), FakeClient(TOLD)
    slow: Any = FakeClient(TOLD)
    slow.fetch = lambda path, headers: go.wait(5) and client.fetch(path, headers)
    kept = Registry(Pool(lambda: slow, 3, "test"))
    with acting_for("alice"):
        first = [asyncio.ensure_future(kept.pin(image, None)) for image in ("busybox:1", "busybox:2", "busybox")]
        await asyncio.sleep(0.05)
    slow.fetch = client.fetch
    with acting_for("bob"):
        assert await asyncio.wait_for(kept.pin("busybox", None), 3) == f"busybox@{DIGEST}"
        assert await kept.pin("busybox", None) == f"busybox@{DIGEST}"
        assert len(client.asked) == 1
    go.set()
    assert len(await asyncio.gather(*first)) == 3


@pytest.mark.gen_test
async def test_a_wait_in_our_own_queue_is_no_silence_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as what it is, also with credentials, and nothing is kept of it."""
    go, client = threading.Event(), FakeClient(TOLD)
    slow: Any = FakeClient(TOLD)
    slow.fetch = lambda path, headers: go.wait(5) and client.fetch(path, headers)
    calls = Pool(lambda: slow, 1, "test")
    monkeypatch.setattr(calls._limiter, "_queued_for", 0.05)
    kept = Registry(calls)
    act_for("alice")
    first = asyncio.ensure_future(kept.pin("busybox:1", None))
    await asyncio.sleep(0.02)
    with pytest.raises(TooManyCalls, match="busy with this token's other calls"):
        await kept.pin("busybox", CREDENTIALS)
    go.set()
    await first
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"


@pytest.mark.gen_test
@pytest.mark.parametrize("answer", [TOLD, answered(500, "i/o timeout"), answered(401, "unauthorized")], ids=str)
async def test_an_answer_or_a_silence_is_kept_for_a_minute(answer: Any) -> None:
    """Then it is asked again."""
    kept, client, clock = registry(answer)
    await kept.pin("busybox", None)
    clock.now += KEPT - 0.1
    await kept.pin("busybox", None)
    assert len(client.asked) == 1
    clock.now += 0.2
    await kept.pin("busybox", None)
    assert len(client.asked) == 2
    assert KEPT == 60.0


OLD, SILENT = {"Descriptor": {"digest": "sha256:" + "0" * 64}}, answered(500, "i/o timeout")


@pytest.mark.gen_test
@pytest.mark.parametrize("first", [OLD, answered(404, "manifest unknown"), answered(401, "unauthorized")], ids=str)
async def test_always_asks_for_the_digest_of_now(first: Any) -> None:
    """Whatever was told a moment ago; and what it learns serves those that ask for any of the last minute."""
    kept, client, _ = registry(first, TOLD)
    await kept.pin("busybox", None)
    warnings: list[str] = []
    assert await kept.pin("busybox", None, "always", warnings) == f"busybox@{DIGEST}"
    assert await kept.pin("busybox", None) == f"busybox@{DIGEST}"
    assert (len(client.asked), warnings) == (2, [])


@pytest.mark.gen_test
async def test_always_at_once_is_one_question() -> None:
    """A thousand runs of one image that are in flight at one moment ask the registry once."""
    kept, client, _ = registry(TOLD)
    answers = await asyncio.gather(*(kept.pin("busybox", None, "always") for _ in range(1000)))
    assert set(answers) == {f"busybox@{DIGEST}"}
    assert len(client.asked) == 1
    await kept.pin("busybox", None, "always")
    assert len(client.asked) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (SILENT, "did not answer"),
        (TIMEOUT, "did not answer"),
        (answered(404, "manifest unknown"), "has no such image"),
        (answered(401, "unauthorized"), "refused the image"),
    ],
    ids=str,
)
async def test_always_in_vain_is_a_warning(answer: Any, says: str) -> None:
    """The image goes on as it is: its node may have it."""
    kept, _, _ = registry(answer)
    warnings: list[str] = []
    assert await kept.pin("registry:5000/tool", None, "always", warnings) == "registry:5000/tool"
    (warning,) = warnings
    assert warning.startswith(f"pull_policy: the registry registry:5000 {says}, so what is there already is used: ")


@pytest.mark.gen_test
async def test_a_silence_is_believed_by_always_too() -> None:
    """For a minute no run waits for that registry again; each is warned."""
    kept, client, clock = registry(SILENT)
    for asked in (1, 1, 2):
        warnings: list[str] = []
        await kept.pin("busybox", None, "always", warnings)
        assert (len(client.asked), len(warnings)) == (asked, 1)
        clock.now += KEPT / 2 + 0.1


@pytest.mark.gen_test
async def test_credentials_that_were_right_are_believed_for_a_minute() -> None:
    """A registry that falls silent after it told a digest stops no run: always is warned, missing has that digest."""
    kept, client, _ = registry(TOLD, SILENT)
    await kept.pin("busybox", CREDENTIALS)
    warnings: list[str] = []
    assert await kept.pin("busybox", CREDENTIALS, "always", warnings) == "busybox"
    assert len(warnings) == 1
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"
    assert len(client.asked) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
async def test_never_asks_nobody(credentials: Credentials | None) -> None:
    """Neither for a digest nor whether credentials are right."""
    kept, client, _ = registry(TOLD)
    assert await kept.pin("busybox", credentials, "never") == "busybox"
    assert client.asked == []


@pytest.mark.gen_test
async def test_one_callers_credentials_do_not_open_for_another() -> None:
    """Each image and each credentials are a question of their own."""
    kept, client, _ = registry(TOLD, answered(401, "unauthorized"), TOLD, TOLD)
    other = Credentials("someone", "else")
    await kept.pin("busybox", CREDENTIALS)
    with pytest.raises(RegistryRefused):
        await kept.pin("busybox", other)
    await kept.pin("busybox", None)
    await kept.pin("busybox:1", CREDENTIALS)
    assert len(client.asked) == 4


@pytest.mark.gen_test
async def test_credentials_are_not_kept() -> None:
    """Only a salted digest is."""
    kept, _, _ = registry(TOLD)
    await kept.pin("busybox", CREDENTIALS)
    assert CREDENTIALS.header() not in repr(vars(kept))
    assert "something" not in repr(vars(kept))


@pytest.mark.gen_test
async def test_a_caller_that_leaves_does_not_end_the_others_question() -> None:
    """The question is not the first caller's own."""
    kept, client, _ = registry(TOLD)
    first = asyncio.ensure_future(kept.pin("busybox", None))
    second = asyncio.ensure_future(kept.pin("busybox", None))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == f"busybox@{DIGEST}"
    assert len(client.asked) == 1


@pytest.mark.gen_test
async def test_an_engine_that_is_away_is_no_silent_registry() -> None:
    """503 and not 502 with credentials; and nothing is kept of it when it is back."""
    away: list[EngineAway] = [EngineUnreached("the engine is away")]
    client = FakeClient(TOLD)
    kept = Registry(pool(client, away=lambda: away[0] if away else None))
    with pytest.raises(EngineAway):
        await kept.pin("busybox", CREDENTIALS)
    away.clear()
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"


# --- the calls --------------------------------------------------------------------------------------------------------


def submit(client: Any) -> str:
    return str(client.ping())


@pytest.mark.gen_test
async def test_a_thing_that_is_not_there_is_none() -> None:
    """404 is an answer to an inspection, and success for a removal."""
    calls = Calls(pool(FakeClient(answered(404, "no such"))))
    assert await calls.inspect(ping) is None
    await calls.remove(ping)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "service a is ambiguous (2 matches found)"), (500, "Multiple IDs found with provided prefix: a")],
)
async def test_the_beginning_of_several_ids_is_nobody(status: int, said: str) -> None:
    """Docker refuses to choose, where it is asked for a part of an id; other refusals are told."""
    assert await Calls(pool(FakeClient(answered(status, said)))).inspect(ping) is None
    with pytest.raises(HttpError):
        await Calls(pool(FakeClient(answered(status, "no")))).inspect(ping)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "made", "error"),
    [
        (BROKEN, "id", None),
        (TIMEOUT, "id", None),
        (answered(500, "context canceled"), "id", None),
        (BROKEN, None, EngineAway),
        (answered(500, "oops"), None, EngineRefused),
    ],
)
async def test_a_lost_answer_is_looked_for(
    answer: Exception, made: str | None, error: type[HttpError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A creation is sent once; what it made is adopted, and where it made nothing the error is told."""
    monkeypatch.setattr("qmaster.engine.calls.LOOK_AGAIN", (0.0, 0.0))
    client, looked = FakeClient(answer, "twice"), []

    async def find() -> str | None:
        looked.append(1)
        return made

    calls = Calls(pool(client))
    if error is None:
        assert await calls.create(submit, find) == made
    else:
        with pytest.raises(error):
            await calls.create(submit, find)
    assert len(client.asked) == 1
    assert len(looked) == (1 if made else 2)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("answer", "error"),
    [(answered(409, "taken"), Conflict), (answered(400, "bad"), BadRequest), (REFUSED, EngineUnreached)],
)
async def test_a_clear_answer_is_not_looked_behind(answer: Exception, error: type[HttpError]) -> None:
    """Docker said no, or was never reached: nothing was made."""

    async def find() -> str | None:
        raise AssertionError("looked")

    with pytest.raises(error):
        await Calls(pool(FakeClient(answer))).create(submit, find)


@pytest.mark.gen_test
async def test_an_engine_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer was lost as it went down: what was made is found when it is up again."""
    monkeypatch.setattr("qmaster.engine.calls.LOOK_AWAY_EVERY", 0.0)
    found: Iterator[Any] = iter([EngineAway("away"), EngineAway("away"), "id"])

    async def find() -> str | None:
        value = next(found)
        if isinstance(value, Exception):
            raise value
        return str(value)

    assert await Calls(pool(FakeClient(BROKEN))).create(submit, find) == "id"


@pytest.mark.gen_test
async def test_a_creation_that_was_never_sent_is_not_looked_for() -> None:
    """While the engine is known to be away, and hangs rather than refuses, the caller is told at once too."""
    away = EngineAway("the engine did not answer in time")

    async def find() -> str | None:
        raise AssertionError("looked")

    with pytest.raises(EngineAway, match="in time"):
        await Calls(pool(FakeClient("id"), away=lambda: away)).create(submit, find)


async def unfound() -> str | None:
    raise AssertionError("looked")


@pytest.mark.gen_test
async def test_what_was_posted_is_known_by_its_id() -> None:
    """Which Docker answers with, and words beside it."""
    made = {"ID": "s1", "Warnings": None}
    for calls in (posting(FakeLines(made)), pool(FakeClient(made))):
        assert await Calls(calls).post(*POSTED, unfound) == "s1"


@pytest.mark.gen_test
@pytest.mark.parametrize("answer", [None, [], "s1", {}, {"ID": None}, {"ID": 1}, {"Id": "s1"}, EngineAway("broke")])
async def test_a_post_without_an_answer_that_says_an_id_is_looked_for(
    answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent once; what it has made is adopted, and where it has made nothing the error is told."""
    monkeypatch.setattr("qmaster.engine.calls.LOOK_AGAIN", (0.0, 0.0))
    for made in ("s1", None):
        lines = FakeLines(answer)
        looked: list[int] = []

        async def find(made: str | None = made, looked: list[int] = looked) -> str | None:
            looked.append(1)
            return made

        calls = Calls(posting(lines))
        if made:
            assert await calls.post(*POSTED, find) == "s1"
        else:
            with pytest.raises(EngineAway if isinstance(answer, EngineAway) else EngineRefused) as caught:
                await calls.post(*POSTED, find)
            assert str(caught.value) == (str(answer) if isinstance(answer, EngineAway) else errors.NO_API)
        assert len(lines.sent) == 1
        assert len(looked) == (1 if made else 2)


@pytest.mark.gen_test
@pytest.mark.parametrize("answer", [Conflict("taken"), BadRequest("bad"), EngineUnreached("nothing there")])
async def test_a_post_with_a_clear_answer_is_not_looked_behind(answer: HttpError) -> None:
    """Docker said no, or was never reached: nothing was made."""
    with pytest.raises(type(answer)):
        await Calls(posting(FakeLines(answer))).post(*POSTED, unfound)


# --- where the engine is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "unix:///run/docker.sock", "tcp://127.0.0.1:2375", "ssh://root@machine"])
def test_an_address_is_read_as_docker_reads_it(host: str) -> None:
    """None connects before the first call."""
    assert Endpoint.read(host, {}) == Endpoint(host or None, None)


@pytest.mark.parametrize("host", ["nonsense://x", "tcp://", "tcp://x:port", "unix"])
def test_a_wrong_address_is_named(host: str) -> None:
    """At the start, with the flag."""
    with pytest.raises(ConfigError, match=r"^--docker-host: "):
        Endpoint.read(host, {})


def test_tls_is_for_tcp(tmp_path: Path) -> None:
    """As docker does: DOCKER_TLS_VERIFY with a socket changes nothing; with tcp it wants the certificates."""
    environ = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    assert Endpoint.read("unix:///run/docker.sock", environ).tls is None
    with pytest.raises(ConfigError, match=r"^--docker-host: "):
        Endpoint.read("tcp://127.0.0.1:2376", environ)
    for name in ("cert.pem", "key.pem", "ca.pem"):
        (tmp_path / name).touch()
    tls = Endpoint.read("tcp://127.0.0.1:2376", environ).tls
    assert tls is not None
    assert (tls.verify, tls.ca_cert) == (True, str(tmp_path / "ca.pem"))


MOUNT = "612 599 254:1 /var/lib/docker/containers/{}/{} /etc/{} rw,relatime - ext4 /dev/vda1 rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "found"),
    [
        (MOUNT.format("a" * 64, "hostname", "hostname"), "a" * 64),
        ("22 1 0:20 / /proc rw - proc proc rw\n" + MOUNT.format("b" * 64, "resolv.conf", "resolv.conf"), "b" * 64),
        (MOUNT.format("c" * 64, "data", "data"), None),
        (MOUNT.format("short", "hostname", "hostname"), None),
        ("", None),
    ],
)
def test_its_own_container_is_known_by_its_mounts(mountinfo: str, found: str | None, tmp_path: Path) -> None:
    """On any cgroup version; None outside of one."""
    file = tmp_path / "mountinfo"
    file.write_text(mountinfo)
    assert own_container_id(file) == found


def test_without_mountinfo_it_is_in_no_container(tmp_path: Path) -> None:
    """Not on Linux."""
    assert own_container_id(tmp_path / "missing") is None
