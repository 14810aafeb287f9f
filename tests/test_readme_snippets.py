"""The snippets of the docs do what they say: shell blocks are run in their order, as a reader would, and programs too.

A block that cannot be run as it stands has its way in a table here, with the reason. Only addresses, tokens and the
names of images are put in; an id that the docs show as an answer becomes the one that was answered.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest
from conftest import StartServer
from documents import place
from playwright.sync_api import Error, Page
from snippets import PROGRAMS, SHELL, SHOWN, Block, blocks
from testbed import Bed, Engine, Registry, Server, Swarm, eventually, lambdas
from testbed.browser import Chromium
from testbed.process import Process, run, start
from testbed.server import ADDRESS, ROOT
from testbed.subscriber import Subscriber

Json = dict[str, Any]

IMAGE = "busybox:local"
SAMPLE_TOKEN = "4jrs8-534js-345ds-3lrd0"
LINES = 20
ANSWER_WITHIN = 3  # lines after a call: nothing but the marks of the two blocks is between them
SERVE = "./build.sh run"
IN_DOCKER = "it wants the image, on an engine of its own"
ON_A_SWARM = "it wants the image, on a swarm"
NO_IMAGE = "its image is made up"
# The first line of what is not run here: why, and the test or script that shows it.
ELSEWHERE = {
    "./build.sh": (IN_DOCKER, "tests/server/test_image.py::test_the_run_line"),
    "docker run -d --name quartermaster --restart unless-stopped -e TOKEN -p 9090:9090 \\": (
        IN_DOCKER,
        "tests/server/test_image.py::test_a_backup",
    ),
    "docker run -d -e TOKEN -p 9090:9090 -v /var/run/docker.sock:/var/run/docker.sock --read-only --cap-drop ALL \\": (
        IN_DOCKER,
        "tests/server/test_image.py::test_a_read_only_container_without_capabilities",
    ),
    "docker stop quartermaster": (IN_DOCKER, "tests/server/test_image.py::test_a_backup"),
    "printf '%s' \"$TOKEN\" | docker secret create quartermaster-token -": (
        ON_A_SWARM,
        "tests/server/test_image.py::test_the_stack",
    ),
    "QMASTER_IMAGE=quartermaster:2 docker stack deploy --compose-file stack.yml quartermaster": (
        ON_A_SWARM,
        "tests/server/test_image.py::test_the_stack",
    ),
    "curl -X POST -H @data/header http://localhost:9090/functions/resize/invoke --data-binary @photo.jpg": (
        NO_IMAGE,
        "tests/api/calls/test_invoke.py::test_a_body_is_the_input_and_the_answer_the_output",
    ),
    "export AWS_ENDPOINT_URL_LAMBDA=http://localhost:9090 AWS_SESSION_TOKEN=$TOKEN": (
        NO_IMAGE,
        "tests/api/calls/test_aws.py::test_the_environment_is_all_that_boto3_needs",
    ),
    "useradd --system --no-create-home --shell /usr/sbin/nologin quartermaster": (
        "it would add a user and a service to this machine",
        "tests/server/test_monitoring.py::test_systemd_takes_the_unit",
    ),
    "./build.sh bench": ("it takes ten minutes", "tests/test_bench.py::test_no_figure_is_far_from_its_reach"),
    "./build.sh test": ("it would run these tests within themselves", ".ci/run"),
}
# The first line of what the server must not run for.
STOPPED = ("mkdir data/replaced",)
# What is in the output of the block that has this.
SAYS = {
    '"echo hello", "wait": true': '"result":{"exit_code":0,"stdout":"hello\\n"',
    "http://localhost:9090/events\ncurl -N": "event: snapshot",
    "logs/clock?follow=1": " UTC ",
    "order-4711": '"stdout":"42\\n"',
    "label=team=blue&limit": '"replicas":{"desired":2,"running":2,',
    "x-ndjson": '"stream":"stdout"',
    "exit code $?": "exit code 3\n",
    "user/private-image": '"status":"complete"',
    "header http://localhost:9090/functions/shout/invoke": "HELLO",
    "count/invoke": "3",
    "header http://localhost:9090/functions/hello/invoke": '"event": {"name": "Ada"}',
    "Prefer: respond-async": '"status":"queued"',
    "0a0000052383?wait": '"output":"GOOD MORNING"',
    "0a0000052384?wait": '"event": {"name": "Ada"}',
    "qmaster schedules": "Europe/Berlin",
    "qmaster invoke shout --async": "HELLO",
    "qmaster invoke hello": '"event": {"name": "Ada"}',
    "--interactive busybox cat": "hello from a pipe",
    "aws lambda invoke": '200 {"event": {}',
}
# A stream has no end: it is read until something has come.
CURL = """#!/bin/bash
case " $* " in
  *' -N '*) ;;
  *) exec {curl} -sS --fail-with-body "$@" ;;
esac
: >stream.out
{curl} -sS --fail-with-body --dump-header head.out "$@" >stream.out &
until grep -qe 'event: snapshot' -e ' UTC ' stream.out; do
  kill -0 $! 2>/dev/null || break
  sleep 0.05
done
kill $! 2>/dev/null
cat stream.out
head -n 1 head.out | grep -q ' 200 '
"""
PROGRAM = """#!/bin/sh
exec {python} {arguments} "$@"
"""


class Reader:
    """Someone with a clone of the repository, who types what the docs say; ``api`` is not started."""

    def __init__(
        self, folder: Path, api: Server, engine: Engine, images: dict[str, str], runtime: dict[str, str]
    ) -> None:
        self.api = api
        self.images = images
        self.folder = folder / "clone"
        self.ids: dict[str, str] = {}
        self._log = folder / "served.log"
        self._served: Process | None = None
        self._clone()
        self._env = {
            "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "DOCKER_HOST": engine.host,
            "PORT": str(api.port),
            **runtime,
            "QMASTER_ADDRESS": ADDRESS,
            "QMASTER_URL": api.url,
        }
        self._command("curl", CURL.format(curl=shutil.which("curl")))
        self._command("python3", PROGRAM.format(python=sys.executable, arguments=""))
        self._command("aws", PROGRAM.format(python=sys.executable, arguments="-m awscli"))
        self._command("qmaster", PROGRAM.format(python=sys.executable, arguments="-m qmaster"))
        self._env["PYTHONPATH"] = str(ROOT)

    def _clone(self) -> None:
        """The checkout as links; its virtual environment, which build.sh finds complete, is that of the tests."""
        self.folder.mkdir()
        for name in ("build.sh", "qmaster", "static", "requirements.txt"):
            (self.folder / name).symlink_to(ROOT / name)
        python = self.folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        _write_program(python, PROGRAM.format(python=sys.executable, arguments=""))
        pinned = (ROOT / "requirements.txt").read_bytes()
        stamp = f"{run('cksum', stdin=pinned).strip()} {run(sys.executable, '-V').strip()}\n"
        (self.folder / ".venv" / "run.stamp").write_text(stamp)

    def _command(self, name: str, text: str) -> None:
        bin_folder = self.folder.parent / "bin"
        bin_folder.mkdir(exist_ok=True)
        _write_program(bin_folder / name, text)

    def serve(self, command: str = SERVE) -> None:
        """Type that in a terminal of its own, where another may end, and wait until it serves."""
        self.stop()
        process = self._served = start(command.split(), self._log, self.folder, self._env)

        def ready() -> bool:
            assert process.alive, self._log.read_text()
            return self.api.call("GET", "/readyz", token=False).status == 200

        eventually(ready, 30, "build.sh serves", every=0.1, ignoring=OSError)
        self.api.token = (self.folder / "data" / "token").read_text().strip()

    def stop(self) -> None:
        if self._served:
            assert self._served.terminate() == 0, self._log.read_text()[-2000:]
            self._served = None

    def leave(self) -> None:
        if self._served:
            self._served.kill()

    def type(self, block: Block) -> str:
        """The output of a block; what it answers is known from then on. Fails where a command of it does."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.put_in(block.text)],
            cwd=self.folder,
            env={**self._env, "TOKEN_FILE": "data/token"},  # which the first block with a command exports
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{place(block.line)}: {done.stdout}{done.stderr}"
        for having, says in SAYS.items():
            assert having not in block.text or says in done.stdout, f"{place(block.line)}: {done.stdout}"
        return done.stdout

    def read_on(self) -> None:
        """What has been started begins meanwhile."""
        settling = "/status?status=pending&status=preparing"
        eventually(lambda: self.api.call("GET", settling)["services"] == [], 30, "all has begun")

    def put_in(self, text: str) -> str:
        """The text with what is different here."""
        text = text.replace("localhost:9090", f"{ADDRESS}:{self.api.port}").replace(SAMPLE_TOKEN, self.api.token)
        for shown, came in self.ids.items():
            text = text.replace(shown, came)
        for name, here in self.images.items():
            text = re.sub(rf"(?<![\w/-]){re.escape(name)}(?![\w:/-])", here, text)
        return text


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def reader(tmp_path: Path, bed: Bed, clean_bridged_swarm: Swarm, registry: Registry) -> Iterator[Reader]:
    engine = clean_bridged_swarm.manager
    engine.client().create_network("shop", driver="overlay", scope="swarm")
    for secret in ("pgpass", "restic", "github", "qmaster"):
        engine.client().create_secret(secret, b"hush")
    lambdas.load(lambdas.python(tmp_path), clean_bridged_swarm.nodes)
    images = {
        "busybox": IMAGE,
        "user/image": IMAGE,
        "user/private-image": registry.push(engine),
        "user/function": lambdas.PYTHON,
        "registry.example.com/resize:1": lambdas.PYTHON,
    }
    _, port, _, host = bed.runtime()
    runtime = {"QMASTER_RUNTIME_PORT": port, "QMASTER_ADVERTISE": host}
    reader = Reader(tmp_path, bed.server(engine.host), engine, images, runtime)
    yield reader
    reader.leave()


def test_each_block_is_run_or_shown_elsewhere() -> None:
    """Nothing is skipped in silence: a block in an unknown language, or a way that no block takes, fails."""
    found = blocks()
    assert {block.language for block in found} <= {*SHELL, *PROGRAMS, *SHOWN}
    shell = [block.first for block in found if block.language in SHELL]
    assert {SERVE, *ELSEWHERE, *STOPPED} <= set(shell)
    assert all(any(having in block.text for block in found) for having in SAYS)
    for reason, shown in ELSEWHERE.values():
        path, _, test = shown.partition("::")
        assert reason
        assert f"def {test}(" in (ROOT / path).read_text() if test else (ROOT / path).exists()
    assert sorted(block.language for block in found if block.language in PROGRAMS) == ["js", "python"]


@pytest.mark.timeout(300)
def test_the_shell_blocks(reader: Reader) -> None:
    """Each does what it says, from the first call on; what is shown as its answer has the keys of the real one."""
    said, after = "", 0
    for block in blocks():
        if block.language == "json" and block.line - after <= ANSWER_WITHIN:
            check_answer(reader, block, said)
        if block.language not in SHELL or block.first in ELSEWHERE:
            continue
        if block.first.startswith(SERVE):
            reader.serve(block.text)
        elif block.first in STOPPED:
            reader.stop()
            reader.type(block)
            reader.serve()
        else:
            said, after = reader.type(block), block.line + block.text.count("\n")
            reader.read_on()


def check_answer(reader: Reader, block: Block, said: str) -> None:
    """An answer that the docs show after a call is like the one that came; its id is known from now on."""
    shown, came = json.loads(block.text), json.loads(said.splitlines()[-1])
    came.pop("warnings", None)  # of an engine that ignores a part of what is the default
    assert list(shown) == list(came), f"{place(block.line)}"
    assert len(shown["id"]) == len(came["id"]), f"{place(block.line)}"
    reader.ids[shown["id"]] = came["id"]


def test_the_credentials_are_those_of_the_line_before() -> None:
    """What the docs' line makes of a user name and a password is what its next call sends."""
    found = blocks()
    line = next(index for index, block in enumerate(found) if "| base64" in block.text)
    made = subprocess.run(["bash", "-c", found[line].text], capture_output=True, text=True, check=True).stdout
    assert f'"auth": "{made}"' in found[line + 1].text


# The subscribers


class Program(Protocol):
    """A subscriber of the docs, that runs: it says a line for each change."""

    def said(self) -> list[str]: ...
    def leave(self) -> None: ...
    def come_back(self) -> None: ...


def program(language: str) -> Block:
    (found,) = (block for block in blocks() if block.language == language)
    return found


class InPython:
    """The Python one, in a process of its own."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._log = folder / "said.log"
        self._folder = folder
        self._env = {"TOKEN": server.token, "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        text = program("python").text.replace("localhost:9090", f"{ADDRESS}:{server.port}")
        (folder / "subscriber.py").write_text(text)
        self.come_back()

    def come_back(self) -> None:
        self._process = start([sys.executable, "subscriber.py"], self._log, self._folder, self._env)

    def said(self) -> list[str]:
        assert self._process.alive, self._log.read_text()
        return self._log.read_text().splitlines()

    def leave(self) -> None:
        self._process.kill()


class InPage:
    """The JavaScript one, in a page of another origin."""

    def __init__(self, server: Server, page: Page, origin: str) -> None:
        text = program("js").text
        self._text = text.replace("localhost:9090", f"{ADDRESS}:{server.port}").replace(SAMPLE_TOKEN, server.token)
        self._page = page
        self._origin = origin
        self._said: list[str] = []
        page.on("console", lambda message: self._said.append(message.text))
        self.come_back()

    def come_back(self) -> None:
        # When an interface of the machine comes or goes, which a testbed brings about, Chromium drops what it loads.
        eventually(lambda: self._page.goto(self._origin), 10, "the page is there", ignoring=Error)
        self._page.add_script_tag(content=self._text)

    def said(self) -> list[str]:
        self._page.wait_for_timeout(1)  # what the page has said is heard while Playwright waits
        return list(self._said)

    def leave(self) -> None:
        self._page.goto("about:blank")


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_subscriber_is_short(language: str) -> None:
    """Twenty lines, blank ones aside."""
    assert len([line for line in program(language).text.splitlines() if line]) <= LINES


def test_the_python_subscriber(start_server: StartServer, engine: Engine, tmp_path: Path) -> None:
    """It tells each change once and in order, over a crash of the server and an absence of its own; and a gap."""
    server = start_server(engine.host)
    subscriber = InPython(server, tmp_path)
    try:
        check_subscriber(server, subscriber)
    finally:
        subscriber.leave()


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """A page of somebody else's, on this machine: Chromium lets no other come to loopback."""
    (tmp_path / "index.html").write_text("<title>A page</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer((ADDRESS, 0), handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        yield f"http://{ADDRESS}:{pages.server_port}"
        pages.shutdown()


def test_the_javascript_subscriber(start_server: StartServer, engine: Engine, origin: str, chromium: Chromium) -> None:
    """It tells each change once and in order, over a crash of the server and an absence of its own; and a gap.

    Its page may make calls too, and read what is wrong with one.
    """
    server = start_server(engine.host, "--allow-origin", origin)
    context = chromium.context()
    try:
        page = context.new_page()
        check_subscriber(server, InPage(server, page, origin))
        check_calls(server, page)
    finally:
        context.close()


FETCH = """async ([url, method, token, body]) => {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json", Prefer: "x" };
  const answer = await fetch(url, { method, headers, body });
  return [answer.status, (await answer.json()).error ?? "", answer.headers.get("Location") ?? ""];
}"""


def check_calls(server: Server, page: Any) -> None:
    def fetch(method: str, path: str, body: object = None, token: str = server.token) -> list[Any]:
        sent = None if body is None else json.dumps(body)
        return list(page.evaluate(FETCH, [server.url + path, method, token, sent]))

    run = {"image": IMAGE, "command": "sleep 60", "memory": 16}
    status, _, place = fetch("POST", "/run", run)
    assert (status, place[:8]) == (200, "/status/")
    assert fetch("DELETE", place)[0] == 200
    assert fetch("GET", "/nothing")[:2] == [404, "no such path; see GET /openapi.json"]
    assert fetch("POST", "/run", {**run, "memory": 1})[0] == 400
    assert fetch("GET", "/status", token="another")[0] == 401


def check_subscriber(server: Server, subscriber: Program) -> None:
    eventually(lambda: said(subscriber, "snapshot "), 20, "it has a snapshot")
    first = server.call("GET", "/status")["cursor"]
    for number in range(4):
        job(server, f"before-{number}")
    eventually(lambda: len(events(subscriber)) > 2, 20, "it hears of them")
    server.kill()
    server.start()
    job(server, "after")
    eventually(lambda: told(subscriber, server, first), 30, "all is told, once and in order")
    subscriber.leave()
    job(server, "while-it-is-away")
    subscriber.come_back()
    eventually(lambda: told(subscriber, server, first), 30, "it goes on where it was")
    server.terminate()
    shutil.rmtree(server.folder / "data")
    server.start()
    eventually(lambda: len(said(subscriber, "snapshot ")) == 2, 30, "it has another snapshot")
    assert said(subscriber, "gap ") == ["gap epoch_changed"]
    ended = job(server, "after-the-gap")
    eventually(lambda: any(line.endswith(f"service.complete {ended}") for line in events(subscriber)), 30, "it goes on")


def job(server: Server, name: str) -> str:
    """A short run, once the server is ready."""
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    reply = server.run(image=IMAGE, command="true", memory=16, name=name)
    assert reply.status == 200, reply.text
    return str(reply["id"])


def said(subscriber: Program, word: str) -> list[str]:
    """The lines that begin so; a browser has some of its own."""
    return [line for line in subscriber.said() if line.startswith(word)]


def events(subscriber: Program) -> list[str]:
    return [line for line in subscriber.said() if "io.qmaster." in line]


def told(subscriber: Program, server: Server, since: str) -> bool:
    """Whether it has told all changes up to now, when all runs have ended."""
    if any(one["result"] is None for one in server.call("GET", "/status")["services"]):
        return False
    until = server.call("GET", "/status")["cursor"]
    with Subscriber(server, since) as reference:
        reference.until(lambda frame: frame.get("cursor") == until and frame["type"] in ("event", "heartbeat"), 20)
        known = [event["id"] for event in reference.events]
    lines = [line.split()[0] for line in events(subscriber)]
    assert lines == known[: len(lines)]
    return lines == known
