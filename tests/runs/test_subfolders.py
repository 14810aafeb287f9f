"""Host folders below those of --bind-mounts, on a real engine: what a run sees of them, and never of others."""

import ctypes
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from run_cases import service_spec
from testbed import Bed, Engine, Reply, Server, eventually, sdk
from testbed.tokens import tokens_file

from qmaster.engine.subfolders import volume_name

Json = dict[str, Any]

IMAGE = "busybox:local"
KINDS = ("container", "service")
RENAME_EXCHANGE = 2


@pytest.fixture(scope="module")
def newer(engine: Engine) -> bool:
    """Whether the engine mounts a path in a volume."""
    major, minor = sdk(engine).version()["ApiVersion"].split(".")
    return (int(major), int(minor)) >= (1, 45)


@pytest.fixture
def new_engine(newer: bool) -> None:
    if not newer:
        pytest.skip("needs Docker 26.1; see --engine-root")


@pytest.fixture
def old_engine(newer: bool) -> None:
    if newer:
        pytest.skip("needs an engine before Docker 26")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no run may see."""
    path = tmp_path_factory.mktemp("outside")
    (path / "file").write_text("outside\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, outside: Path) -> Path:
    """The folder of --bind-mounts."""
    path = tmp_path_factory.mktemp("shared")
    for name in ("team/x", "blue", "red"):
        (path / name).mkdir(parents=True)
        (path / name / "file").write_text(f"{name}\n")
    (path / "out").symlink_to(outside)
    (path / "up").symlink_to(os.path.relpath(outside, path))
    (path / "proc").symlink_to("/proc/self/root")
    (path / "in").symlink_to("team/x")
    (path / "loop").symlink_to("loop")
    return path


@pytest.fixture(scope="module")
def server(bed: Bed, engine: Engine, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokens = {"blue": f'mounts = ["{folder}/blue"]', "all": f'mounts = ["{folder}"]', "none": 'volumes = ["*"]'}
    file = tokens_file(tmp_path_factory.mktemp("tokens"), tokens)
    server = bed.server(engine.host, ["--bind-mounts", str(folder), "--tokens-file", file, *bed.runtime()])
    server.start()
    eventually(lambda: server.call("GET", "/readyz").status == 200, 20, "it is ready")
    yield server
    assert server.failures() == []
    server.kill()
    engine.cli("volume", "rm", "--force", volume_name(str(folder)))


def see(server: Server, kind: str, source: Path | str, script: str = "cat /x/file", **fields: Any) -> Reply:
    """Run a script with the folder at /x, to its end."""
    command, volumes = ["sh", "-c", script], [f"{source}:/x"]
    return server.run(image=IMAGE, type=kind, command=command, volumes=volumes, wait=60, **fields)


def output(reply: Reply) -> str:
    assert reply.status == 200, reply.text
    assert reply["status"] == "complete", reply.text
    return str(reply["result"]["stdout"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("new_engine")
def test_a_folder_below_is_mounted_alone(engine: Engine, server: Server, folder: Path, kind: str) -> None:
    """To be written to; ``spec`` has what was asked for, the engine a path in the volume of the whole folder."""
    script = "cat /x/file; ls /x/..; echo new >/x/new; grep -c ' /x ' /proc/self/mountinfo"
    told = see(server, kind, f"{folder}/team//x/", script, labels={"kind": kind})
    assert output(told).split()[0] == "team/x"
    assert output(told).split()[-1] == "1"
    assert "blue" not in output(told)
    assert (folder / "team/x/new").read_text() == "new\n"
    (folder / "team/x/new").unlink()
    assert server.status(told["id"])["spec"]["volumes"] == [f"{folder}/team//x/:/x"]
    if kind == "service":
        mount = service_spec(engine, told["id"])["TaskTemplate"]["ContainerSpec"]["Mounts"][0]
    else:
        mount = sdk(engine).inspect_container(told["id"])["HostConfig"]["Mounts"][0]
    assert (mount["Type"], mount["Source"]) == ("volume", volume_name(str(folder)))
    assert mount["VolumeOptions"]["Subpath"] == "team/x"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("new_engine")
def test_it_may_be_read_only_and_beside_the_whole(server: Server, folder: Path, kind: str) -> None:
    """The folder of the option itself is bound as on any engine."""
    volumes = [f"{folder}/blue:/x:ro", f"{folder}:/all"]
    script = "touch /x/new 2>/dev/null || echo read-only; cat /all/red/file"
    told = server.run(image=IMAGE, type=kind, command=["sh", "-c", script], volumes=volumes, wait=60)
    assert output(told).split() == ["read-only", "red"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["out", "up", "out/deeper", "proc", "proc/etc", "loop", "none", "team/none", "blue/file/x"]
)
@pytest.mark.usefixtures("new_engine")
def test_a_link_that_leads_out_is_not_mounted(server: Server, folder: Path, kind: str, name: str) -> None:
    """It is told like a folder that does not exist, and nothing of the host's paths with it."""
    told = see(server, kind, folder / name, "ls -laR /x")
    if kind == "container":
        assert told.status == 400, told.text
        error = told["error"]
    else:
        assert (told.status, told["status"]) == (200, "failed"), told.text
        error = told["error"]
        assert [task["error"] for task in told["tasks"]] == [error]
    says = f"volumes: '{name}' is not in a folder of --bind-mounts on this node, or is a link that leads out of it"
    assert error == says
    assert "outside" not in told.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("new_engine")
def test_a_link_that_stays_inside_is_followed(server: Server, folder: Path, kind: str) -> None:
    """As the host does."""
    assert output(see(server, kind, folder / "in")) == "team/x\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("new_engine")
def test_a_folder_that_is_exchanged_meanwhile_shows_nothing_outside(
    server: Server, folder: Path, outside: Path, kind: str
) -> None:
    """A loop makes it a folder and a link in turn, as a job could: each run sees the folder, or does not start."""
    one, other = folder / f"turns-{kind}", folder / f"turned-{kind}"
    one.mkdir()
    (one / "file").write_text("inside\n")
    other.symlink_to(outside)
    end = threading.Event()
    thread = threading.Thread(target=_exchange, args=(one, other, end))
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(lambda _: see(server, kind, one), range(40)))
    finally:
        end.set()
        thread.join()
        for path in (one, other):
            if path.is_symlink():
                path.unlink()
    seen = [each["result"]["stdout"] for each in told if each.status == 200 and each["status"] == "complete"]
    refused = [each for each in told if "is a link that leads out of it" in each.text]
    assert set(seen) == {"inside\n"}
    assert refused
    assert len(seen) + len(refused) == len(told)


def _exchange(one: Path, other: Path, end: threading.Event) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in itertools.takewhile(lambda _: not end.is_set(), itertools.count()):
        assert libc.renameat2(-100, bytes(one), -100, bytes(other), RENAME_EXCHANGE) == 0, os.strerror(
            ctypes.get_errno()
        )
        end.wait(0.0005)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("new_engine")
def test_a_token_mounts_its_own_folder_alone(server: Server, folder: Path, kind: str) -> None:
    """Not those below, which its runs could make links to another token's; one with the whole folder may."""

    def asked(token: str, source: Path) -> Reply:
        command, volumes = ["cat", "/x/file"], [f"{source}:/x"]
        body = {"image": IMAGE, "type": kind, "command": command, "volumes": volumes, "wait": 60}
        return server.call("POST", "/run", json=body, token=token, timeout=100)

    assert output(asked("blue", folder / "blue")) == "blue\n"
    (folder / "blue/red").symlink_to("../red")
    try:
        refused = asked("blue", folder / "blue/red")
        assert refused.status == 403
        assert refused["error"].endswith(f"of '{folder}/blue' only that folder itself, unless --bind-mounts names it")
        assert output(asked("all", folder / "blue/red")) == "red\n"
    finally:
        (folder / "blue/red").unlink()
    for token, source in (("blue", "red"), ("blue", "."), ("none", "blue"), ("none", ".")):
        refused = asked(token, folder / source)
        assert (refused.status, refused["error"][:31]) == (403, "mounts: this token may not moun"), refused.text


@pytest.mark.usefixtures("new_engine")
def test_what_the_host_has_mounted_there_stays(engine: Engine, server: Server, folder: Path) -> None:
    """It is seen, and the end of the last run does not unmount it from the host: mounts of a host are shared."""
    machine, disk = engine.machine, f"{folder}/disk"
    machine.run("mkdir", "-p", disk)
    machine.run("mount", "--bind", str(folder), str(folder))
    machine.run("mount", "--make-shared", str(folder))
    try:
        machine.run("mount", "-t", "tmpfs", "none", disk)
        machine.run("touch", f"{disk}/on-the-disk")
        assert output(see(server, "container", folder / "disk", "ls /x")) == "on-the-disk\n"
        assert machine.run("ls", disk) == "on-the-disk\n"
    finally:
        machine.run("umount", "--recursive", str(folder))


@pytest.mark.usefixtures("new_engine")
def test_the_volume_itself_cannot_be_asked_for(server: Server, folder: Path) -> None:
    """It is the whole folder, whatever a token may mount."""
    for token in ("none", True):
        body = {"image": IMAGE, "command": "true", "volumes": [f"{volume_name(str(folder))}:/x"]}
        refused = server.call("POST", "/run", json=body, token=token)
        assert (refused.status, "is reserved" in refused["error"]) == (400, True), refused.text


@pytest.mark.usefixtures("new_engine")
def test_a_dry_run_and_a_function_take_it_too(server: Server, folder: Path) -> None:
    """As a run does."""
    body = {"image": IMAGE, "command": "true", "volumes": [f"{folder}/blue:/x"]}
    for kind in KINDS:
        told = server.call("POST", "/run?dry_run=1", json={**body, "type": kind})
        assert (told.status, told["spec"]["volumes"]) == (200, body["volumes"]), told.text
    function = {**body, "runtime": "job", "command": ["cat", "/x/file"]}
    published = server.call("PUT", "/functions/reads-a-folder", json=function)
    assert published.status in (200, 201), published.text
    try:
        called = server.call("POST", "/functions/reads-a-folder/invoke", json={})
        assert (called.status, called.text) == (200, "blue\n")
    finally:
        server.call("DELETE", "/functions/reads-a-folder")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("old_engine")
def test_an_older_engine_mounts_none_below(engine: Engine, server: Server, folder: Path, kind: str) -> None:
    """It would mount the whole folder. Nothing is made; the answer tells what is needed."""
    before = sdk(engine).services(), sdk(engine).containers(all=True), sdk(engine).volumes()["Volumes"]
    needs = "a container needs Docker 26.0 (API 1.45)" if kind == "container" else "a service needs Docker 26.1"
    body = {"image": IMAGE, "command": "nap 300", "volumes": [f"{folder}/blue:/x"], "type": kind}
    tokens: tuple[bool | str, ...] = (True, "blue", "all")
    for path, token in itertools.product(("/run", "/run?dry_run=1"), tokens):
        refused = server.call("POST", path, json=body, token=token)
        assert refused.status == 400, refused.text
        assert refused["error"].startswith(
            f"volumes: '{folder}/blue' is below a folder of --bind-mounts. For that {needs}"
        )
    assert (sdk(engine).services(), sdk(engine).containers(all=True), sdk(engine).volumes()["Volumes"]) == before
    assert output(see(server, kind, folder, "cat /x/blue/file")) == "blue\n"


@pytest.mark.usefixtures("old_engine")
def test_an_older_engine_publishes_no_function_with_one_below(server: Server, folder: Path) -> None:
    """Rather than that each call of it fails."""
    body = {"image": IMAGE, "command": "nap 300", "volumes": [f"{folder}/blue:/x"]}
    refused = server.call("PUT", "/functions/reads-a-folder", json=body)
    assert (refused.status, "a service needs Docker 26.1" in refused["error"]) == (400, True), refused.text
