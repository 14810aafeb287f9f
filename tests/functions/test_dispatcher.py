"""dispatcher: each call gets its own answer or the right error, and instances start and end as calls need them."""

import asyncio
from collections.abc import Callable, Iterator

import msgspec
import pytest
from function_cases import Stage, call, ended, pinned, version, view
from tornado.ioloop import IOLoop

from qmaster.errors import (
    CallTimedOut,
    CannotStart,
    EngineAway,
    Forbidden,
    FunctionFailed,
    InstanceDied,
    NoInstance,
    NotFound,
    QueueFull,
)
from qmaster.functions.instances import autoscaler, backoff, lifecycle, scaling
from qmaster.functions.instances.endings import Trouble
from qmaster.functions.instances.instance import Poll
from qmaster.functions.instances.launcher import Found


@pytest.fixture
def stage(io_loop: IOLoop) -> Iterator[Stage]:
    async def make() -> Stage:
        return Stage()

    made = io_loop.run_sync(make)
    yield made
    io_loop.run_sync(made.close)


@pytest.mark.gen_test
async def test_a_call_starts_an_instance_and_gets_its_answer(stage: Stage) -> None:
    """From nothing: the answer names the instance, and that it was started for the call."""
    called = version()
    calling = stage.invoke(called, b'"in"')
    instance = await stage.instance()
    poll = stage.dispatcher.ask(instance, "")
    invocation = await poll.answer
    assert invocation is not None
    assert invocation.call.payload == b'"in"'
    stage.dispatcher.answer(instance, invocation.call.id, b'"out"', "text/plain")
    answer = await calling
    assert (answer.body, answer.content_type) == (b'"out"', "text/plain")
    assert (answer.instance, answer.version, answer.cold) == ("run-1", 1, True)
    [over] = stage.calls
    assert (over.outcome, over.instance, over.cold) == ("ok", "run-1", True)


@pytest.mark.gen_test
async def test_a_warm_instance_gets_the_next_call_at_once(stage: Stage) -> None:
    """Without a start, and not as a cold one."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"2", "")
    assert (await calling).cold is False
    assert len(stage.launcher.started) == 1


@pytest.mark.gen_test
async def test_calls_are_served_in_their_order(stage: Stage) -> None:
    """First come, first served."""
    called = version(max_instances=1)
    calls = [stage.invoke(called, str(number).encode()) for number in range(5)]
    instance = await stage.instance()
    for number in range(5):
        poll = stage.dispatcher.ask(instance, "")
        invocation = await poll.answer
        assert invocation is not None
        assert invocation.call.payload == str(number).encode()
        stage.dispatcher.answer(instance, invocation.call.id, invocation.call.payload, "")
    assert [(await each).body for each in calls] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.gen_test
async def test_a_full_queue_refuses(stage: Stage) -> None:
    """429 with Retry-After beyond ``queue``; what waits stays."""
    called = version(queue=1)
    waiting = stage.invoke(called)
    await stage.settle()
    with pytest.raises(QueueFull) as refused:
        await stage.invoke(called)
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) >= 1
    await stage.serve(await stage.instance())
    await waiting


@pytest.mark.gen_test
async def test_a_call_waits_at_most_its_timeout(stage: Stage) -> None:
    """Then it is 503, and no instance gets it later."""
    called = version(timeout=0.1)
    with pytest.raises(NoInstance) as refused:
        await stage.invoke(called)
    assert refused.value.status == 503
    instance = await stage.instance()
    poll = stage.dispatcher.ask(instance, "")
    await stage.settle()
    assert not poll.answer.done()


@pytest.mark.gen_test
async def test_a_caller_that_leaves_while_it_waits_is_forgotten(stage: Stage) -> None:
    """Its call reaches no instance, and counts for no start."""
    called, left = version(), asyncio.get_running_loop().create_future()
    stage.launcher.gate.clear()
    calling = asyncio.create_task(stage.dispatcher.invoke(called, call(), left))
    await stage.settle()
    left.set_result(None)
    with pytest.raises(NoInstance):
        await calling
    stage.launcher.gate.set()
    poll = stage.dispatcher.ask(await stage.instance(), "")
    await stage.settle()
    assert not poll.answer.done()
    assert stage.calls == []


@pytest.mark.gen_test
async def test_a_caller_that_leaves_later_stops_nothing(stage: Stage) -> None:
    """A call that an instance has goes on."""
    called, left = version(), asyncio.get_running_loop().create_future()
    instance = await stage.warm(called)
    calling = asyncio.create_task(stage.dispatcher.invoke(called, call(), left))
    await stage.settle()
    left.set_result(None)
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"done", "")
    assert (await calling).body == b"done"


@pytest.mark.gen_test
async def test_what_the_function_raised_reaches_the_caller(stage: Stage) -> None:
    """502 with the error's type; the instance stays."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    [call_id] = instance.calls
    stage.dispatcher.fail(instance, call_id, FunctionFailed("ValueError", "no", ["line 1"], b"{}"))
    with pytest.raises(FunctionFailed) as failed:
        await calling
    assert failed.value.members["error_type"] == "ValueError"
    assert stage.calls[-1].outcome == "function_error"
    stage.dispatcher.ask(instance, "")
    assert instance.state == "idle"


@pytest.mark.gen_test
async def test_an_answer_counts_only_from_the_instance_that_has_the_call(stage: Stage) -> None:
    """Another instance of the same function cannot answer it, nor an id that nobody has."""
    called = version()
    first, second = await stage.warm(called), None
    calling = stage.invoke(called)
    await stage.settle()
    waiting = stage.invoke(called)
    second = await stage.instance(2)
    [call_id] = first.calls
    stage.dispatcher.answer(second, call_id, b"forged", "")
    stage.dispatcher.fail(second, call_id, FunctionFailed("x", "forged"))
    stage.dispatcher.answer(first, "unknown", b"forged", "")
    assert not calling.done()
    stage.dispatcher.answer(first, call_id, b"true", "")
    assert (await calling).body == b"true"
    await stage.serve(second)
    await waiting


@pytest.mark.gen_test
async def test_a_call_that_takes_too_long_is_504_and_its_instance_is_killed(stage: Stage) -> None:
    """At once; calls beside it die with the instance."""
    called = version(timeout=0.2, concurrency=2)
    first = stage.invoke(called)
    instance = await stage.instance()
    stage.dispatcher.ask(instance, "")
    await asyncio.sleep(0.1)
    stage.dispatcher.ask(instance, "")
    second = stage.invoke(called)
    with pytest.raises(CallTimedOut) as late:
        await first
    assert late.value.status == 504
    with pytest.raises(InstanceDied):
        await second
    assert stage.launcher.killed == ["run-1"]
    assert stage.dispatcher.instance(instance.secret) is None


@pytest.mark.gen_test
async def test_the_end_of_an_instance_is_told_with_its_exit_code_and_output(stage: Stage) -> None:
    """502, never made again."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    assert instance.calls
    stage.dispatcher.notice(ended("run-1", 139, "Segmentation fault\n"))
    with pytest.raises(InstanceDied) as died:
        await calling
    assert (died.value.exit_code, died.value.last_lines) == (139, ["Segmentation fault"])
    assert len(stage.launcher.started) == 1
    assert stage.ends == [("hello", "exit")]


@pytest.mark.gen_test
async def test_a_closed_connection_is_told_within_half_a_second(stage: Stage) -> None:
    """Also while the run's end is not known; it is looked for at once."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    [call_id] = instance.calls
    began = asyncio.get_running_loop().time()
    stage.dispatcher.connection_lost(instance, call_id)
    assert stage.launcher.looked == ["run-1"]
    with pytest.raises(InstanceDied) as died:
        await calling
    assert died.value.exit_code is None
    assert asyncio.get_running_loop().time() - began < 0.5 + 2  # a loaded machine
    assert lifecycle.TOLD_WITHIN < 0.5


@pytest.mark.gen_test
async def test_an_instance_that_asks_again_has_lost_its_call(stage: Stage) -> None:
    """With one call at a time; the question itself is served."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    poll = stage.dispatcher.ask(instance, "")
    with pytest.raises(InstanceDied):
        await calling
    again = stage.invoke(called)
    assert await poll.answer is not None
    again.cancel()


@pytest.mark.gen_test
async def test_an_instance_with_several_slots_takes_several_calls(stage: Stage) -> None:
    """Each open question is a slot; asking again loses nothing."""
    called = version(concurrency=3)
    calls = [stage.invoke(called) for _ in range(3)]
    instance = await stage.instance()
    for _ in range(3):
        stage.dispatcher.ask(instance, "")
    await stage.settle()
    assert len(instance.calls) == 3
    assert len(stage.launcher.started) == 1
    for call_id in list(instance.calls):
        stage.dispatcher.answer(instance, call_id, call_id.encode(), "")
    assert len({(await each).body for each in calls}) == 3


@pytest.mark.gen_test
async def test_a_call_written_to_a_closed_connection_waits_again(stage: Stage) -> None:
    """Before all others, as it came first."""
    called = version(max_instances=1)
    first = stage.invoke(called, b"1")
    instance = await stage.instance()
    poll = stage.dispatcher.ask(instance, "")
    invocation = await poll.answer
    assert invocation is not None
    second = stage.invoke(called, b"2")
    await stage.settle()
    stage.dispatcher.hand_back(instance, invocation)
    again = await stage.dispatcher.ask(instance, "").answer
    assert again is invocation
    stage.dispatcher.answer(instance, again.call.id, b"one", "")
    assert (await first).body == b"one"
    await stage.serve(instance)
    await second


@pytest.mark.gen_test
async def test_a_streamed_answer_goes_through_as_it_comes(stage: Stage) -> None:
    """The caller has the first part before the last is sent."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called, streams=True)
    await stage.settle()
    [call_id] = instance.calls
    chunks = stage.dispatcher.begin_stream(instance, call_id, "text/event-stream")
    assert chunks is not None
    answer = await calling
    assert answer.chunks is not None
    await chunks.put(b"one")
    assert await anext(answer.chunks) == b"one"
    await chunks.put(b"two")
    stage.dispatcher.end_stream(instance, call_id)
    assert [part async for part in answer.chunks] == [b"two"]
    assert stage.calls[-1].outcome == "ok"


@pytest.mark.gen_test
async def test_a_stream_whose_instance_dies_is_cut(stage: Stage) -> None:
    """The caller hears it after the parts that came before."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called, streams=True)
    await stage.settle()
    [call_id] = instance.calls
    chunks = stage.dispatcher.begin_stream(instance, call_id, "")
    assert chunks is not None
    await chunks.put(b"half")
    stage.dispatcher.notice(ended("run-1", 137))
    reader = (await calling).chunks
    assert reader is not None
    assert await anext(reader) == b"half"
    with pytest.raises(InstanceDied):
        await anext(reader)
    assert stage.calls[-1].outcome == "instance_died"


@pytest.mark.gen_test
async def test_nobody_streams_to_a_caller_that_takes_whole_answers(stage: Stage) -> None:
    """The runtime API then collects the parts."""
    called = version()
    instance = await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    [call_id] = instance.calls
    assert stage.dispatcher.begin_stream(instance, call_id, "") is None
    stage.dispatcher.answer(instance, call_id, b"", "")
    await calling


# -- starts that fail


@pytest.mark.parametrize(
    ("how", "reason", "status"),
    [
        (lambda stage: stage.dispatcher.notice(ended("run-1", 3, "boom\n")), "exit", 502),
        (
            lambda stage: stage.dispatcher.notice(ended("run-1", reason="image_not_found", error="No such image: x")),
            "image_not_found",
            502,
        ),
    ],
)
@pytest.mark.gen_test
async def test_a_start_that_fails_is_told_with_its_reason(
    stage: Stage, how: Callable[[Stage], None], reason: str, status: int
) -> None:
    """502 with the run's reason; the next starts wait, and the next caller hears the same at once."""
    called = stage.versions.publish(version())
    calling = stage.invoke(called)
    await stage.instance()
    how(stage)
    with pytest.raises(CannotStart) as failed:
        await calling
    assert (failed.value.reason, failed.value.status) == (reason, status)
    with pytest.raises(CannotStart):
        await stage.invoke(called)
    assert len(stage.launcher.started) == 1
    assert [each.reason for each in stage.dispatcher.stats("hello").last_errors] == [reason]


@pytest.mark.parametrize(
    ("refusal", "reason", "status"),
    [
        (Forbidden("images: this token may not run x"), "policy", 503),
        (CannotStart("the token is gone", "policy"), "policy", 503),
        (EngineAway("away"), "engine", 503),
    ],
)
@pytest.mark.gen_test
async def test_a_start_that_is_refused_is_told(
    stage: Stage, refusal: Forbidden | CannotStart | EngineAway, reason: str, status: int
) -> None:
    """503: it may change without a new version."""
    stage.launcher.refusal = refusal
    with pytest.raises(CannotStart) as failed:
        await stage.invoke(version())
    assert (failed.value.reason, failed.value.status) == (reason, status)
    assert stage.life.by_secret == {}


@pytest.mark.gen_test
async def test_an_init_that_fails_is_told_before_its_run_ends(stage: Stage) -> None:
    """With the function's own words, and counted once."""
    calling = stage.invoke(stage.versions.publish(version()))
    instance = await stage.instance()
    stage.dispatcher.init_failed(instance, "Runtime.ImportModuleError", "No module named 'app'")
    with pytest.raises(CannotStart, match="No module named 'app'") as failed:
        await calling
    assert failed.value.reason == "init_error"
    stage.dispatcher.notice(ended("run-1", 1))
    await stage.settle()
    assert len(stage.dispatcher.stats("hello").last_errors) == 1


@pytest.mark.gen_test
async def test_an_instance_that_never_asks_is_killed(stage: Stage) -> None:
    """``init_timeout`` seconds after its task runs."""
    calling = stage.invoke(version(init_timeout=0.2))
    await stage.instance()
    stage.dispatcher.notice(view("run-1", "running"))
    with pytest.raises(CannotStart) as failed:
        await calling
    assert failed.value.reason == "init_timeout"
    assert stage.launcher.killed == ["run-1"]


@pytest.mark.gen_test
async def test_starts_go_on_after_the_pause(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A success ends the backing off."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    called = stage.versions.publish(version())
    calling = stage.invoke(called)
    await stage.instance()
    stage.dispatcher.notice(ended("run-1"))
    with pytest.raises(CannotStart):
        await calling
    await asyncio.sleep(0.06)
    calling = stage.invoke(called)
    await stage.serve(await stage.instance(2))
    await calling
    assert stage.life.pools[called.id].backoff.failures == 0


@pytest.mark.gen_test
async def test_calls_wait_for_instances_that_live(stage: Stage) -> None:
    """One more that cannot start fails nobody while another serves."""
    called = version()
    instance = await stage.warm(called)
    first = stage.invoke(called)
    await stage.settle()
    second = stage.invoke(called)
    await stage.instance(2)
    stage.dispatcher.notice(ended("run-2"))
    await stage.settle()
    assert not second.done()
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"", "")
    await first
    await stage.serve(instance)
    await second


# -- scaling


@pytest.mark.gen_test
async def test_one_start_is_in_flight_for_each_node(io_loop: IOLoop) -> None:
    """The next begins when one has asked for its first call."""
    stage = Stage(nodes=1)
    called = version()
    calls = [stage.invoke(called) for _ in range(3)]
    first = await stage.instance()
    await stage.settle()
    assert len(stage.launcher.started) == 1
    stage.dispatcher.ask(first, "")
    await stage.settle()
    assert len(stage.launcher.started) == 2
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await stage.close()


@pytest.mark.gen_test
async def test_no_function_keeps_another_from_its_first_instance(io_loop: IOLoop) -> None:
    """One with many calls that wait does not take every start."""
    stage = Stage(nodes=2)
    many, one = version("many"), version("one")
    stage.launcher.gate.clear()
    calls = [stage.invoke(many) for _ in range(50)]
    calls.append(stage.invoke(one))
    await stage.settle()
    assert sorted(each.function for each in stage.launcher.begun) == ["many", "one"]
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await stage.close()


@pytest.mark.gen_test
async def test_no_publisher_keeps_another_from_its_first_instance(
    io_loop: IOLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with many functions whose starts hang does not take every start either."""
    monkeypatch.setattr(scaling, "IN_FLIGHT", 0.05)
    stage = Stage(nodes=1)
    stage.launcher.gate.clear()
    calls = [stage.invoke(version(f"many-{number}")) for number in range(20)]
    calls.append(stage.invoke(msgspec.structs.replace(version("one"), owner="alice")))
    async with asyncio.timeout(20):
        while len(stage.launcher.begun) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [each.function for each in stage.launcher.begun[:2]] == ["many-0", "one"]
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await stage.close()


@pytest.mark.slow
@pytest.mark.gen_test
async def test_a_start_that_fails_after_the_removal_leaves_nothing(stage: Stage) -> None:
    """Why it failed is of no interest any more."""
    called = stage.versions.publish(version())
    stage.launcher.gate.clear()
    calling = stage.invoke(called)
    async with asyncio.timeout(20):
        while not stage.launcher.begun:  # noqa: ASYNC110
            await asyncio.sleep(0)
    stage.versions.drop("hello")
    stage.launcher.refusal = Forbidden("images: no")
    stage.launcher.gate.set()
    with pytest.raises(NotFound):
        await calling
    async with asyncio.timeout(20):
        while stage.life.pools:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert stage.life.errors == {}


@pytest.mark.gen_test
async def test_instances_are_kept_warm_without_a_call(stage: Stage) -> None:
    """``min_instances``, as soon as it is published, and again after one has ended."""
    stage.versions.publish(version(min_instances=2))
    await stage.instance(2)
    for number in (1, 2):
        stage.dispatcher.ask(await stage.instance(number), "")
    assert stage.dispatcher.stats("hello").instances.idle == 2
    stage.dispatcher.notice(ended("run-1"))
    await stage.instance(3)


@pytest.mark.gen_test
async def test_an_idle_instance_ends(stage: Stage) -> None:
    """Its service says why, its secret is void, and its question is answered with no call."""
    called = stage.versions.publish(version(idle=0.1))
    instance = await stage.warm(called)
    [poll] = instance.polls
    assert await poll.answer is None
    assert stage.launcher.marked == [("run-1", "idle")]
    assert stage.dispatcher.instance(instance.secret) is None
    stage.dispatcher.notice(view("run-1", "complete", reason="idle"))
    assert stage.ends == [("hello", "idle")]
    assert stage.dispatcher.stats("hello").instances.idle == 0


@pytest.mark.gen_test
async def test_one_that_does_not_end_is_removed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds after it was told to."""
    monkeypatch.setattr(lifecycle, "KILLED_AFTER", 0.05)
    await stage.warm(stage.versions.publish(version(idle=0.1)))
    async with asyncio.timeout(20):
        while not stage.launcher.removed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert stage.launcher.removed == ["run-1"]


@pytest.mark.gen_test
async def test_a_silent_instance_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with neither a call nor a question for one."""
    monkeypatch.setattr(scaling, "SILENT", 0.1)
    instance = await stage.warm(version())
    [poll] = instance.polls
    stage.dispatcher.withdraw(instance, poll)
    async with asyncio.timeout(20):
        while not stage.launcher.killed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert instance.ending == "silent"


@pytest.mark.gen_test
async def test_an_old_instance_is_replaced_once_it_is_free(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its lifetime it finishes its call and gets no other."""
    monkeypatch.setattr(scaling, "LIFETIME", 0.1)
    called = version()
    calling = stage.invoke(called)
    instance = await stage.instance()
    stage.dispatcher.ask(instance, "")
    await asyncio.sleep(0.2)
    stage.scaler.grants_changed()  # only to have the next decision made now
    await stage.settle()
    assert instance.ending == "lifetime"
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"", "")
    await calling
    waiting = stage.invoke(called)
    poll = stage.dispatcher.ask(instance, "")
    assert await poll.answer is None
    await stage.serve(await stage.instance(2))
    await waiting


@pytest.mark.gen_test
async def test_an_idle_instance_makes_room(stage: Stage) -> None:
    """The longest-idle one of another function ends where a start finds no room."""
    idle = await stage.warm(stage.versions.publish(version("idle")))
    calling = stage.invoke(stage.versions.publish(version("new")))
    second = await stage.instance(2)
    stage.dispatcher.notice(view("run-2", "pending", reason="unschedulable", error="no suitable node"))
    await stage.settle()
    assert stage.launcher.marked[0][0] == "run-1"
    assert idle.ending == "room"
    stage.dispatcher.notice(view("run-1", "complete", reason="idle"))
    stage.dispatcher.notice(view("run-2", "running"))
    await stage.serve(second)
    await calling


@pytest.mark.gen_test
async def test_where_nobody_makes_room_the_call_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with the scheduler's words; the service does not stay."""
    monkeypatch.setattr(autoscaler, "ROOM_WITHIN", 0.05)
    calling = stage.invoke(version())
    await stage.instance()
    stage.dispatcher.notice(view("run-1", "pending", reason="unschedulable", error="no suitable node"))
    with pytest.raises(CannotStart, match="no suitable node") as failed:
        await calling
    assert (failed.value.reason, failed.value.status) == ("unschedulable", 503)
    assert stage.launcher.removed == ["run-1"]


# -- versions and policy


@pytest.mark.gen_test
async def test_an_update_loses_no_call(stage: Stage) -> None:
    """Busy instances of the old version finish, its waiting calls are served; new calls go to the new version."""
    old = stage.versions.publish(version(max_instances=1))
    instance = await stage.warm(old)
    running = stage.invoke(old, b"1")
    waiting = stage.invoke(old, b"2")
    await stage.settle()
    new = stage.versions.publish(pinned(old))
    await stage.settle()
    fresh = stage.invoke(new)
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"one", "")
    await stage.serve(instance, b"two")
    assert [(await running).body, (await waiting).body] == [b"one", b"two"]
    await stage.serve(await stage.instance(2))
    assert (await fresh).version == 2
    assert await stage.dispatcher.ask(instance, "").answer is None
    assert stage.launcher.marked == [("run-1", "update")]


@pytest.mark.gen_test
async def test_idle_instances_of_an_old_version_end_at_once(stage: Stage) -> None:
    """Those that a call of the old version starts later stay for a while, but not for all of ``idle``."""
    old = stage.versions.publish(version(min_instances=1))
    first = await stage.instance()
    poll = stage.dispatcher.ask(first, "")
    stage.versions.publish(pinned(old))
    assert await poll.answer is None
    stage.dispatcher.notice(view("run-1", "complete", reason="update"))
    await stage.instance(2)  # the new version's own
    calling = stage.invoke(old)
    late = await stage.instance(3)
    await stage.serve(late)
    await calling
    stage.dispatcher.ask(late, "")
    await stage.settle()
    assert late.state == "idle"
    assert stage.life.pools[old.id].scale().idle == scaling.IDLE_OUTDATED < old.spec.idle


@pytest.mark.gen_test
async def test_a_removed_function_fails_what_waits_and_finishes_what_runs(stage: Stage) -> None:
    """404 for the calls in the queue."""
    called = stage.versions.publish(version(max_instances=1))
    instance = await stage.warm(called)
    running, waiting = stage.invoke(called), stage.invoke(called)
    await stage.settle()
    stage.versions.drop("hello")
    with pytest.raises(NotFound):
        await waiting
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"done", "")
    assert (await running).body == b"done"
    assert await stage.dispatcher.ask(instance, "").answer is None
    stage.dispatcher.notice(view("run-1", "complete", reason="update"))
    await stage.settle()
    assert stage.life.pools == {}


@pytest.mark.gen_test
async def test_instances_end_when_their_publisher_may_not_run_them(stage: Stage) -> None:
    """Idle ones at once; new calls are refused by the start."""
    called = stage.versions.publish(version())
    instance = await stage.warm(called)
    [poll] = instance.polls
    stage.launcher.trouble = Trouble("policy", "the token is gone")
    stage.launcher.refusal = CannotStart("the token is gone", "policy")
    stage.scaler.grants_changed()
    with pytest.raises(CannotStart) as refused:
        await stage.invoke(called)
    assert refused.value.reason == "policy"
    assert await poll.answer is None


# -- a stop and a restart


@pytest.mark.gen_test
async def test_a_stop_hands_over_nothing_and_ends_no_instance(stage: Stage) -> None:
    """Busy calls finish; those that wait are told to come again."""
    called = version(max_instances=1)
    instance = await stage.warm(called)
    running, waiting = stage.invoke(called), stage.invoke(called)
    await stage.settle()
    stage.dispatcher.stop()
    with pytest.raises(NoInstance, match="stopping"):
        await waiting
    with pytest.raises(NoInstance, match="stopping"):
        await stage.invoke(called)
    assert stage.dispatcher.busy == 1
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"done", "")
    assert (await running).body == b"done"
    assert stage.dispatcher.busy == 0
    poll = stage.dispatcher.ask(instance, "")
    await stage.settle()
    assert not poll.answer.done()


@pytest.mark.gen_test
async def test_instances_of_an_earlier_process_are_taken_up(stage: Stage) -> None:
    """By the secret in their service; one of no version is ended."""
    called = stage.versions.publish(version())
    stage.launcher.there = [Found("run-a", called.id, "secret-a"), Found("run-b", "gone", "secret-b")]
    await stage.scaler.adopt()
    instance = stage.dispatcher.instance("secret-a")
    assert instance is not None
    assert stage.launcher.killed == ["run-b"]
    calling = stage.invoke(called)
    await stage.settle()
    await stage.serve(instance)
    answer = await calling
    assert (answer.instance, answer.cold) == ("run-a", False)
    assert stage.launcher.started == []


@pytest.mark.gen_test
async def test_the_end_of_an_earlier_process_s_instance_is_no_failed_start(stage: Stage) -> None:
    """It may have ended while nobody listened: the next start waits for nothing."""
    called = stage.versions.publish(version())
    stage.launcher.there = [Found("run-a", called.id, "secret-a")]
    await stage.scaler.adopt()
    stage.dispatcher.notice(ended("run-a", 1))
    assert stage.dispatcher.stats("hello").last_errors == []
    calling = stage.invoke(called)
    await stage.serve(await stage.instance())
    await calling


@pytest.mark.gen_test
async def test_nothing_is_decided_again_and_again(monkeypatch: pytest.MonkeyPatch, io_loop: IOLoop) -> None:
    """While starts hang and calls wait, the next decision is made when something is due."""
    monkeypatch.setattr(scaling, "IN_FLIGHT", 0.05)
    stage = Stage(nodes=1)
    decisions = 0
    plan = stage.scaler._plan

    def counted() -> float:
        nonlocal decisions
        decisions += 1
        return plan()

    monkeypatch.setattr(stage.scaler, "_plan", counted)
    called = version()
    calls = [stage.invoke(called) for _ in range(5)]
    await asyncio.sleep(0.5)
    assert len(stage.launcher.started) == 5
    assert decisions < 100
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await stage.close()


@pytest.mark.gen_test
async def test_more_questions_than_calls_get_no_more_calls(stage: Stage) -> None:
    """An instance has at most ``concurrency`` calls, whatever it asks; the next comes once it has answered."""
    called = version(max_instances=1)
    first, second = stage.invoke(called, b"1"), stage.invoke(called, b"2")
    instance = await stage.instance()
    stage.dispatcher.ask(instance, "")
    await stage.settle()
    assert len(instance.calls) == 1
    [call_id] = instance.calls
    instance.polls.append(Poll())  # asked at the same moment
    stage.scaler.pool(called).serve(instance)
    assert len(instance.calls) == 1
    stage.dispatcher.answer(instance, call_id, b"one", "")
    [call_id] = instance.calls
    stage.dispatcher.answer(instance, call_id, b"two", "")
    assert [(await first).body, (await second).body] == [b"one", b"two"]


@pytest.mark.gen_test
async def test_calls_outlast_a_start_that_a_node_has_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing about the function: they wait for the next one."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    called = stage.versions.publish(version())
    calling = stage.invoke(called)
    await stage.instance()
    stage.dispatcher.notice(ended("run-1", reason="node_down"))
    late = stage.invoke(called)
    await stage.settle()
    assert not calling.done()
    assert not late.done()
    second = await stage.instance(2)
    await stage.serve(second)
    await stage.serve(second)
    await calling
    await late


@pytest.mark.gen_test
async def test_a_policy_that_allows_it_again_needs_no_patience(stage: Stage) -> None:
    """The next call starts an instance at once."""
    called = stage.versions.publish(version())
    stage.launcher.refusal = CannotStart("the token is gone", "policy")
    for _ in range(2):
        with pytest.raises(CannotStart):
            await stage.invoke(called)
    stage.launcher.refusal = None
    stage.scaler.grants_changed()
    calling = stage.invoke(called)
    await stage.serve(await stage.instance())
    await calling


@pytest.mark.gen_test
async def test_an_instance_that_somebody_stops_gets_no_call(stage: Stage) -> None:
    """Another one is started for it."""
    called = stage.versions.publish(version())
    await stage.warm(called)
    stage.dispatcher.notice(view("run-1", "stopping", reason="stopped"))
    calling = stage.invoke(called)
    await stage.serve(await stage.instance(2))
    await calling


@pytest.mark.gen_test
async def test_only_functions_that_were_called_cost_anything(stage: Stage) -> None:
    """What is published and never called has no pool, and no series in the metrics."""
    called = stage.versions.publish(*(version(f"f-{number}") for number in range(50)), version("called"))
    assert stage.life.pools == {}
    await stage.warm(called)
    assert {name: stats.instances.idle for name, stats in stage.dispatcher.all_stats().items()} == {"called": 1}
    assert stage.dispatcher.stats("called") == stage.dispatcher.all_stats()["called"]


@pytest.mark.gen_test
async def test_the_instance_that_asked_last_gets_the_call(stage: Stage) -> None:
    """So that the others become idle for long enough to end."""
    called = version()
    calls = [stage.invoke(called) for _ in range(2)]
    first, second = await stage.instance(1), await stage.instance(2)
    for instance in (first, second):
        await stage.serve(instance)
    await asyncio.gather(*calls)
    stage.dispatcher.ask(first, "")
    stage.dispatcher.ask(second, "")
    calling = stage.invoke(called)
    await stage.settle()
    assert (len(first.calls), len(second.calls)) == (0, 1)
    [call_id] = second.calls
    stage.dispatcher.answer(second, call_id, b"", "")
    await calling


@pytest.mark.gen_test
async def test_an_instance_that_is_killed_while_it_is_created_is_killed_then(stage: Stage) -> None:
    """Its run is known only when the engine has answered."""
    calling = stage.invoke(stage.versions.publish(version()))
    stage.launcher.gate.clear()
    await stage.settle()
    [pool] = stage.life.pools.values()
    [instance] = pool
    stage.life.kill(instance, "silent")
    assert stage.launcher.killed == []
    stage.launcher.gate.set()
    await stage.settle()
    assert stage.launcher.killed == ["run-1"]
    calling.cancel()


@pytest.mark.gen_test
async def test_an_instance_on_a_node_that_is_down_is_given_up(stage: Stage) -> None:
    """Its call fails, as nothing of the node will be heard; the next call gets another instance."""
    called = stage.versions.publish(version())
    await stage.warm(called)
    calling = stage.invoke(called)
    await stage.settle()
    stage.dispatcher.notice(view("run-1", "unknown", reason="node_down"))
    with pytest.raises(InstanceDied):
        await calling
    assert stage.launcher.killed == ["run-1"]
    again = stage.invoke(called)
    await stage.serve(await stage.instance(2))
    await again


@pytest.mark.gen_test
async def test_a_stop_starts_nothing(stage: Stage) -> None:
    """Not even what is to be kept warm: the next process does."""
    stage.dispatcher.stop()
    stage.versions.publish(version(min_instances=1))
    await stage.settle()
    assert stage.launcher.begun == []
