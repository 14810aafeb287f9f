"""Asynchronous calls of jobs: the run is in the journal before it begins, and its end decides, whoever saw it."""

import json
from pathlib import Path

import msgspec
import pytest
from asynchronous_cases import ROOT, Desk, desk
from fakes import until
from function_cases import job, job_over, view

from qmaster.errors import BadRequest, EngineAway, PayloadTooLarge
from qmaster.functions.instances import backoff
from qmaster.models.invocations import InvocationError
from qmaster.models.responses import Service

pytestmark = pytest.mark.gen_test


async def begun(made: Desk, count: int = 1) -> None:
    """Until so many jobs were started."""
    await until(lambda: len(made.stage.runs.started) == count)
    await made.stage.settle()


async def test_a_job_succeeds(tmp_path: Path) -> None:
    """The attempt names the run, also while it runs; the output is the run's."""
    async with desk(tmp_path) as made:
        accepted = await made.accept(made.stage.versions.publish(job()), b'{"a": 1}')
        await begun(made)
        (started,) = made.stage.runs.started
        assert (started.text, started.invocation, started.kept) == ('{"a": 1}', accepted, True)
        running = await made.invoker.get(accepted, ROOT)
        assert (running.status, [attempt.instance for attempt in running.attempts]) == ("running", [started.name])
        made.stage.dispatcher.notice(job_over("job-1", stdout='{"b": 2}\n'))
        ended = await made.over(accepted)
        assert (ended.status, json.loads(msgspec.json.encode(ended.output))) == ("succeeded", {"b": 2})


async def test_a_job_that_fails_is_run_again_under_another_name(tmp_path: Path) -> None:
    """Until an attempt succeeds; each has its error."""
    async with desk(tmp_path) as made:
        accepted = await made.accept(made.stage.versions.publish(job(retry_delay=0.1)))
        for number, end in enumerate((job_over("job-1", 3, stderr="no"), job_over("job-2", 143, reason="timeout")), 1):
            await begun(made, number)
            made.stage.dispatcher.notice(end)
        await begun(made, 3)
        made.stage.dispatcher.notice(job_over("job-3"))
        ended = await made.over(accepted)
        assert (ended.status, len({attempt.instance for attempt in ended.attempts})) == ("succeeded", 3)
        errors = [attempt.error for attempt in ended.attempts]
        assert errors[0] == InvocationError(type="exit", message="exit code 3:\nno")
        assert [error and error.type for error in errors] == ["exit", "Sandbox.Timedout", None]


@pytest.mark.slow
async def test_a_job_that_cannot_start_is_no_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the next start, although the attempt had been written."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    async with desk(tmp_path) as made:
        accepted = await made.accept(made.stage.versions.publish(job(retries=0)))
        await begun(made)
        rejected = job_over("job-1", None, reason="image_not_found", error="no such image", started_at=None)
        made.stage.dispatcher.notice(rejected)
        await made.reaches(accepted, "queued")
        assert (await made.invoker.get(accepted, ROOT)).attempts == []
        made.stage.runs.refusal = EngineAway("no engine")
        await until(lambda: len(made.stage.dispatcher.stats("hello").last_errors) == 2)
        made.stage.runs.refusal = None
        await begun(made, 2)
        made.stage.dispatcher.notice(job_over("job-2"))
        assert len((await made.over(accepted)).attempts) == 1


@pytest.mark.parametrize(("payload", "error"), [(b"\xff", BadRequest), (b"a" * 25_000, PayloadTooLarge)])
async def test_an_input_that_cannot_be_is_not_accepted(tmp_path: Path, payload: bytes, error: type[Exception]) -> None:
    """Nothing is in the journal."""
    async with desk(tmp_path) as made:
        called = made.stage.versions.publish(job())
        with pytest.raises(error):
            await made.accept(called, payload)
        assert (await made.invoker.listing(ROOT, None, None, 10, None))[0] == []


async def end(made: Desk) -> None:
    """End as a killed process does: nothing more is written."""
    await made.kill()
    await made.invoker.close()
    await made.journal.close()


@pytest.mark.parametrize("since", ["removed", "newer", "published again"])
@pytest.mark.parametrize(
    ("found", "status", "error"),
    [
        (job_over("job-1", stdout="done"), "succeeded", None),
        (view("job-1"), "succeeded", None),
        (job_over("job-1", 3), "dead", "exit"),
        (None, "dead", "Runtime.ExitError"),
    ],
    ids=["ended meanwhile", "still runs", "failed meanwhile", "gone"],
)
async def test_a_job_outlives_its_function_and_its_quartermaster(
    tmp_path: Path, found: Service | None, status: str, error: str | None, since: str
) -> None:
    """The call ends as the job does, although its version was removed before the restart; callbacks are told."""
    called = job(retries=0, on_success="https://example.com/done", on_failure="https://example.com/failed")
    there = {"removed": job("other"), "newer": job(number=2), "published again": job()}[since]
    first = Desk(tmp_path)
    await first.open()
    qualifier = 1 if since == "newer" else None
    accepted = await first.accept(first.stage.versions.publish(called), qualifier=qualifier)
    await begun(first)
    name = first.stage.runs.started[0].name
    await end(first)
    async with desk(tmp_path) as second:
        second.stage.versions.publish(there)
        if found is not None:
            second.stage.runs.there[name] = found
        await second.invoker.resume()
        if found is not None and found.status == "running":
            await second.stage.settle()
            second.stage.dispatcher.notice(job_over("job-1", stdout="done"))
        if since == "published again" and found is None:  # there is something to call, and it is called once more
            assert (await second.reaches(accepted, "queued")).attempts[0].error is not None
            return
        ended = await second.over(accepted)
        assert (ended.status, ended.error and ended.error.type) == (status, error)
        assert (len(ended.attempts), second.stage.runs.started) == (1, [])
        assert [spec.on_success for _, spec in second.specs] == [called.spec.on_success]
        if status == "succeeded":
            assert ended.output == "done"


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (job_over("job-1", stdout="done"), "succeeded"),
        (job_over("job-1", stdout="done", status="removed"), "succeeded"),
        (view("job-1"), "succeeded"),
        (job_over("job-1", 3), "dead"),
        (None, "queued"),
    ],
    ids=["ended meanwhile", "removed meanwhile", "still runs", "failed meanwhile", "gone"],
)
async def test_a_job_outlives_its_quartermaster(tmp_path: Path, found: Service | None, status: str) -> None:
    """After a kill its run is found by its name, and not started again; one that is gone is tried once more, later."""
    called = job(retries=0)
    first = Desk(tmp_path)
    await first.open()
    accepted = await first.accept(first.stage.versions.publish(called))
    await begun(first)
    name = first.stage.runs.started[0].name
    await end(first)
    async with desk(tmp_path) as second:
        second.stage.versions.publish(called)
        if found is not None:
            second.stage.runs.there[name] = found
        await second.invoker.resume()
        if found is not None and found.status == "running":
            await second.stage.settle()
            second.stage.dispatcher.notice(job_over("job-1", stdout="done"))
        ended = await (second.reaches(accepted, status) if status == "queued" else second.over(accepted))
        assert (ended.status, second.stage.runs.started) == (status, [])
        assert len(ended.attempts) == 1
        if status == "succeeded":
            assert ended.output == "done"
