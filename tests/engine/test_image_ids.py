"""Image IDs on a real engine: none is a reference, in no spelling that Docker would take for one."""

from collections.abc import Callable

import pytest
from conftest import StartServer
from testbed import Engine, Server, eventually, sdk

IMAGE = "busybox:local"
HUB_ONLY = ("--registries", "docker.io")


@pytest.fixture
def digest(engine: Engine) -> str:
    """The hexadecimal ID of a local image."""
    return str(sdk(engine).inspect_image(IMAGE)["Id"]).removeprefix("sha256:")


def made(engine: Engine) -> list[str]:
    client = sdk(engine)
    return [each["ID"] for each in client.services()] + [each["Id"] for each in client.containers(all=True)]


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda digest: f"sha256:{digest}",
        lambda digest: f"sha256:{digest[:1]}",
        lambda digest: f"library/sha256:{digest[:12]}",
        lambda digest: f"docker.io/library/sha256:{digest[:12]}",
        lambda digest: f"docker.io/sha256:{digest}",
        lambda digest: f"index.docker.io/library/sha256:{digest[:4]}",
        lambda digest: digest,
    ],
    ids=["whole", "one digit", "library", "docker.io", "docker.io short", "index.docker.io", "bare"],
)
def test_an_image_id_is_refused(
    engine: Engine, shared: Server, digest: str, kind: str, spell: Callable[[str], str]
) -> None:
    """Also to the root token; nothing is started."""
    before = made(engine)
    reply = shared.run(image=spell(digest), command="true", type=kind)
    assert (reply.status, reply["error"].startswith("image: ")) == (400, True), reply.text
    assert made(engine) == before


@pytest.mark.parametrize("kind", ["service", "container"])
@pytest.mark.parametrize("options", [(), HUB_ONLY], ids=["any registry", "bound"])
def test_the_beginning_of_an_id_is_a_name(
    engine: Engine, start_server: StartServer, digest: str, kind: str, options: tuple[str, ...]
) -> None:
    """Docker runs the local image whose ID begins so; here it is the image of that name, which is not there."""
    server = start_server(engine.host, *options)
    reply = server.run(image=digest[:12], command="true", type=kind)
    if kind == "container":
        assert reply.status == 502, reply.text
        return
    run_id = reply["id"]
    eventually(lambda: server.status(run_id)["status"] == "failed", 60, "its image is not found", every=0.2)
    assert server.status(run_id)["reason"] == "image_not_found"
