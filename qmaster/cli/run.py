"""``qmaster run``: start a job, show what it writes, stop it on Ctrl-C, and end as it ended."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import re
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import ConfigError
from . import tables
from .client import ANSWER_WITHIN, ENDED, LOOK_AGAIN, Client, ClientError, Json, Lost, Refused
from .descriptors import ERR, OUT
from .options import compose as compose_options
from .options.inputs import environment, is_utf8
from .retries import RetryPolicy
from .streams import Line, events, logs
from .terminal import OutputError, Screen

TIMED_OUT = 124  # as coreutils' timeout
OWN_FAILURE = 125  # as docker run
HIGHEST = 255
SIGNALLED = 128  # plus the number of the signal, as in a shell
OUTPUT_CLOSED = SIGNALLED + signal.SIGPIPE
WAIT = 50  # seconds of one call
SAYS_THE_CODE = re.compile(
    r"task: non-zero exit \([0-9]+\)"
)  # Swarm's message if a program ended, which says nothing more
SIGNALS = (signal.SIGINT, signal.SIGTERM)
EMPTY: tuple[Any, ...] = (None, (), [], "")
MEANT = (("entrypoint", ""), ("stdin", ""))  # disables the image's own; is empty
BOM = "\ufeff"  # the byte order mark that some editors write


def exit_code(ended: Json) -> int:
    """Return the command's exit code for a job that has ended."""
    code: int | None = ended["exit_code"]
    if ended["reason"] == "timeout":
        return TIMED_OUT
    if code is None or (code == 0 and ended["status"] == "failed"):
        return OWN_FAILURE
    return code if 0 <= code <= HIGHEST else HIGHEST


def remark(ended: Json, name: str) -> str | None:
    """Return how a job ended, if its exit code does not say that; else None.

    Args:
        ended: the status of the job.
        name: the name of the job in messages.
    """
    reason, error = ended["reason"], ended["error"]
    if reason == "timeout":
        limit = ended.get("timeout")
        return f"{name} ran longer than its timeout" + (f" of {limit:g} s" if limit else "") + ", and was ended"
    if reason == "stopped":
        return f"{name} was stopped"
    if reason == "oom":
        return f"{name} ran out of memory"
    if reason in (None, "exit") and ended["exit_code"] is None:
        return f"{name} is gone, and its exit code is not known"
    if reason in (None, "exit"):
        says_more = error and ended["status"] != "complete" and not SAYS_THE_CODE.fullmatch(error)
        return f"{name} failed: {error}" if says_more else None
    return f"{name} failed ({reason})" + (f": {error}" if error else "")


class Run:
    """One job, from its start to its end.

    Args:
        client: the server.
        screen: shows messages and output.
        signals: Ctrl-C and SIGTERM.
        as_json: print only the last status document, at the end.
    """

    def __init__(self, client: Client, screen: Screen, signals: Signals, *, as_json: bool) -> None:
        self._client = client
        self._screen = screen
        self._signals = signals
        self._as_json = as_json
        self._retry_policy = RetryPolicy(screen.say)
        self._name: str | None = None  # the name that the user chose; else the id is shown
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = False

    async def start(self, body: Json, headers: Mapping[str, str]) -> Json:
        """Start the job once; with an idempotency key, retry if the answer is lost.

        Raises:
            ClientError: the server refused it, or is away.
        """
        if headers:
            self._retry_policy.succeeded()  # retry the first call too
        try:
            answer = await self._retry_policy.call(lambda: self._client.call("POST", "/run", body, headers=headers))
        except Lost as error:
            hint = "it may have been started: qmaster status shows it, and --idempotency-key makes a retry safe"
            raise ClientError(f"{error}; {hint}") from None
        for warning in answer.get("warnings", ()):
            self._screen.say(f"warning: {warning}")
        return answer

    async def to_its_end(self, body: Json, headers: Mapping[str, str]) -> int:
        """Start the job, and follow it.

        Returns:
            The exit code of the command.

        Raises:
            ClientError: the job was not started, or the server was away for too long.
        """
        self._name = body.get("name")
        with self._screen.spinning():
            job = await self._start(body, headers)
            if job is None:
                return SIGNALLED + self._signals.number
            try:
                return await self._attend(job)
            except (ClientError, OutputError) as error:
                raise ClientError(f"{error}; {self._called(job)} may go on: qmaster status {job} shows it") from None
            finally:
                if self._stopping is not None:
                    self._stopping.cancel()

    async def _start(self, body: Json, headers: Mapping[str, str]) -> str | None:
        """Start the job, and return its id; None after a second signal."""
        self._screen.progress("starting")
        starting = asyncio.create_task(self.start(body, headers))
        if not await before(starting, self._signals.once):
            self._screen.say("stopping it as soon as it has started; a second Ctrl-C leaves it running")
            if not await before(starting, self._signals.twice):
                starting.cancel()
                self._screen.say("left: it may have been started; qmaster status shows it")
                return None
        return str((await starting)["id"])

    async def _attend(self, job: str) -> int:
        try:
            ended = await self._or_signal(job, self._show(job))
            code = None if ended is None else exit_code(ended)
        except BrokenPipeError:  # the reader of the output has left
            self._stop(job, "its output has no reader")
            ended, code = await self._or_signal(job, self._end(job)), OUTPUT_CLOSED
        if self._signals.number or code is None:
            code = SIGNALLED + self._signals.number
        if ended is not None:
            await self._conclude(job, ended)
        return code

    async def _or_signal(self, job: str, work: Coroutine[Any, Any, Json]) -> Json | None:
        """Return the result of ``work``; a first signal stops the job, and a second one returns None."""
        task = asyncio.create_task(work)
        try:
            if not await before(task, self._signals.once):
                self._stop(job, "a second Ctrl-C does not wait for its end")
            if await before(task, self._signals.twice):
                return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        words = "it is being stopped" if self._stopped else "the server did not take the stop, so it goes on running"
        self._screen.say(f"left {self._called(job)}: {words}; qmaster status {job} shows it")
        return None

    def _stop(self, job: str, words: str) -> None:
        if self._stopping is None:
            self._screen.say(f"stopping {self._called(job)}: {words}")
            self._stopping = asyncio.create_task(self._stop_call(job))

    async def _stop_call(self, job: str) -> None:
        with contextlib.suppress(Refused):  # it was removed meanwhile
            await self._retry_policy.call(lambda: self._client.call("POST", "/stop", {"id": job}))
        self._stopped = True

    async def _show(self, job: str) -> Json:
        """Show the output, and return the last status."""
        progress = asyncio.create_task(self._show_progress(job))
        try:
            if not self._as_json:
                writer = LineWriter(self._screen)
                async for line in logs(self._client, job, {}, True, self._retry_policy):
                    await writer.write(line)
            return await self._end(job)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)

    async def _show_progress(self, job: str) -> None:
        if not self._screen.lively:
            return
        with contextlib.suppress(ClientError):  # the spinner then keeps its last text
            query = [("service", job), ("topic", "service")]
            async for frame in events(self._client, query, "", RetryPolicy(lambda text: None)):
                services = frame.data.get("services", []) if frame.kind == "snapshot" else [frame.data.get("data")]
                for service in filter(None, services):
                    self._screen.progress(tables.progress(service))
                if not self._screen.lively:
                    return

    async def _end(self, job: str) -> Json:
        """Return the last status, once the job has ended; for JSON with the result."""
        return await until_over(self._client, job, self._retry_policy, with_result=self._as_json)

    def _called(self, job: str) -> str:
        return self._name or job

    async def _conclude(self, job: str, ended: Json) -> None:
        said = remark(ended, self._called(job))
        if said is not None:
            self._screen.say(said)
        if self._as_json:
            with contextlib.suppress(BrokenPipeError):
                await self._screen.write(OUT, json.dumps(ended).encode() + b"\n")


async def until_over(client: Client, name_or_id: str, retry_policy: RetryPolicy, *, with_result: bool) -> Json:
    """Return the last status of a job, once it has ended.

    Args:
        client: the server.
        name_or_id: the job.
        retry_policy: the retries while the server is away.
        with_result: wait for the result too, which comes a moment later.

    Raises:
        ClientError: the server refuses it, or is away for too long.
    """
    path = f"/status/{quote(name_or_id, safe='')}"
    query: list[tuple[str, str]] = []
    while True:
        asked = functools.partial(client.call, "GET", path, query=query, within=WAIT + ANSWER_WITHIN)
        document = await retry_policy.call(asked)
        read = document.get("result") is not None or document["status"] == "removed" or not with_result
        if document["status"] in ENDED and (read or query):
            return document
        if query:
            await asyncio.sleep(LOOK_AGAIN)  # a server that stops answers at once
        path = f"/status/{document['id']}"  # another run may get the name
        query = [("wait", str(WAIT))]


class LineWriter:
    """Writes the lines of a job to standard output and standard error, as the job did.

    Args:
        screen: where they are written.
        as_json: write the JSON documents instead, all to standard output.
        timestamps: write the time in front of each line.
    """

    def __init__(self, screen: Screen, *, as_json: bool = False, timestamps: bool = False) -> None:
        self._screen = screen
        self._as_json = as_json
        self._timestamps = timestamps

    async def write(self, line: Line) -> None:
        """Write a line; raise BrokenPipeError if nobody reads the output, OutputError if it cannot be written."""
        if self._as_json:
            await self._screen.write(OUT, line.raw + b"\n")
        elif line.stream == "qmaster":
            self._screen.say(line.data.decode(errors="replace"))
        else:
            await self._write(ERR if line.stream == "stderr" else OUT, line)

    async def _write(self, descriptor: int, line: Line) -> None:
        """Write a line; another task, and with timestamps another stream, begins a new line."""
        of = f"{line.task} {line.stream}" if self._timestamps else line.task
        stamp = f"{line.time} ".encode() if self._timestamps and self._screen.begins_line(descriptor, of) else b""
        await self._screen.write(descriptor, stamp + line.data, of)


class Signals:
    """Signals received; ``number`` is the first one, 0 before that."""

    def __init__(self) -> None:
        self.number = 0
        self.once = asyncio.Event()
        self.twice = asyncio.Event()

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        """Take Ctrl-C and SIGTERM within a ``with`` block."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.take, number)
        try:
            yield self
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def take(self, number: int) -> None:
        """Note a signal: the first one, or a further one."""
        if self.number:
            self.twice.set()
        self.number = self.number or number
        self.once.set()


async def before(task: asyncio.Task[Any], event: asyncio.Event) -> bool:
    """Wait for the task or the event, and return whether the task is done."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return task.done()


def body_of(image: str, command: Sequence[str], options: Mapping[str, Any], environ: Mapping[str, str]) -> Json:
    """Return the body of ``POST /run`` for the arguments, with the registry's credentials; the server checks it.

    Raises:
        ConfigError: an option is wrong.
    """
    fields = dict(options)
    auth = credentials(fields.pop("auth_file", None), environ)
    return fields_of(image, command, fields, environ) | ({"auth": auth} if auth else {})


def fields_of(image: str, command: Sequence[str], options: Mapping[str, Any], environ: Mapping[str, str]) -> Json:
    """Return the fields of a run or a function for the arguments.

    Args:
        image: the image.
        command: the command; empty: the image's own.
        options: by field; None, an empty list or "" means not given, except for ``entrypoint`` and ``stdin``.
        environ: the environment, for ``--env NAME``.

    Raises:
        ConfigError: an option is wrong.
    """
    options = dict(options)
    env = environment(options.pop("env", ()), options.pop("env_files", ()), environ)
    given = {field: value for field, value in options.items() if value not in EMPTY or (field, value) in MEANT}
    given = compose_options.read(given)
    return {
        "image": image,
        **({"command": list(command)} if command else {}),
        **{field: list(value) if isinstance(value, tuple) else value for field, value in given.items()},
        **({"env": env} if env else {}),
        **({"labels": dict(_pair("--label", text) for text in given["labels"])} if "labels" in given else {}),
    }


def credentials(file: str | None, environ: Mapping[str, str]) -> str | None:
    """Return ``auth`` from a file ("-": standard input) or QMASTER_AUTH, which have JSON or its base64.

    Raises:
        ConfigError: the file cannot be read or is empty, or the text is not UTF-8.
    """
    if file is None:
        text = environ.get("QMASTER_AUTH", "")
    else:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--auth-file: cannot read it: {getattr(error, 'strerror', error)}") from None
        if not text.strip():
            raise ConfigError("--auth-file: the file is empty; expected JSON or base64")
    text = text.removeprefix(BOM).strip()
    if not is_utf8(text):
        raise ConfigError(f"{'QMASTER_AUTH' if file is None else '--auth-file'}: it is not UTF-8")
    return base64.b64encode(text.encode()).decode() if text.startswith("{") else text or None


def _pair(flag: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{flag}: expected key=value; got {text!r}")
    return key, value
