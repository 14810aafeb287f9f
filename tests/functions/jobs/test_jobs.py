"""jobs.jobs: each call is a run of its own, and its end is the call's; so many run at once, and the others wait."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest
from fakes import until
from function_cases import Stage, call, job, pinned, spec, view
from function_cases import job_over as over
from tornado.ioloop import IOLoop

from qmaster.errors import (
    BadRequest,
    CallTimedOut,
    CannotStart,
    Conflict,
    EngineAway,
    Forbidden,
    FunctionFailed,
    HttpError,
    InstanceDied,
    NoInstance,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    TooManyCalls,
)
from qmaster.functions.instances import backoff
from qmaster.functions.invocations.invocation import Answer, Invocation
from qmaster.functions.jobs import jobs
from qmaster.models.functions import MAX_INPUT, read_input
from qmaster.models.responses import Service


@pytest.fixture
def stage(io_loop: IOLoop) -> Iterator[Stage]:
    async def make() -> Stage:
        return Stage()

    made = io_loop.run_sync(make)
    yield made
    io_loop.run_sync(made.close)


async def begun(stage: Stage, count: int = 1) -> None:
    """Until so many jobs were started."""
    await until(lambda: len(stage.runs.started) == count)
    await stage.settle()


async def fails_with(calling: Awaitable[Answer], kind: type[HttpError]) -> Any:
    with pytest.raises(kind) as failed:
        await calling
    return failed.value


@pytest.mark.gen_test
async def test_a_call_is_a_run_and_its_output_the_answer(stage: Stage) -> None:
    """Named after the call, with its input; the answer says which run it was."""
    called = job()
    calling = stage.invoke(called, b'{"a": "{{.x}} \\"\xc3\xa4\\""}')
    await begun(stage)
    (started,) = stage.runs.started
    assert (started.version, started.text, started.kept) == (called, '{"a": "{{.x}} \\"ä\\""}', False)
    assert started.name == "qm-job-" + started.invocation.replace("-", "")
    assert stage.dispatcher.stats("hello").instances.starting == 1
    stage.dispatcher.notice(view("job-1"))
    assert stage.dispatcher.stats("hello").instances.busy == stage.dispatcher.busy == 1
    stage.dispatcher.notice(over("job-1", stdout='{"b": 1}\n'))
    answer = await calling
    assert (answer.body, answer.content_type, answer.instance) == (b'{"b": 1}\n', "application/json", "job-1")
    assert (answer.version, answer.cold, answer.duration_ms > 0) == (1, True, True)
    (ended,) = stage.calls
    assert (ended.outcome, ended.instance, ended.call.id) == ("ok", "job-1", started.invocation)
    await until(lambda: stage.ends == [("hello", "exit")])
    assert stage.dispatcher.busy == 0
    assert stage.runs.removed == []  # its ttl does that


@pytest.mark.parametrize(
    ("output", "media"),
    [(b"42\n", "application/json"), (b"so what\n", "text/plain; charset=utf-8"), (b"", "text/plain; charset=utf-8")],
)
@pytest.mark.gen_test
async def test_an_output_has_a_media_type(stage: Stage, output: bytes, media: str) -> None:
    """JSON or text, by what it is."""
    stage.runs.output = output
    calling = stage.invoke(job())
    await begun(stage)
    stage.dispatcher.notice(over("job-1"))
    answer = await calling
    assert (answer.body, answer.content_type) == (output, media)


@pytest.mark.parametrize(
    ("payload", "error", "says"),
    [
        (b"\xff", BadRequest, "UTF-8"),
        (b"a\0b", BadRequest, "NUL"),
        (b"a" * (MAX_INPUT + 1), PayloadTooLarge, f"{MAX_INPUT} bytes; got {MAX_INPUT + 1}"),
    ],
)
@pytest.mark.gen_test
async def test_an_input_that_cannot_be_an_environment_variable_is_refused(
    stage: Stage, payload: bytes, error: type[HttpError], says: str
) -> None:
    """Before anything is started."""
    assert says in str(await fails_with(stage.invoke(job(), payload), error))
    assert stage.runs.started == []
    assert read_input(b"a" * MAX_INPUT) == "a" * MAX_INPUT


@pytest.mark.gen_test
async def test_an_exit_code_is_the_functions_error(stage: Stage) -> None:
    """With the last lines of its output."""
    calling = stage.invoke(job())
    await begun(stage)
    lines = "\n".join(str(number) for number in range(30))
    stage.dispatcher.notice(over("job-1", 3, stdout=lines, stderr="no such table\n"))
    failed = await fails_with(calling, FunctionFailed)
    assert (failed.status, failed.error_type) == (502, "exit")
    assert failed.error_message.startswith("exit code 3:\n11\n")
    assert failed.error_message.endswith("29\nno such table")
    assert stage.calls[0].outcome == "function_error"


@pytest.mark.parametrize(
    ("last", "error", "says"),
    [
        (over("job-1", 143, reason="timeout"), CallTimedOut, "timeout of 60 s"),
        (view("job-1", "stopping", reason="timeout"), CallTimedOut, "timeout of 60 s"),
        (over("job-1", 137, status="removed", reason="stopped"), InstanceDied, "stopped"),
        (view("job-1", "removed"), InstanceDied, "removed"),
        (over("job-1", None, reason="orphaned"), InstanceDied, "its node is gone"),
        (view("job-1", "unknown", reason="node_down"), InstanceDied, "node"),
    ],
    ids=["timeout", "is being killed", "stopped", "removed", "orphaned", "node is down"],
)
@pytest.mark.gen_test
async def test_another_end_is_told(stage: Stage, last: Service, error: type[HttpError], says: str) -> None:
    """By what ended the run; at a timeout before the run is over."""
    calling = stage.invoke(job())
    await begun(stage)
    stage.dispatcher.notice(view("job-1"))
    stage.dispatcher.notice(last)
    assert says in str(await fails_with(calling, error))
    assert stage.runs.killed == (["job-1"] if last.status == "unknown" else [])
    stage.dispatcher.notice(over("job-1", 143))
    await until(lambda: stage.dispatcher.stats("hello").instances.busy == 0)
    assert len(stage.calls) == 1


@pytest.mark.gen_test
async def test_a_run_that_was_removed_after_its_end_has_succeeded(stage: Stage) -> None:
    """What was told of its end stays."""
    calling = stage.invoke(job())
    await begun(stage)
    stage.dispatcher.notice(over("job-1", status="removed", stdout="done"))
    assert (await calling).body == b"done"


@pytest.mark.gen_test
async def test_so_many_run_at_once(stage: Stage) -> None:
    """Of all versions together, in the order of the calls; one that has timed out has its place until it has ended."""
    called = job(max_instances=1)
    calls = [stage.invoke(called, str(number).encode()) for number in range(3)]
    calls.append(stage.invoke(pinned(called, runtime="job", max_instances=1), b"3"))
    for number in range(4):
        await begun(stage, number + 1)
        assert stage.runs.started[number].text == str(number)
        assert stage.dispatcher.stats("hello").queued == 3 - number
        run_id = f"job-{number + 1}"
        stage.dispatcher.notice(view(run_id, "stopping", reason="timeout"))
        await stage.settle()
        assert len(stage.runs.started) == number + 1
        stage.dispatcher.notice(over(run_id, 143, reason="timeout"))
    for calling in calls:
        await fails_with(calling, CallTimedOut)


@pytest.mark.gen_test
async def test_a_full_queue_refuses(stage: Stage) -> None:
    """One that could start at once is never refused."""
    called = job(queue=0, max_instances=1)
    first = stage.invoke(called)
    await begun(stage)
    assert (await fails_with(stage.invoke(called), QueueFull)).status == 429
    stage.dispatcher.notice(over("job-1"))
    await first


@pytest.mark.gen_test
async def test_a_call_waits_at_most_its_timeout(stage: Stage) -> None:
    """Then it is 503, and never starts."""
    called = job(max_instances=1, timeout=0.1)
    first = stage.invoke(called)
    await begun(stage)
    stage.dispatcher.notice(view("job-1"))
    assert "0.1 s" in str(await fails_with(stage.invoke(called), NoInstance))
    stage.dispatcher.notice(over("job-1"))
    await first
    await stage.settle()
    assert len(stage.runs.started) == 1


@pytest.mark.gen_test
async def test_a_caller_that_leaves_is_forgotten_while_it_waits(stage: Stage) -> None:
    """A job that runs goes on."""
    called, left = job(max_instances=1), asyncio.get_running_loop().create_future()
    first = asyncio.create_task(stage.dispatcher.invoke(called, call(), left))
    await begun(stage)
    second = asyncio.create_task(stage.dispatcher.invoke(called, call(), left))
    await stage.settle()
    left.set_result(None)
    await fails_with(second, NoInstance)
    stage.dispatcher.notice(over("job-1"))
    await first
    await stage.settle()
    assert len(stage.runs.started) == 1


@pytest.mark.parametrize(
    ("refusal", "reason", "status"),
    [
        (EngineAway("no engine"), "engine", 503),
        (TooManyCalls("busy"), "engine", 503),
        (Forbidden("images: no"), "policy", 503),
        (CannotStart("the token is gone", "policy"), "policy", 503),
        (Conflict("the name is taken"), "rejected", 502),
    ],
)
@pytest.mark.gen_test
async def test_a_refused_start_is_told(stage: Stage, refusal: HttpError, reason: str, status: int) -> None:
    """With its reason; what is no fault of a policy makes the next start wait."""
    called = job()
    stage.runs.refusal = refusal
    failed = await fails_with(stage.invoke(called), CannotStart)
    assert (failed.reason, failed.status) == (reason, status)
    assert [error.reason for error in stage.dispatcher.stats("hello").last_errors] == [reason]
    stage.runs.refusal = None
    again = stage.invoke(called)
    if reason == "policy":
        await begun(stage)
        stage.dispatcher.notice(over("job-1"))
        await again
    else:
        assert (await fails_with(again, CannotStart)).reason == reason
        assert stage.runs.started == []


@pytest.mark.parametrize(
    "last",
    [
        over("job-1", None, reason="image_not_found", error="No such image: nowhere:1", started_at=None),
        over("job-1", None, error="starting container failed: no such file", started_at=None),
    ],
    ids=["image", "program"],
)
@pytest.mark.gen_test
async def test_a_run_that_never_ran_is_a_failed_start(
    stage: Stage, last: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that wait fail with it, and starts back off until one succeeds."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    called = job(max_instances=1)
    first, second = stage.invoke(called), stage.invoke(called)
    await begun(stage)
    stage.dispatcher.notice(last)
    for calling in (first, second):
        failed = await fails_with(calling, CannotStart)
        assert (failed.status, failed.of_engine) == (502, True)
        assert last.error is not None
        assert last.error in str(failed)
    await asyncio.sleep(0.06)
    third = stage.invoke(called)
    await begun(stage, 2)
    stage.dispatcher.notice(view("job-2"))
    stage.dispatcher.notice(over("job-2"))
    await third


@pytest.mark.gen_test
async def test_a_failed_start_fails_no_others_while_a_job_runs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows that jobs of the function can start."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    called = job(max_instances=2)
    calls = [stage.invoke(called) for _ in range(3)]
    await begun(stage, 2)
    stage.dispatcher.notice(view("job-1"))
    stage.dispatcher.notice(over("job-2", None, reason="rejected", started_at=None))
    await fails_with(calls[1], CannotStart)
    await begun(stage, 3)
    for run_id in ("job-1", "job-3"):
        stage.dispatcher.notice(over(run_id))
    await calls[0]
    await calls[2]


@pytest.mark.parametrize("status", ["pending", "preparing"])
@pytest.mark.gen_test
async def test_a_job_that_does_not_start_is_given_up(
    stage: Stage, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no node takes it within its timeout, or its image is pulled for ever; its run is removed."""
    monkeypatch.setattr(jobs, "PREPARES_FOR", 0.15)
    stage.runs.there["job-1"] = view("job-1", status, error="no suitable node", reason="unschedulable")
    calling = stage.invoke(job(timeout=0.1))
    await begun(stage)
    failed = await fails_with(calling, CannotStart)
    assert (failed.reason, failed.status) == ("unschedulable", 503)
    assert stage.runs.removed == ["job-1"]
    stage.dispatcher.notice(view("job-1", "removed"))
    await until(lambda: stage.dispatcher.stats("hello").instances.starting == 0)
    assert len(stage.calls) == 1


@pytest.mark.gen_test
async def test_a_run_of_which_nothing_is_heard_is_asked_for(stage: Stage) -> None:
    """It may have been removed before it was known; its place is free again."""
    calling = stage.invoke(job(timeout=0.1, max_instances=1))
    await begun(stage)
    assert "removed" in str(await fails_with(calling, InstanceDied))
    assert stage.dispatcher.stats("hello").instances.starting == 0


@pytest.mark.gen_test
async def test_a_job_that_has_ended_is_not_watched(stage: Stage) -> None:
    """A thousand short jobs with a long timeout leave nothing behind."""
    calls = [stage.invoke(job(timeout=3600, max_instances=5)) for _ in range(5)]
    await begun(stage, 5)
    for number in range(5):
        stage.dispatcher.notice(over(f"job-{number + 1}"))
    await asyncio.gather(*calls)
    await stage.settle()
    assert [task for task in asyncio.all_tasks() if "_watch_start" in repr(task)] == []


@pytest.mark.gen_test
async def test_a_job_that_has_started_meanwhile_is_not_given_up(stage: Stage) -> None:
    """The engine is asked before."""
    stage.runs.there["job-1"] = view("job-1", "running")
    calling = stage.invoke(job(timeout=0.1))
    await begun(stage)
    await asyncio.sleep(0.15)
    stage.dispatcher.notice(over("job-1"))
    await calling
    assert stage.runs.removed == []


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (PayloadTooLarge("its output is over 9 bytes"), FunctionFailed, "Function.ResponseSizeTooLarge"),
        (EngineAway("no engine"), InstanceDied, "its output cannot be read"),
        (NotFound("no such task"), InstanceDied, "its output cannot be read"),
    ],
)
@pytest.mark.gen_test
async def test_an_output_that_cannot_be_read_is_told(
    stage: Stage, error: HttpError, kind: type[HttpError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too large at once, another one after some tries."""
    monkeypatch.setattr(jobs, "AGAIN_EVERY", 0.01)
    monkeypatch.setattr(jobs, "READ_WITHIN", 0.05)
    stage.runs.output = error
    calling = stage.invoke(job())
    await begun(stage)
    stage.dispatcher.notice(over("job-1"))
    assert says in str(await fails_with(calling, kind))


@pytest.mark.gen_test
async def test_a_removed_function_fails_what_waits(stage: Stage) -> None:
    """With 404; jobs that run finish. A new version changes nothing for them."""
    called = stage.versions.publish(job(max_instances=1))
    running, waiting = stage.invoke(called), stage.invoke(called)
    await begun(stage)
    stage.versions.publish(pinned(called))
    await stage.settle()
    assert not waiting.done()
    stage.versions.drop("hello")
    await fails_with(waiting, NotFound)
    stage.dispatcher.notice(over("job-1", stdout="done"))
    assert (await running).body == b"done"
    await until(lambda: stage.dispatcher.all_stats() == {})


@pytest.mark.gen_test
async def test_a_stop_starts_no_more(stage: Stage) -> None:
    """What waits is 503; what runs is waited for."""
    called = job(max_instances=1)
    running, waiting = stage.invoke(called), stage.invoke(called)
    await begun(stage)
    stage.dispatcher.stop()
    await fails_with(waiting, NoInstance)
    await fails_with(stage.invoke(called), NoInstance)
    assert stage.dispatcher.busy == 1
    stage.dispatcher.notice(over("job-1"))
    await running
    await until(lambda: stage.dispatcher.busy == 0)
    assert len(stage.runs.started) == 1


# -- asynchronous calls ------------------------------------------------------------------------------------------------


def asynchronous(begin: Callable[[str], Awaitable[None]] | None = None, payload: bytes = b"{}") -> Invocation:
    """An asynchronous call, whose payload comes once it has begun."""

    async def take(name: str) -> None:
        made.call = made.call._replace(payload=payload)
        if begin is not None:
            await begin(name)

    made = Invocation(call(b""), asyncio.get_running_loop().time(), take)
    return made


@pytest.mark.gen_test
async def test_an_asynchronous_call_begins_before_its_run(stage: Stage) -> None:
    """With the run's name, another one at each attempt; nothing waits for it at a stop, and it is removed later."""
    names: list[str] = []

    async def begin(name: str) -> None:
        assert len(stage.runs.started) == len(names)
        names.append(name)

    called, calls = job(), [asynchronous(begin, b"in") for _ in range(2)]
    calls[1].call = calls[1].call._replace(id=calls[0].call.id)
    for invocation in calls:
        stage.jobs.submit(called, invocation)
    await begun(stage, 2)
    assert [started.name for started in stage.runs.started] == names
    assert len(set(names)) == 2
    assert all(name.startswith("qm-job-" + calls[0].call.id.replace("-", "")) and len(name) <= 63 for name in names)
    assert {(started.text, started.kept) for started in stage.runs.started} == {("in", True)}
    assert stage.dispatcher.busy == 0
    stage.dispatcher.notice(over("job-1", stdout="out"))
    assert (await calls[0].answered).body == b"out"


@pytest.mark.gen_test
async def test_the_run_of_an_asynchronous_call_is_removed_after_its_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ttl only serves where its quartermaster is away."""
    monkeypatch.setattr(jobs, "KEPT", 0.01)
    invocation = asynchronous()
    stage.jobs.submit(job(), invocation)
    await begun(stage)
    stage.dispatcher.notice(over("job-1", 3))
    await fails_with(invocation.answered, FunctionFailed)
    await until(lambda: stage.runs.removed == ["job-1"])


@pytest.mark.gen_test
async def test_a_call_that_cannot_begin_starts_nothing(stage: Stage) -> None:
    """Its place is free for the next one, and no start has failed."""

    async def refuse(name: str) -> None:
        raise Conflict("it was cancelled")

    called = job(max_instances=1)
    refused, invalid, last = asynchronous(refuse), asynchronous(payload=b"\xff"), asynchronous()
    for invocation in (refused, invalid, last):
        stage.jobs.submit(called, invocation)
    await fails_with(refused.answered, Conflict)
    assert (await fails_with(invalid.answered, FunctionFailed)).error_type == "InvalidInput"
    await begun(stage)
    assert stage.dispatcher.stats("hello").last_errors == []
    stage.dispatcher.notice(over("job-1"))
    await last.answered


@pytest.mark.gen_test
async def test_asynchronous_calls_do_not_count_for_the_queue(stage: Stage) -> None:
    """Their queue is in the journal."""
    called = job(queue=0, max_instances=1)
    first, second = asynchronous(), asynchronous()
    for invocation in (first, second):
        stage.jobs.submit(called, invocation)
    await begun(stage)
    stage.dispatcher.notice(over("job-1"))
    await begun(stage, 2)
    stage.dispatcher.notice(over("job-2"))
    await first.answered
    await second.answered


@pytest.mark.gen_test
async def test_a_job_of_an_earlier_process_is_taken_up(stage: Stage) -> None:
    """By its name; its end decides, whether it comes later, came meanwhile, or its run was removed since."""
    called = job()
    for name, shown in {
        "qm-job-running": view("r1"),
        "qm-job-ended": over("r2", stdout="done"),
        "qm-job-removed": over("r3", status="removed", stdout="done"),
        "qm-job-failed": over("r4", 3),
    }.items():
        stage.runs.there[name] = shown
        invocation = Invocation(call(), asyncio.get_running_loop().time())
        assert stage.dispatcher.resume(called, invocation, name, 0.0)
        await stage.settle()
        if name == "qm-job-running":
            assert stage.dispatcher.stats("hello").instances.busy == 1
            stage.dispatcher.notice(over("r1", stdout="done"))
        if name == "qm-job-failed":
            await fails_with(invocation.answered, FunctionFailed)
        else:
            assert (await invocation.answered).body == b"done"
    assert stage.runs.started == []


@pytest.mark.gen_test
async def test_a_job_of_which_nothing_is_left_has_failed(stage: Stage) -> None:
    """It may have had effects; whether it is tried again is not decided here."""
    invocation = Invocation(call(), asyncio.get_running_loop().time())
    assert not stage.dispatcher.resume(job(), invocation, "an-instance", 0.0)
    assert stage.dispatcher.resume(job(), invocation, "qm-job-nowhere", 0.0)
    await fails_with(invocation.answered, InstanceDied)
    assert stage.dispatcher.stats("hello").instances.starting == 0


@pytest.mark.gen_test
async def test_a_job_whose_caller_is_gone_is_removed(stage: Stage) -> None:
    """One that this process has just started is not."""
    calling = stage.invoke(job())
    await begun(stage)
    own = msgspec.structs.replace(view("job-1", "pending"), name=stage.runs.started[0].name)
    stage.jobs.abandon([own, view("old", "pending")])
    assert stage.runs.removed == ["old"]
    stage.dispatcher.notice(over("job-1"))
    await calling


# -- specs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"), [("min_instances", 1), ("concurrency", 2), ("idle", 10), ("init_timeout", 5)]
)
def test_a_job_has_no_instances(field: str, value: float) -> None:
    """What only they have is refused, unless it is the default."""
    with pytest.raises(BadRequest, match=f"^{field}: not supported with runtime job"):
        spec(runtime="job", **{field: value})
    assert spec(runtime="job", min_instances=0, concurrency=1, idle=300, init_timeout=30).runtime == "job"


@pytest.mark.parametrize("name", ["QMASTER_INPUT", "QMASTER_INVOCATION"])
def test_a_jobs_own_variables_are_not_set_by_its_spec(name: str) -> None:
    """Those of Lambda may be, as nothing else sets them."""
    with pytest.raises(BadRequest, match=f"^env: {name} is set by quartermaster"):
        spec(runtime="job", env={name: "1"})
    assert spec(runtime="job", env={"AWS_LAMBDA_FUNCTION_NAME": "1"}).env
    assert spec(env={name: "1"}).env
