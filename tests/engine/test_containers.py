"""containers: of what Docker inspects, what is the container's own, and what it only has from its image."""

from pathlib import Path
from typing import Any, cast

import pytest
from fakes import CONTAINER_ID, DIGEST, container
from raw_engine import engine_and_client, reply

from qmaster.engine import containers as room
from qmaster.engine.calls import Calls as RealCalls
from qmaster.engine.containers import Containers, own_container_id
from qmaster.engine.labels import MANAGED, RUN
from qmaster.errors import BadRequest, Conflict

pytestmark = pytest.mark.gen_test

Json = dict[str, Any]


class Calls:
    """An engine with one container, and images by their ids."""

    def __init__(self, there: Json, images: dict[str, Json]) -> None:
        self.there = there
        self.images = images
        self.looked_at: list[str] = []

    async def inspect(self, path: str) -> Json | None:
        kind, name = path.split("/")[1:3]
        if kind == "containers":
            return self.there
        self.looked_at.append(name)
        return self.images.get(name)


def world(labels: Json, images: dict[str, Json]) -> tuple[Containers, Calls]:
    there = container(ours=False, labels=labels, Image="i1")
    calls = Calls(there, images)
    return Containers(cast(Any, calls), *cast(Any, [None] * 3)), calls


def image(**labels: str) -> dict[str, Json]:
    return {"i1": {"Config": {"Labels": labels}}}


OURS = {MANAGED: "true", RUN: "a-nonce", "team": "blue"}
SPEAKS = {MANAGED: "true", RUN: "known", "io.qmaster.ttl": "1s", "team": "blue"}


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        (OURS, image()),
        (OURS, image(**SPEAKS)),
        (OURS, {"i1": {"Config": {"Labels": None}}}),
        (OURS, {"i1": {"Config": None}}),
        (OURS, {"i1": {}}),
        (OURS, {}),
        ({"io.qmaster.ttl": "1s", "team": "blue"}, image()),
        ({"team": "blue"}, image(**SPEAKS)),
    ],
    ids=["ours", "its image speaks", "no labels", "no config", "neither", "its image is gone", "unmanaged", "foreign"],
)
async def test_labels_of_its_own_are_shown(labels: Json, images: dict[str, Json]) -> None:
    """What quartermaster has started has a nonce that no image knew; what is not managed is nobody's."""
    containers, calls = world(labels, images)
    assert await containers.container("box") is calls.there
    assert calls.looked_at == (["i1"] if RUN in labels else [])


@pytest.mark.parametrize("labels", [SPEAKS, {key: value for key, value in SPEAKS.items() if key != RUN}])
async def test_labels_of_ours_that_are_its_image_s_are_left_out(labels: Json) -> None:
    """Of a container that somebody has started with such an image; others of it are shown."""
    containers, calls = world(labels, image(**labels))
    found = await containers.container(CONTAINER_ID)
    assert found == {**calls.there, "Config": {**calls.there["Config"], "Labels": {"team": "blue"}}}


async def test_an_image_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never changes; and what is kept of images is bounded."""
    monkeypatch.setattr(room, "MANY_IMAGES", 2)
    containers, calls = world(OURS, {image_id: {} for image_id in ("i1", "i2", "i3")})
    for image_id in ("i1", "i1", "i2", "i1", "i3", "i3"):
        calls.there["Image"] = image_id
        await containers.container("box")
    assert calls.looked_at == ["i1", "i2", "i3"]
    assert len(containers._nonces) == 1


async def test_an_image_that_comes_back_is_looked_at_again() -> None:
    """What a container has of its image is not its own, also where the image was away at the first look."""
    containers, calls = world(SPEAKS, {})
    assert await containers.container("box") == calls.there
    calls.images = image(**SPEAKS)
    for _ in range(2):
        found = await containers.container("box")
        assert found
        assert found["Config"]["Labels"] == {"team": "blue"}
    assert calls.looked_at == ["i1", "i1"]


async def test_the_beginning_of_an_id_is_nobody() -> None:
    """Docker takes it for the whole."""
    containers, calls = world(OURS, image())
    assert await containers.container(CONTAINER_ID[:12]) is None
    assert calls.looked_at == []


@pytest.mark.parametrize("grace", [None, 40])
async def test_a_stop_is_dockers_own(tmp_path: Path, grace: int | None) -> None:
    """It may last as long as its grace period, beside other calls; one that has ended is not asked to end."""
    there = container(Config={"StopTimeout": grace, "Labels": {}})
    bounds: list[float] = []

    class Bounded(RealCalls):
        async def call(self, send: Any, within: float, kind: str = "") -> Any:
            bounds.append(within)
            return await super().call(send, within, kind)

    async with engine_and_client(tmp_path, reply(there, 200), b"HTTP/1.1 204 No Content\r\n\r\n") as (engine, client):
        calls, stops = RealCalls(client, "engine", 4), Bounded(client, "stop", 4)
        containers = Containers(calls, stops, *cast(Any, [None] * 2))
        there["State"]["Running"] = True
        engine.answers[0] = reply(there, 200)
        await containers.stop(CONTAINER_ID)
        assert engine.calls[-1].line == f"POST /v1.41/containers/{CONTAINER_ID}/stop HTTP/1.1"
        assert bounds == [(grace or 10) + 25]
        there["State"]["Running"] = False
        engine.answers = [reply(there, 200)]
        await containers.stop(CONTAINER_ID)
        assert len(engine.calls) == 3


async def test_a_removal_that_is_in_progress_is_success(tmp_path: Path) -> None:
    """Whoever asked for it: two stops at once are two successes. Another conflict is one."""
    said = f"removal of container {CONTAINER_ID} is already in progress"
    async with engine_and_client(tmp_path, reply({"message": said}, 409)) as (engine, client):
        containers = Containers(RealCalls(client, "engine", 4), *cast(Any, [None] * 3))
        await containers.remove(CONTAINER_ID)
        assert engine.calls[-1].line == f"DELETE /v1.41/containers/{CONTAINER_ID}?force=1&v=1 HTTP/1.1"
        engine.answers = [reply({"message": "it has dependents"}, 409)]
        with pytest.raises(Conflict, match="dependents"):
            await containers.remove(CONTAINER_ID)


class Registry:
    """It tells the digest of the images that it has."""

    def __init__(self, *images: str) -> None:
        self.images = images
        self.asked: list[str] = []

    async def pin(self, image: str, credentials: object, pull: str, warnings: list[str]) -> str:
        self.asked.append(image)
        return f"{image}@{DIGEST}" if image in self.images else image


@pytest.mark.parametrize(
    ("pull", "local", "has", "asks", "digest", "warns"),
    [
        ("missing", True, True, False, False, False),
        ("missing", False, True, True, True, False),
        ("missing", False, False, True, False, True),
        ("always", True, True, True, True, False),
        ("always", False, False, True, False, True),
        ("never", True, True, False, False, False),
    ],
)
async def test_an_image_is_checked_without_a_pull(
    pull: Any, local: bool, has: bool, asks: bool, digest: bool, warns: bool
) -> None:
    """The registry is asked where the run would ask it."""
    registry, warnings = Registry(*["one:1"] * has), list[str]()
    calls = Calls({}, {"one:1": {"Id": "i1"}} if local else {})
    containers = Containers(cast(Any, calls), cast(Any, None), cast(Any, registry), cast(Any, None))
    assert await containers.check_image("one:1", None, pull, warnings) == (f"one:1@{DIGEST}" if digest else "one:1")
    assert (registry.asked, len(warnings)) == (["one:1"] * asks, warns)


async def test_an_image_that_is_never_pulled_must_be_there() -> None:
    """As the run's own error says."""
    containers = Containers(cast(Any, Calls({}, {})), *cast(Any, [None] * 3))
    with pytest.raises(BadRequest, match="image: one:1 is not on this engine"):
        await containers.check_image("one:1", None, "never", [])


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
