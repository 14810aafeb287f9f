"""containers: of what Docker inspects, what is the container's own, and what it only has from its image."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from fakes import CONTAINER_ID, container

from qmaster.engine import containers as room
from qmaster.engine.containers import Containers
from qmaster.engine.labels import MANAGED, RUN

pytestmark = pytest.mark.gen_test

Json = dict[str, Any]


class Calls:
    """An engine with one container, and images by their ids."""

    def __init__(self, there: Json, images: dict[str, Json]) -> None:
        self.there = there
        self.images = images
        self.looked_at: list[str] = []

    async def inspect(self, work: Callable[[Any], Json | None]) -> Json | None:
        return work(self)

    def inspect_container(self, name_or_id: str) -> Json:
        return self.there

    def inspect_image(self, image_id: str) -> Json | None:
        self.looked_at.append(image_id)
        return self.images.get(image_id)


def world(labels: Json, images: dict[str, Json]) -> tuple[Containers, Calls]:
    there = container(ours=False, labels=labels, Image="i1")
    calls = Calls(there, images)
    return Containers(cast(Any, calls), cast(Any, None), cast(Any, None)), calls


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
