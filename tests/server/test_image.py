"""The image, built on a small Debian, and the stack: as a container of a real engine and on a three-node swarm."""

import contextlib
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from documents import TEXT
from testbed import Bed, Client, Engine, Swarm, eventually
from testbed.debian import BASE, Debian, checkout, download
from testbed.process import CommandFailed, run
from testbed.server import ROOT
from testbed.subscriber import Subscriber
from testbed.tidy import tidy

from qmaster import __version__

TOKEN = "a-token-for-tests-of-the-image"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET = "/var/run/docker.sock"
GROUP = 4242  # the socket's
USER = 10001
MOUNT = ("-v", f"{SOCKET}:{SOCKET}")
RUN_LINE = "docker run -d -e TOKEN -p 9090:9090 -v /var/run/docker.sock:/var/run/docker.sock quartermaster"
STACK, SERVICE = "quartermaster", "quartermaster_quartermaster"
NEXT = "quartermaster:2"  # as docs/deploy.md calls an update
pytestmark = pytest.mark.timeout(600)  # the first has the base made, and the image built
Measured = Callable[[str], None]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def host(bed: Bed) -> Iterator[Engine]:
    """An engine as a user has one: with a bridge, its socket at the usual place and for a group."""
    engine = bed.engine("machine", "--bridge=docker0", f"--host=unix://{SOCKET}", f"--group={GROUP}")
    engine.start()
    engine.swarm_init()
    engine.load_busybox()
    yield engine
    tidy(engine, [engine])
    engine.stop()


@pytest.fixture(scope="module")
def clone(bed: Bed, host: Engine, debian: Debian) -> Path:
    """A checkout on that engine's machine, with the packages as for a builder that cannot reach PyPI."""
    clone = checkout(bed.root / "checkout")
    debian.load(host)
    download(host, clone / "wheels")
    return clone


@pytest.fixture(scope="module")
def image(host: Engine, clone: Path) -> None:
    """The image `quartermaster` on that engine."""
    build(host, clone)


def build(engine: Engine, clone: Path, **more: str) -> None:
    """`./build.sh` in that clone, on the testbed's base."""
    env = {"PATH": PATH, "HOME": str(clone), "DOCKER_HOST": engine.host, "BASE": BASE, **more}
    run(str(clone / "build.sh"), env=env, timeout=300)


@pytest.fixture
def shell(host: Engine, image: None) -> Iterator[Callable[[str], str]]:
    """`shell(text)`: runs it on that engine's machine; containers and volumes are removed after the test."""
    folder = host.folder / "shell"
    folder.mkdir(exist_ok=True)
    env = ["env", "-C", str(folder), f"HOME={folder}", f"TOKEN={TOKEN}", f"PATH={PATH}"]
    yield lambda text: host.machine.run(*env, "bash", "-euo", "pipefail", "-c", text)
    for container in host.cli("ps", "--all", "--quiet").split():
        host.cli("rm", "--force", "--volumes", container)
    for volume in host.cli("volume", "ls", "--quiet").split():
        host.cli("volume", "rm", volume)


def block(having: str) -> str:
    """The shell commands of the docs, the block that has this text."""
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return next(text for text in blocks if having in text)


def inspect(engine: Engine, name: str) -> Json:
    client: Any = engine.client()
    try:
        found: Json = client.inspect_container(name) if len(name) == 64 else client.inspect_image(name)
    finally:
        client.close()
    return found


def at(engine: Engine, port: int = 9090) -> Client:
    """The API of the quartermaster that has a port of that engine's host."""
    return Client(engine.address, port, TOKEN)


def ready(client: Client) -> bool:
    return client.call("GET", "/readyz", token=False, timeout=2).status == 200


def wait_ready(client: Client, timeout: float = 60) -> None:
    eventually(lambda: ready(client), timeout, "it is ready", ignoring=OSError)


def healthy(engine: Engine, container: str) -> bool:
    return bool(inspect(engine, container)["State"]["Health"]["Status"] == "healthy")


def process(engine: Engine, container: str) -> dict[str, str]:
    """What the kernel says of the container's first process."""
    lines = engine.cli("exec", container, "cat", "/proc/1/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check_is_a_user(engine: Engine, container: str) -> None:
    """Not root nor of root's group, of the socket's, and without capabilities."""
    found = process(engine, container)
    assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(USER)}
    assert str(GROUP) in found["Groups"].split()
    assert "0" not in found["Groups"].split()
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}


def ends_as(client: Client, service: str) -> str:
    """The status that a run ends with."""

    def ended() -> str:
        status = client.status(service)["status"]
        return str(status) if status in ("complete", "failed") else ""

    return eventually(ended, 60, "the run has ended")


def test_the_run_line(host: Engine, shell: Callable[[str], str], measured: Measured) -> None:
    """It is in the docs; what it starts runs jobs, is a user, becomes healthy, and ends on SIGTERM within 10 s."""
    assert RUN_LINE in TEXT.splitlines()
    begun = time.monotonic()
    container = shell(RUN_LINE).strip()
    client = at(host)
    wait_ready(client)
    measured(f"ready {time.monotonic() - begun:.1f} s after docker run, {size(host)} MB")
    assert client.call("GET", "/", token=False).status == 200  # the page
    check_is_a_user(host, container)
    assert process(host, container)["NoNewPrivs"] == "1"
    assert ends_as(client, client.run(image="busybox:local", command="true", memory=16)["id"]) == "complete"
    assert client.run(image="busybox:local", command="true", memory=16, type="container").status == 200
    assert client.stop_service(container).status == 409
    eventually(lambda: healthy(host, container), 60, "docker calls it healthy", every=0.2)
    stopping = time.monotonic()
    host.cli("stop", "--time", "30", container)
    assert time.monotonic() - stopping < 10
    assert inspect(host, container)["State"]["ExitCode"] == 0


def check_is_never_published(client: Client, *ports: int) -> None:
    """A run with one of these ports is refused, as its own, and nothing is created; its UDP twin is nobody's."""
    for port in ports:
        refused = client.run(image="busybox:local", command="true", memory=16, ports=[f"{port}:80"], name="taken")
        assert refused.status == 409, refused.text
        assert f"{port}/tcp is a port of quartermaster itself" in refused["error"]
    assert client.status("taken").status == 404
    other = client.run(image="busybox:local", command="true", memory=16, ports=[f"{ports[0]}:80/udp"])
    assert other.status == 200, other.text
    client.stop_service(other["id"])


def test_the_ports_of_its_container_are_not_published(host: Engine, shell: Callable[[str], str]) -> None:
    """Neither the one that it listens at, nor those under which its container is found: Swarm's ingress would lead
    their callers, with their tokens, into the run."""
    shell(RUN_LINE.replace("9090:9090", "9393:9090 -p 9394:9090"))
    client = at(host, 9393)
    wait_ready(client)
    check_is_never_published(client, 9393, 9394, 9090)


def test_the_ports_of_its_service_are_not_published(host: Engine, shell: Callable[[str], str]) -> None:
    """As a service that is published on its node, and on all of them."""
    mount = f"type=bind,source={SOCKET},target={SOCKET}"
    ports = "--publish mode=host,published=9393,target=9090 --publish published=9394,target=9090"
    service = shell(f"docker service create --quiet --detach --env TOKEN --mount {mount} {ports} quartermaster").strip()
    try:
        client = at(host, 9393)
        wait_ready(client)
        check_is_never_published(client, 9393, 9394, 9090)
    finally:
        host.cli("service", "rm", service)


def test_a_stop_while_it_starts(host: Engine, shell: Callable[[str], str]) -> None:
    """The first process of a container has no default for SIGTERM: it is heard from the first moment."""
    container = shell(RUN_LINE).strip()
    eventually(lambda: int(process(host, container)["SigCgt"], 16) & 1 << signal.SIGINT - 1, 20, "Python is up")
    stopping = time.monotonic()
    host.cli("stop", "--time", "30", container)
    assert time.monotonic() - stopping < 10


def size(engine: Engine) -> str:
    """The size of the image and of its base."""
    return " over a base of ".join(f"{inspect(engine, name)['Size'] / 1e6:.0f}" for name in ("quartermaster", BASE))


@pytest.mark.parametrize("having", ["--user 10001", "--cap-add SETUID"])
def test_a_read_only_container_without_capabilities(host: Engine, shell: Callable[[str], str], having: str) -> None:
    """Started as the user, or as root that can do no more than become the user, it serves and keeps its journal."""
    container = shell(block(having)).strip()
    client = at(host)
    wait_ready(client)
    check_is_a_user(host, container)
    assert inspect(host, container)["HostConfig"]["ReadonlyRootfs"]
    assert ends_as(client, client.run(image="busybox:local", command="true", memory=16)["id"]) == "complete"
    assert host.cli("exec", container, "python", "-m", "qmaster", "healthcheck") == "alive\n"


def test_a_folder_of_the_host_holds_the_journal(host: Engine, shell: Callable[[str], str]) -> None:
    """A folder that the engine made, so root's, becomes the user's, with the files that an earlier root left there."""
    shell("mkdir journal && touch journal/journal.lock")
    shell(RUN_LINE.replace("-d", '-d -v "$PWD/journal:/data"'))
    wait_ready(at(host))
    owners = shell("stat -c %u journal journal/journal.lock journal/journal.db")
    assert set(owners.split()) == {str(USER)}


def test_a_backup(host: Engine, shell: Callable[[str], str]) -> None:
    """What was removed is known again after the journal's loss, and a cursor from before is refused with a gap."""
    start, backup, restore = map(block, ("--restart unless-stopped", ">journal.tar", "<journal.tar"))
    client = at(host)
    shell(start)
    wait_ready(client)
    job = client.run(image="busybox:local", command="sh -c 'exit 3'", memory=16)["id"]
    assert ends_as(client, job) == "failed"
    client.stop_service(job)
    eventually(lambda: client.status(job)["status"] == "removed", 30, "it is removed")
    cursor = client.call("GET", "/status")["cursor"]
    shell(backup)
    wait_ready(client)
    shell(f"docker rm -f quartermaster && docker volume rm quartermaster && {start}{restore}")
    wait_ready(client)
    assert (client.status(job)["status"], client.status(job)["exit_code"]) == ("removed", 3)
    with Subscriber(client, cursor) as subscriber:
        assert subscriber.until(lambda frame: frame["type"] != "hello")["type"] == "gap"


@pytest.mark.parametrize("flags", [(), ("--user", str(USER), *MOUNT)], ids=["no-socket", "no-group"])
def test_without_the_socket_the_engine_is_away(
    host: Engine, shell: Callable[[str], str], flags: tuple[str, ...]
) -> None:
    """Where it is not mounted, or the user has not its group."""
    shell(f"docker run -d -e TOKEN -p 9090:9090 {' '.join(flags)} quartermaster")
    reply = eventually(lambda: at(host).call("GET", "/readyz", token=False), 60, "it answers", ignoring=OSError)
    assert (reply.status, "the Docker engine is away" in reply["error"]) == (503, True)


def test_it_may_stay_root(host: Engine, shell: Callable[[str], str]) -> None:
    """Where the socket is open to root alone."""
    container = shell(RUN_LINE.replace("-e TOKEN", "-e TOKEN -e QMASTER_USER=root")).strip()
    wait_ready(at(host))
    assert set(process(host, container)["Uid"].split()) == {"0"}


def in_image(engine: Engine, image: str, command: str) -> str:
    """What a command says in a container of that image, as the user."""
    program, *args = shlex.split(command)
    return engine.cli("run", "--rm", "--user", str(USER), "--entrypoint", program, image, *args)


def test_what_is_in_the_image(host: Engine, image: None) -> None:
    """Its version, and what it runs, alone: no pip of its own, and nothing that the user may change or not read."""
    found = inspect(host, "quartermaster")["Config"]
    assert found["Labels"]["org.opencontainers.image.version"] == __version__
    assert list(found["Volumes"]) == ["/data"]
    wrong = r"find /opt/quartermaster ! -type l ( -writable -o -name pip -o ! -perm -o=r )"
    assert in_image(host, "quartermaster", wrong) == ""
    ours = {"LICENSE", "entrypoint.sh", "qmaster", "static"}
    assert set(in_image(host, "quartermaster", "ls -A /opt/quartermaster/app").split()) == ours


def test_buildkit_builds_the_same(host: Engine, clone: Path, image: None) -> None:
    """Docker's newer builder takes the same Dockerfile, without one of its own from a registry."""
    build(host, clone, IMAGE="quartermaster:buildkit", DOCKER_BUILDKIT="1")
    listings, configs = [], []
    for name in ("quartermaster", "quartermaster:buildkit"):
        listings.append(in_image(host, name, "find /opt/quartermaster /data -printf '%M %u %s %P\\n'").split("\n"))
        configs.append(inspect(host, name)["Config"])
    assert sorted(listings[0]) == sorted(listings[1])
    for key in ("Env", "Entrypoint", "Healthcheck", "Volumes", "ExposedPorts", "User", "Labels"):
        assert configs[0].get(key) == configs[1].get(key), key


class Stack:
    """The stack on the swarm's managers, deployed as docs/deploy.md says but with a quicker pulse."""

    def __init__(self, managers: list[Engine], folder: Path) -> None:
        self.managers = managers
        self._folder = folder
        text = (ROOT / "stack.yml").read_text(encoding="utf-8")
        # A check starts a Python: one a second on two nodes would be most of what this costs.
        for slow, quick in (("interval: 10s", "2s"), ("delay: 5s", "1s"), ("monitor: 30s", "1s")):
            assert slow in text
            text = text.replace(slow, f"{slow.partition(' ')[0]} {quick}")
        folder.mkdir()
        (folder / "stack.yml").write_text(text, encoding="utf-8")

    def shell(self, text: str) -> None:
        env = {"HOME": self._folder, "TOKEN": TOKEN, "PATH": PATH}
        words = [f"{name}={value}" for name, value in env.items()]
        self.managers[0].machine.run("env", "-C", str(self._folder), *words, "bash", "-euo", "pipefail", "-c", text)

    def updates(self) -> str:
        """How the newest update goes, in Docker's words."""
        return self.managers[0].cli("service", "inspect", "--format", "{{.UpdateStatus.State}}", SERVICE).strip()

    def containers(self) -> list[tuple[Engine, str]]:
        """Those that run, on each manager."""
        filters = ["--filter", f"label=com.docker.swarm.service.name={SERVICE}", "--filter", "status=running"]
        found = ((node, node.cli("ps", "--quiet", "--no-trunc", *filters)) for node in self.managers)
        return [(node, container) for node, lines in found for container in lines.split()]

    def is_back_at(self, image: str) -> bool:
        """Whether a bad update is undone: all run this image again.

        Docker 20.10 may say for ever that it is at it, with one more task that waits for the port of one that runs.
        """
        images = [inspect(node, container)["Config"]["Image"] for node, container in self.containers()]
        return self.updates().startswith("rollback") and images == [image] * len(self.managers)

    def remove(self) -> None:
        self.managers[0].cli("stack", "rm", STACK)
        for node in self.managers:
            eventually(partial(node.cli, "volume", "rm", f"{STACK}_journal"), 60, ignoring=CommandFailed)


@pytest.fixture
def stack(host: Engine, image: None, swarm: Swarm) -> Iterator[Stack]:
    """Deployed on two managers, each with the image in two versions; removed after the test."""
    archive = Path(host.folder) / "image.tar"
    host.cli("tag", "quartermaster", NEXT)
    host.cli("save", "--output", str(archive), "quartermaster", NEXT)
    managers = [swarm.manager, swarm.workers[0]]
    swarm.promote(swarm.workers[0])
    for node in managers:
        node.cli("load", "--input", str(archive))
        node.machine.run("ln", "-sf", node.socket, "/run/docker.sock")
    archive.unlink()
    stack = Stack(managers, Path(host.folder) / "stack")
    stack.shell(block("docker secret create"))
    yield stack
    stack.remove()


def check_the_stacks_container(engine: Engine, container: str, image: str) -> None:
    """Of that image; read-only, with two capabilities until it has become the user, which has none."""
    status = process(engine, container)
    assert (set(status["Uid"].split()), int(status["CapPrm"], 16)) == ({str(USER)}, 0)
    found = inspect(engine, container)
    assert (found["HostConfig"]["ReadonlyRootfs"], found["HostConfig"]["CapDrop"]) == (True, ["ALL"])
    assert found["Config"]["Image"] == image


def test_the_stack(stack: Stack, measured: Measured) -> None:
    """One on each manager. An update, and one that fails, leave always one that answers; subscribers miss no event."""
    clients = [at(node) for node in stack.managers]
    for client in clients:
        wait_ready(client, 90)
        taken = client.run(image="busybox:local", command="true", memory=16, ports=["9090:80"])
        assert (taken.status, "a port of quartermaster itself" in taken["error"]) == (409, True)
    done = clients[0].run(image="busybox:local", command="true", memory=16, constraints=["node.role==worker"])["id"]
    running = clients[0].run(image="busybox:local", command="nap 600", memory=16)["id"]
    subscribers = [Subscriber(client) for client in clients]
    for client, subscriber in zip(clients, subscribers, strict=True):
        subscriber.until(lambda frame: frame["type"] == "snapshot")
        assert ends_as(client, done) == "complete"
        eventually(partial(has_status, client, running, "running"), 30)

    begun = time.monotonic()
    stack.shell(block("QMASTER_IMAGE="))
    while stack.updates() != "completed":
        assert any(map(answers, clients)), "both are away at once"
        assert time.monotonic() - begun < 120, stack.updates()
    measured(f"both are updated after {time.monotonic() - begun:.1f} s")
    assert [subscriber.closed() for subscriber in subscribers] == [1001, 1001]
    assert len(stack.containers()) == 2
    for node, container in stack.containers():
        check_the_stacks_container(node, container, NEXT)

    stack.shell("QMASTER_IMAGE=busybox:local docker stack deploy --compose-file stack.yml quartermaster")
    eventually(lambda: stack.is_back_at(NEXT), 120, "a bad update is undone")
    for client, subscriber in zip(clients, subscribers, strict=True):
        wait_ready(client)
        with subscriber.resume() as after:
            clients[0].stop_service(running)
            after.event(lambda event: event["type"].endswith("service.removed") and event["subject"] == running, 60)
            kinds = [frame["type"] for frame in after.frames]
        assert kinds[0] == "hello"
        assert not {"gap", "snapshot"} & set(kinds)
    assert {inspect(node, container)["Config"]["Image"] for node, container in stack.containers()} == {NEXT}


def has_status(client: Client, service: str, status: str) -> bool:
    return bool(client.status(service)["status"] == status)


def answers(client: Client) -> bool:
    with contextlib.suppress(OSError):
        return ready(client)
    return False
