"""A process beside this one that is told what to do in lines of JSON: both ends of that."""

import asyncio
import contextlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent


class Child:
    """``python -m bench.MODULE``, running until `close`."""

    def __init__(self, module: str, *args: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), str(TESTS), os.environ.get("PYTHONPATH")]))
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"bench.{module}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(self, verb: str, **fields: Any) -> Any:
        """Let it do something, and wait for its answer. Raises `RuntimeError` where it failed."""
        self.tell(verb, **fields)
        return self.answer()

    def tell(self, verb: str, **fields: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"verb": verb, **fields}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child of the benchmark has ended: {self.module}")
        return json.loads(line)

    def close(self) -> None:
        """End it: it ends when it is told no more."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()


def said(line: bytes) -> tuple[str, Mapping[str, Any]]:
    """In the child: what a line tells it."""
    fields = json.loads(line)
    return fields.pop("verb"), fields


def reply(answer: Any) -> None:
    """In the child: what came of it."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def obey(verbs: object) -> None:
    """In a child with an event loop: each verb is a method of that name; returns when there are no more."""
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        verb, fields = said(line)
        answer = getattr(verbs, verb)(**fields)
        reply(await answer if inspect.isawaitable(answer) else answer)
