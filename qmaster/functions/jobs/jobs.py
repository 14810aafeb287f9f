"""Calls of functions whose runtime is ``job``: each is a run of its own, whose end decides.

Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable

import structlog

from ...background import BackgroundTasks
from ...errors import CallFailed, CallTimedOut, HttpError, InstanceDied, NoInstance, NotFound, QueueFull
from ...limiter import act_for
from ...models.functions import FunctionError, FunctionStats, Version, read_input
from ...models.responses import Service
from ...models.units import rfc3339
from ...runs.reaper import KEPT
from ...runs.results import is_over
from ..instances.endings import MAX_MESSAGE, Trouble
from ..invocations.invocation import Answer, Invocation, Reports
from ..versions.store import VersionStore
from . import ends as job_ends
from .line import Job, Line
from .runs import JobRuns

PREFIX = "qm-job-"
PREPARES_FOR = 300.0  # seconds that a node may take at least to pull the image and start the container
AGAIN_EVERY = 1.0  # seconds between tries to ask the engine, or to read an output
READ_WITHIN = 60.0  # seconds of tries to read an output

log = structlog.get_logger(__name__)


class Jobs:
    """Makes the calls of jobs: at most ``max_instances`` of a function run at once, and ``queue`` wait.

    Args:
        runs: starts and ends the runs.
        versions: the published versions.
        reports: told of calls and runs that have ended.
    """

    def __init__(self, runs: JobRuns, versions: VersionStore, reports: Reports) -> None:
        self._runs = runs
        self._versions = versions
        self._reports = reports
        self._lines: dict[str, Line] = {}
        self._by_run: dict[str, Job] = {}
        self._background = BackgroundTasks("job_work_failed")
        self._stopping = False

    # -- callers ---------------------------------------------------------------------------------------------------

    def submit(self, version: Version, invocation: Invocation) -> None:
        """Start the job of a call, or let it wait; ``invocation.answered`` is its outcome.

        Raises:
            BadRequest: its input cannot be that of a job.
            PayloadTooLarge: its input is too large.
        """
        if invocation.begin is None:
            read_input(invocation.call.payload)  # an asynchronous one has none before it begins
        line = self._lines.setdefault(version.function, Line())
        if line.backoff.refuses(_now()) and not line.runs_any:
            self._over(version, invocation, line.backoff.error(version, _now()))
        elif invocation.begin is None and len(line.waiting) >= version.spec.queue and not self._starts(line, version):
            said = f"{len(line.waiting)} calls wait for {version.title}; try again later"
            self._over(version, invocation, QueueFull(said))
        else:
            line.waiting[invocation] = version
            loop = asyncio.get_running_loop()
            invocation.timer = loop.call_later(version.spec.timeout, self._waited_too_long, line, invocation)
            self._start_waiting(version.function)

    def forget(self, version: Version, invocation: Invocation) -> None:
        """Forget a call whose caller has left, if it still waits."""
        line = self._lines.get(version.function)
        if line is not None and line.waiting.pop(invocation, None) is not None:
            invocation.stop_timer()
            invocation.fail(NoInstance("the caller has disconnected"))

    def resume(self, version: Version, invocation: Invocation, name: str) -> bool:
        """Take up a job that an earlier process has begun; its end decides, also if it came meanwhile.

        Args:
            version: what was called.
            invocation: the call.
            name: of the run.

        Returns:
            False if this cannot be the name of a job.
        """
        if not name.startswith(PREFIX):
            return False
        job = Job(version, invocation, name)
        invocation.handed_at = _now()
        self._lines.setdefault(version.function, Line()).jobs.add(job)
        self._background.start(self._find(job), name=name)
        return True

    def abandon(self, waiting: Iterable[Service]) -> None:
        """Remove the runs of an earlier process that have not begun: their callers are gone."""
        known = {job.name for line in self._lines.values() for job in line.jobs}
        for view in waiting:
            if view.name not in known:
                log.info("job_abandoned", run=view.id, name=view.name)
                self._runs.remove(view.id)

    def stop(self) -> None:
        """Start no more: calls that wait fail, and jobs that run go on."""
        self._stopping = True
        for line in self._lines.values():
            self._fail_waiting(line, lambda version: NoInstance("quartermaster is stopping"))

    async def close(self) -> None:
        """Cancel pending work; the next process does it."""
        await self._background.close()

    # -- what is heard ---------------------------------------------------------------------------------------------

    def versions_changed(self, name: str) -> None:
        """Hear of a function's new, or removed, versions; if there is none any more, calls that wait fail."""
        line = self._lines.get(name)
        if line is not None and self._versions.latest(name) is None:
            self._fail_waiting(line, lambda version: NotFound(f"the function {name!r} was removed"))
            line.errors.clear()
            line.backoff.trouble = None
            self._forget_if_empty(name)

    def notice(self, view: Service) -> None:
        """Hear of a changed run."""
        job = self._by_run.get(view.id)
        if job is None:
            return
        job.view = view
        if view.status == "running" and not job.runs:
            job.runs = True
            self._lines[job.version.function].backoff.reset()
        if is_over(view):
            del self._by_run[view.id]
            self._background.start(self._conclude(job, view), name=job.name)
        elif view.status == "stopping" and view.reason == "timeout":
            self._tell(job, _timed_out(job.version))
        elif view.status == "unknown" and not job.told:
            self._tell(job, InstanceDied("the node that the job runs on is down"))
            self._runs.kill(view.id)

    # -- queries ---------------------------------------------------------------------------------------------------

    def stats_of(self, name: str) -> FunctionStats | None:
        """Return what is going on for a function; None if no job of it was called."""
        line = self._lines.get(name)
        return None if line is None else line.stats()

    def all_stats(self) -> dict[str, FunctionStats]:
        """Return what is going on, by function."""
        return {name: line.stats() for name, line in self._lines.items()}

    @property
    def busy(self) -> int:
        """How many jobs have a caller that waits for their end."""
        return sum(not (job.kept or job.told) for line in self._lines.values() for job in line.jobs)

    # -- starts ----------------------------------------------------------------------------------------------------

    def _starts(self, line: Line, version: Version) -> bool:
        """Return whether a call of this version would start at once."""
        return not line.waiting and len(line.jobs) < version.spec.max_instances and _now() >= line.backoff.retry_at

    def _start_waiting(self, function: str) -> None:
        """Start calls that wait, in their order, as far as they may."""
        line = self._lines.get(function)
        while line is not None and line.waiting and _now() >= line.backoff.retry_at and not self._stopping:
            invocation, version = next(iter(line.waiting.items()))
            if len(line.jobs) >= version.spec.max_instances:
                break
            del line.waiting[invocation]
            invocation.stop_timer()
            job = Job(version, invocation, _name(invocation))
            job.kept = invocation.begin is not None
            line.jobs.add(job)
            self._background.start(self._start(job), name=job.name)
        self._forget_if_empty(function)

    async def _start(self, job: Job) -> None:
        version, invocation = job.version, job.invocation
        act_for(version.owner)
        try:
            if invocation.begin is not None:
                await invocation.begin(job.name)
            text = job_ends.input_of(invocation.call.payload)
        except HttpError as error:  # it was not to be called any more, or could not be: no fault of the function's
            self._tell(job, error)
            self._free(job)
            return
        invocation.handed_at, invocation.cold = _now(), True
        try:
            run_id = await self._runs.start(version, job.name, invocation.call.id, text, job.kept)
        except HttpError as error:
            self._start_failed(job, job_ends.refused(error))
            self._free(job)
            return
        except Exception:  # the top of a task
            log.exception("start_failed", function=version.function)
            self._start_failed(job, Trouble("engine", "quartermaster failed; its log has the reason"))
            self._free(job)
            return
        self._know_run(job, run_id, self._runs.find(run_id))

    def _know_run(self, job: Job, run_id: str, view: Service | None) -> None:
        job.run_id = run_id
        self._by_run[run_id] = job
        job.watch = self._background.start(self._watch_start(job, run_id), name=job.name)
        if view is not None:
            self.notice(view)

    async def _watch_start(self, job: Job, run_id: str) -> None:
        """Give up a job that no node has taken within its timeout, or whose container does not start."""
        timeout = job.version.spec.timeout
        await asyncio.sleep(timeout)
        if job.view is not None and job.view.status == "preparing":
            await asyncio.sleep(max(0.0, PREPARES_FOR - timeout))
        if job.runs or job.told:
            return
        view = await self._ask(run_id)
        if view is None and self._by_run.pop(run_id, None) is not None:
            self._tell(job, InstanceDied("the run of the job was removed"))
            self._free(job)
        elif view is not None and view.status in ("pending", "preparing") and not job.told:
            said = view.error or f"it did not start within {timeout:g} s"
            self._start_failed(job, Trouble(view.reason or "unschedulable", said, of_engine=view.error is not None))
            self._runs.remove(run_id)

    async def _ask(self, run_id: str) -> Service | None:
        while True:
            try:
                return await self._runs.refresh(run_id)
            except HttpError:
                await asyncio.sleep(AGAIN_EVERY)

    async def _find(self, job: Job) -> None:
        act_for(job.version.owner)
        while True:
            try:
                view = await self._runs.look_up(job.name)
                break
            except HttpError:
                await asyncio.sleep(AGAIN_EVERY)
        if view is None:
            self._tell(job, InstanceDied("the run of the job is gone"))
            self._free(job)
            return
        log.info("job_resumed", run=view.id, name=job.name, function=job.version.function)
        job.runs = view.started_at is not None
        self._know_run(job, view.id, view)

    def _start_failed(self, job: Job, trouble: Trouble) -> None:
        """Note why a job did not start: the next start waits, and calls fail that nothing shows to be possible."""
        trouble = trouble._replace(message=trouble.message[:MAX_MESSAGE])
        name, line = job.version.function, self._lines[job.version.function]
        line.errors.appendleft(FunctionError(time=rfc3339(), reason=trouble.reason, message=trouble.message))
        if trouble.reason == "policy":  # which each start asks for anyway
            line.backoff.trouble = trouble
        else:
            line.backoff.failed(trouble, _now())
            asyncio.get_running_loop().call_at(line.backoff.retry_at, self._start_waiting, name)
        log.warning("job_not_started", run=job.run_id, function=name, reason=trouble.reason, error=trouble.message)
        job.invocation.handed_at = None
        self._tell(job, line.backoff.error(job.version, _now()))
        if line.backoff.tells_callers and not line.runs_any:
            self._fail_waiting(line, lambda version: line.backoff.error(version, _now()))

    # -- ends ------------------------------------------------------------------------------------------------------

    async def _conclude(self, job: Job, view: Service) -> None:
        """Tell the end of a run, and let the next call begin."""
        trouble = job_ends.not_started(view)
        if job.told:
            pass
        elif view.reason == "timeout":
            self._tell(job, _timed_out(job.version))
        elif trouble is not None:
            self._start_failed(job, trouble)
        elif job_ends.succeeded(view):
            self._tell(job, await self._answer(job, view))
        else:
            self._tell(job, job_ends.failure(view))
        reason = trouble.reason if trouble else view.reason or "exit"
        self._reports.instance(job.version.function, reason)
        log.info("job_ended", run=view.id, function=job.version.function, reason=reason, exit_code=view.exit_code)
        if job.kept and view.status != "removed":
            asyncio.get_running_loop().call_later(KEPT, self._runs.remove, view.id)
        self._free(job)

    async def _answer(self, job: Job, view: Service) -> Answer | CallFailed:
        until, invocation = _now() + READ_WITHIN, job.invocation
        while True:
            try:
                body = await self._runs.stdout(view, job_ends.MAX_OUTPUT)
                break
            except HttpError as error:
                if (failed := job_ends.unread(error, last=_now() >= until)) is not None:
                    return failed
            await asyncio.sleep(AGAIN_EVERY)
        taken = (_now() - (invocation.handed_at or _now())) * 1000
        return Answer(body, job_ends.content_type(body), view.id, job.version.number, taken, invocation.cold)

    def _tell(self, job: Job, end: Answer | HttpError) -> None:
        """Tell a caller the end of its call, once."""
        if not job.told:
            job.told = True
            self._over(job.version, job.invocation, end, job.run_id)

    def _over(
        self, version: Version, invocation: Invocation, end: Answer | HttpError, run_id: str | None = None
    ) -> None:
        self._reports.call(invocation.conclude(version, end, run_id, _now()))

    def _free(self, job: Job) -> None:
        if job.watch is not None:
            job.watch.cancel()
        self._lines[job.version.function].jobs.discard(job)
        self._start_waiting(job.version.function)

    # -- calls that wait -------------------------------------------------------------------------------------------

    def _waited_too_long(self, line: Line, invocation: Invocation) -> None:
        version = line.waiting.pop(invocation)
        seconds = version.spec.timeout
        self._over(version, invocation, NoInstance(f"no job of {version.title} could begin within {seconds:g} s"))

    def _fail_waiting(self, line: Line, error: Callable[[Version], HttpError]) -> None:
        waiting, line.waiting = line.waiting, {}
        for invocation, version in waiting.items():
            self._over(version, invocation, error(version))

    def _forget_if_empty(self, function: str) -> None:
        line = self._lines.get(function)
        if line is not None and not (line.waiting or line.jobs or line.errors or line.backoff.trouble):
            del self._lines[function]


def _name(invocation: Invocation) -> str:
    """Return a new name for the run of a call, which is tried again under another one if it is asynchronous."""
    again = "" if invocation.begin is None else f"-{secrets.token_hex(3)}"
    return f"{PREFIX}{invocation.call.id.replace('-', '')}{again}"


def _timed_out(version: Version) -> CallTimedOut:
    return CallTimedOut(f"{version.title} took longer than its timeout of {version.spec.timeout:g} s")


def _now() -> float:
    return asyncio.get_running_loop().time()
