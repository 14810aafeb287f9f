"""Private registries: credentials that are checked, pass through, and stay with their call."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from testbed import Bed, Engine, Registry, Reply, Server, eventually, sdk, started
from testbed.registry import User, login
from testbed.wire import SIZE, Head, Reader

from qmaster.engine.calls import REGISTRY

IMAGE = "busybox:local"
KINDS = ["service", "container"]
NOWHERE = ["node.labels.room==none"]
BOUND = 3.0
SLACK = 9.0  # of a busy machine


def becomes(server: Server, run_id: str, status: str, timeout: float = 40) -> None:
    eventually(lambda: server.status(run_id)["status"] == status, timeout, f"{run_id} is {status}", every=0.05)


def refused(reply: Reply) -> str:
    """What a 502 of the registry says."""
    assert reply.status == 502, reply.text
    assert "registry" in reply["error"]
    return str(reply["error"])


# Right and wrong credentials


@pytest.mark.parametrize("alphabet", ["auth", "auth_url"])
@pytest.mark.parametrize("kind", KINDS)
def test_right_credentials_pull(engine: Engine, registry: Registry, shared: Server, kind: str, alphabet: str) -> None:
    """In both base64 alphabets; a service's image is pinned to the digest that the registry tells."""
    auth = getattr(registry.alice, alphabet)
    assert set("+/" if alphabet == "auth" else "-_") & set(auth)  # it does tell the alphabets apart
    image = registry.push(engine, name=f"right-{kind}-{alphabet}:1".replace("_", "-"))
    run_id = started(shared.run(image=image, command="nap 300", type=kind, auth=auth))
    becomes(shared, run_id, "running")
    pinned = f"{image}@{registry.digest(image)}" if kind == "service" else image
    assert shared.status(run_id)["image"] == pinned
    assert registry.alice.password not in shared.logs()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_credentials_create_nothing(engine: Engine, registry: Registry, shared: Server, kind: str) -> None:
    """502, whether the engine has the image or not, and neither the answer nor the log shows the password."""
    image = registry.push(engine, name=f"wrong-{kind}:1")
    for auth in (login("alice", "not-the-password"), login("nobody", "not-the-password")):
        assert "not-the-password" not in refused(shared.run(image=image, type=kind, auth=auth))
    sdk(engine).pull(image, auth_config=registry.alice.auth_config)
    refused(shared.run(image=image, type=kind, auth=login("bob", "not-the-password")))
    assert "not-the-password" not in shared.logs()
    assert (sdk(engine).services(), sdk(engine).containers(all=True)) == ([], [])


def test_a_private_image_without_credentials(engine: Engine, registry: Registry, shared: Server) -> None:
    """As a container it is refused, as a service it is accepted unpinned, and rejected by its node."""
    image = registry.push(engine, name="no-auth:1")
    refused(shared.run(image=image, type="container"))
    service = started(shared.run(image=image))
    becomes(shared, service, "failed")
    assert shared.status(service)["image"] == image
    assert shared.status(service)["reason"] in ("image_not_found", "registry_auth")


def test_credentials_are_not_kept_on_disk(engine: Engine, registry: Registry, shared: Server) -> None:
    """The journal and the log hold neither the password nor what it was sent in."""
    image = registry.push(engine, name="kept:1")
    started(shared.run(image=image, command="nap 300", auth=registry.alice.auth))
    written = b"".join(path.read_bytes() for path in shared.folder.rglob("*") if path.is_file())
    written += shared.log.read_bytes()
    assert b"kept:1" in written  # it does look where things are written
    for secret in (registry.alice.password, registry.alice.auth, registry.alice.auth_url):
        assert secret.encode() not in written


# Many runs


class ResultCollector:
    """A relay in front of an engine that notes which credentials each service was created with, by its name."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.host = f"unix://{path}"
        self.seen: list[tuple[str, str]] = []
        self._engine = engine.socket
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine, contextlib.suppress(OSError):
            engine.connect(self._engine)
            threading.Thread(target=self._return, args=(engine, client), daemon=True).start()
            reader = Reader(client)
            while (head := reader.head()) is not None:
                body = b"".join(reader.body(head))
                self._note(head, body)
                engine.sendall(head.raw + body)
            engine.shutdown(socket.SHUT_RDWR)

    def _return(self, engine: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := engine.recv(SIZE):
                client.sendall(data)

    def _note(self, head: Head, body: bytes) -> None:
        if head.path.endswith("/services/create"):
            sent = json.loads(base64.urlsafe_b64decode(head.headers["x-registry-auth"]))
            self.seen.append((json.loads(body)["Name"], sent["username"] + ":" + sent["password"]))


@pytest.fixture
def collector(bed: Bed, engine: Engine) -> Iterator[ResultCollector]:
    path = bed.root / "recorder.sock"
    collector = ResultCollector(path, engine)
    yield collector
    collector.close()
    path.unlink()


def test_the_runs_of_two_users_do_not_mix(
    engine: Engine, registry: Registry, collector: ResultCollector, start_server: StartServer
) -> None:
    """Each service is created with the credentials of its own call, and the registry is asked once for each user."""
    server = start_server(collector.host)
    image = registry.push(engine, name="many:1")
    before = registry.count("HEAD /v2/private/many/manifests/1")

    def one(number: int) -> tuple[str, Reply]:
        user: User = (registry.alice, registry.bob)[number % 2]
        name = f"{user.username}-{number}"
        reply = server.run(
            image=image, name=name, auth=(user.auth, user.auth_url)[number // 2 % 2], constraints=NOWHERE
        )
        return name, reply

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(one, range(200)))
    assert Counter(reply.status for _, reply in replies) == {200: 200}
    passwords = {user.username: user.password for user in (registry.alice, registry.bob)}
    expected = sorted((name, f"{name.split('-')[0]}:{passwords[name.split('-')[0]]}") for name, _ in replies)
    assert sorted(collector.seen) == expected
    assert registry.count("HEAD /v2/private/many/manifests/1") - before == 2


# A registry that is slow or away


@pytest.fixture(params=["frozen", "stopped"])
def trouble(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def befall(registry: Registry, trouble: str) -> None:
    registry.freeze() if trouble == "frozen" else registry.stop()


def at_once(server: Server, **fields: Any) -> tuple[list[Reply], float]:
    """The answers to a service and a container of these fields, called at the same time, and after how many seconds."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(KINDS)) as pool:
        replies = list(pool.map(lambda kind: server.run(type=kind, **fields), KINDS))
    return replies, time.monotonic() - began


def test_with_credentials_an_answer_is_needed(engine: Engine, registry: Registry, shared: Server, trouble: str) -> None:
    """They could not be checked: 502 within the bound, and nothing is created."""
    image = registry.push(engine, name=f"{trouble}:1")
    befall(registry, trouble)
    replies, took = at_once(shared, image=image, auth=registry.alice.auth)
    assert all(map(refused, replies))
    assert took < BOUND + SLACK
    assert shared.call("GET", "/readyz").status == 200  # it is not the engine that is away
    assert (sdk(engine).services(), sdk(engine).containers(all=True)) == ([], [])


def test_without_credentials_an_image_that_is_there_runs(
    engine: Engine, registry: Registry, shared: Server, trouble: str
) -> None:
    """No pull is needed, so the registry's silence costs the bound at most, and is believed for a while."""
    image = registry.push(engine, name=f"there-{trouble}:1")
    sdk(engine).pull(image, auth_config=registry.alice.auth_config)
    befall(registry, trouble)
    replies, took = at_once(shared, image=image, command="nap 300")
    assert took < BOUND + SLACK
    again, took = at_once(shared, image=image, command="nap 300")
    assert took < BOUND / 2
    registry.thaw()  # of a tag Swarm's own nodes ask too, and wait half a minute for the frozen
    for run_id in map(started, [*replies, *again]):
        assert shared.status(run_id)["image"] == image
        becomes(shared, run_id, "running")


def test_a_digest_is_asked_of_nobody(engine: Engine, registry: Registry, shared: Server) -> None:
    """A pinned image that is there runs at once, however slow its registry is."""
    image = registry.push(engine, name="pinned:1")
    pinned = f"{image}@{registry.digest(image)}"
    sdk(engine).pull(pinned, auth_config=registry.alice.auth_config)
    registry.freeze()
    began = time.monotonic()
    becomes(shared, started(shared.run(image=pinned, command="nap 300")), "running")
    assert time.monotonic() - began < BOUND


def test_a_slow_registry_holds_nobody_up(engine: Engine, registry: Registry, shared: Server) -> None:
    """While many runs wait for it, stops, containers and services of other images are served."""
    image = registry.push(engine, name="slow:1")
    registry.freeze()
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(shared.run, image=f"{image}{n}", auth=registry.alice.auth) for n in range(12)]
        began = time.monotonic()
        container = started(shared.run(image=IMAGE, type="container", command="nap 300"))
        becomes(shared, container, "running")
        assert shared.stop_service(container).status == 200
        assert time.monotonic() - began < BOUND - 1
        becomes(shared, started(shared.run(image=IMAGE, command="nap 300")), "running")
        for each in waiting:
            refused(each.result())
        assert time.monotonic() - began < 12 / (REGISTRY / 2) * BOUND + SLACK  # one owner has half of the questions


# What was pushed a moment ago


def pushed(engine: Engine, registry: Registry, name: str, says: str) -> str:
    """An image of this name at the registry alone, which says that when it runs."""
    engine.load_image("pushed:1", Cmd=["echo", says])
    image = registry.push(engine, "pushed:1", name)
    sdk(engine).remove_image("pushed:1", force=True)
    return image


@pytest.mark.parametrize(("tag", "policy"), [("latest", None), ("1", "always")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_push_counts_for_the_next_run(
    engine: Engine, registry: Registry, shared: Server, kind: str, tag: str, policy: str | None
) -> None:
    """With pull_policy always, and of latest without: the run after it has the new image, and no warning of that."""
    name = f"news-{kind}-{tag}:{tag}"
    fields: dict[str, Any] = {
        "type": kind,
        "auth": registry.alice.auth,
        "wait": True,
        **({"pull_policy": policy} if policy else {}),
    }
    for says in ("old", "new"):
        reply = shared.run(image=pushed(engine, registry, name, says), **fields)
        assert reply["result"]["stdout"] == f"{says}\n", reply.text
        assert not any("pull_policy" in each for each in reply.json.get("warnings", []))


@pytest.mark.parametrize("policy", ["missing", "never"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_runs(engine: Engine, registry: Registry, shared: Server, kind: str, policy: str) -> None:
    """With pull_policy missing within the minute, and with never: the registry is asked nothing."""
    name = f"kept-{kind}-{policy}:latest"
    auth: dict[str, Any] = {"auth": registry.alice.auth}
    image = pushed(engine, registry, name, "old")
    first = shared.run(image=image, type=kind, wait=True, **auth)
    assert first["result"]["stdout"] == "old\n", first.text
    repository, old = image.removesuffix(":latest"), registry.digest(image)
    pushed(engine, registry, name, "new")
    sdk(engine).tag(f"{repository}@{old}", repository, "latest")  # the push from this engine took it away
    asked = registry.count(f"/v2/private/kept-{kind}-{policy}/manifests/")
    reply = shared.run(image=image, type=kind, pull_policy=policy, wait=True, **(auth if policy == "missing" else {}))
    assert reply["result"]["stdout"] == "old\n", reply.text
    assert registry.count(f"/v2/private/kept-{kind}-{policy}/manifests/") == asked


def test_never_pulls_no_container_s_image(engine: Engine, registry: Registry, shared: Server) -> None:
    """400, and the registry was not asked."""
    image = pushed(engine, registry, "never:1", "new")
    before = registry.count("private/never")
    reply = shared.run(image=image, type="container", pull_policy="never", auth=registry.alice.auth)
    assert (reply.status, reply["error"]) == (
        400,
        f"image: {image} is not on this engine; pull it first, or leave pull_policy out",
    )
    assert registry.count("private/never") == before


def test_a_silent_registry_is_a_warning(engine: Engine, registry: Registry, shared: Server, trouble: str) -> None:
    """Without credentials what is there runs, and the answer says that nobody could tell whether it is the newest."""
    image = registry.push(engine, name=f"silent-{trouble}:latest")
    sdk(engine).pull(image, auth_config=registry.alice.auth_config)
    befall(registry, trouble)
    for reply in at_once(shared, image=image, command="true")[0]:
        assert reply.status == 200, reply.text
        (warning,) = (each for each in reply["warnings"] if each.startswith("pull_policy: "))
        assert f"the registry {registry.address} did not answer" in warning
