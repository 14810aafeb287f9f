"""subfolders: host folders below those of --bind-mounts, as Docker is asked for them, and what it says of them."""

from typing import Any

import pytest
from fakes import run

from qmaster.engine import options, subfolders
from qmaster.errors import BadRequest
from qmaster.models import paths
from qmaster.models.compose import RESERVED_VOLUME, VOLUME

FOLDERS = ("/srv/data", "/mnt")


def mounted(source: str, kind: str = "container", read_only: bool = False) -> dict[str, Any]:
    request = run(type=kind, volumes=[f"{source}:/x{':ro' if read_only else ''}"])
    if kind == "service":
        mounts = options.of_service(request, [], FOLDERS)["Mounts"]
    else:
        mounts = options.of_host(request, FOLDERS)["Mounts"]
    return dict(mounts[0])


@pytest.mark.parametrize("kind", ["service", "container"])
def test_a_folder_below_is_a_path_in_a_volume(kind: str) -> None:
    """The volume is the folder of the option. Nothing of the image is copied into it."""
    assert mounted("/srv/data/team/x", kind, read_only=True) == {
        "Type": "volume",
        "Source": subfolders.volume_name("/srv/data"),
        "Target": "/x",
        "ReadOnly": True,
        "VolumeOptions": {
            "NoCopy": True,
            "Subpath": "team/x",
            "DriverConfig": {"Name": "local", "Options": {"type": "none", "o": "rbind,rslave", "device": "/srv/data"}},
        },
    }


@pytest.mark.parametrize(
    ("source", "subpath"),
    [
        ("/srv/data", None),
        ("/srv/data/", None),
        ("//srv//data", None),
        ("/srv/data/.", None),
        ("/mnt", None),
        ("/srv/data/x", "x"),
        ("/srv/data//x/", "x"),
        ("/srv/data/./x/./y", "x/y"),
        ("/mnt/srv/data", "srv/data"),
        ("/srv/data/...", "..."),
    ],
)
def test_each_spelling_is_one_folder(source: str, subpath: str | None) -> None:
    """The folder of the option itself is bound, as ever."""
    found = mounted(source)
    assert found["Type"] == ("bind" if subpath is None else "volume")
    assert found.get("VolumeOptions", {}).get("Subpath") == subpath


def test_no_other_folder_is_mounted_whoever_asks() -> None:
    """Policy has refused it before."""
    for source in ("/srv/data2", "/srv", "/srv/dat", "/etc"):
        with pytest.raises(ValueError, match=r"^no folder of --bind-mounts holds "):
            mounted(source)


def test_the_outermost_folder_holds() -> None:
    """A job that has the outer one could turn the inner one into a link."""
    assert paths.holder("/a/b/c", ("/a/b", "/a")) == paths.holder("/a/b/c", ("/a", "/a/b")) == "/a"
    assert paths.holder("/ab", ("/a",)) is None


def test_a_volume_has_one_name_for_one_folder() -> None:
    """It is a name that Docker takes, and no run can ask for."""
    names = {subfolders.volume_name(each) for each in ("/a", "/b", "/a/b")}
    assert len(names) == 3
    assert all(VOLUME.fullmatch(name) and name.startswith(RESERVED_VOLUME) for name in names)
    assert subfolders.volume_name("/srv/data") == "qm-bind-92c7b6807f85de1a410522f6ae568203"  # also after a restart


def test_only_folders_below_need_a_newer_engine() -> None:
    """Not those of the option, nor volumes and files in memory."""
    request = run(volumes=["/mnt:/a", "/mnt/x:/b", "data:/c", "/srv/data/y:/d"], tmpfs="/e")
    assert subfolders.of(request, FOLDERS) == ["/mnt/x", "/srv/data/y"]


@pytest.mark.parametrize(
    ("version", "fits"),
    [("1.45", True), ("1.51", True), ("2.0", True), ("1.44", False), ("1.9", False), ("1.100", True), ("", False)],
)
def test_a_container_needs_an_api(version: str, fits: bool) -> None:
    """The number of an API is no decimal fraction."""
    if fits:
        subfolders.check_api(["/mnt/x"], version)
        return
    with pytest.raises(
        BadRequest, match=r"^volumes: '/mnt/x' .* a container needs Docker 26\.0 \(API 1\.45\) or newer"
    ):
        subfolders.check_api(["/mnt/x"], version)


def node(version: str | None) -> dict[str, Any]:
    return {"Description": {"Engine": {"EngineVersion": version}}}


@pytest.mark.parametrize(
    ("versions", "older"),
    [
        (["26.1.0"], 0),
        (["28.5.2+dfsg4", "27.0.1", "100.1.0"], 0),
        (["26.0.2"], 1),  # which takes the field, and mounts the whole folder
        (["28.5.2", "20.10.24+dfsg1", "25.0.3"], 2),
        (["28.5.2", "dev"], 1),
        (["28.5.2", None], 1),
        (["28.5.2", ""], 1),
    ],
)
def test_a_service_needs_newer_engines_on_every_node(versions: list[str | None], older: int) -> None:
    """One that does not tell its version is not taken for a new one."""
    nodes = [node(version) for version in versions]
    if not older:
        subfolders.check_nodes(["/mnt/x"], nodes)
        return
    with pytest.raises(BadRequest, match=rf"needs Docker 26\.1 .* older one: {older} of {len(nodes)}; or mount"):
        subfolders.check_nodes(["/mnt/x"], nodes)


@pytest.mark.parametrize("nodes", [[], [{}], [{"Description": None}], [{"Description": {"Engine": None}}]])
def test_nodes_that_tell_nothing_are_too_old(nodes: list[dict[str, Any]]) -> None:
    """Else a swarm that does not answer in full would let a run see the whole folder."""
    with pytest.raises(BadRequest):
        subfolders.check_nodes(["/mnt/x"], nodes)


DATA = f"/var/lib/docker/volumes/{subfolders.volume_name('/srv/data')}/_data"


@pytest.mark.parametrize(
    ("error", "path"),
    [
        (
            f"starting container failed: cannot access path {DATA}/a/b: lstat {DATA}/a: no such file or directory",
            "'a/b'",
        ),
        (f"cannot access path {DATA}/a: lstat /var/lib/docker/etc: no such file or directory", "'a'"),
        (f"path concatenation escapes the base directory, base: {DATA}, subpath: a/b", "'a/b'"),
        (f"cannot access path {DATA}/a: too many levels of symbolic links", "'a'"),
        (f'error while resolving symlinks in combined path "{DATA}/a/b": not a directory', "'a/b'"),
        (f"failed to mount local volume: mount /srv/data:{DATA}, flags: 0x5000: no such file", "the host folder"),
    ],
)
def test_a_folder_that_is_not_there_is_told_as_one_that_leads_out(error: str, path: str) -> None:
    """The difference would tell which files the host has."""
    said = subfolders.explained(error)
    assert (
        said == f"volumes: {path} is not in a folder of --bind-mounts on this node, or is a link that leads out of it"
    )


@pytest.mark.parametrize(
    "error", ["no such image: x", "cannot access path /var/lib/docker/volumes/other/_data/a: gone"]
)
def test_another_error_stays(error: str) -> None:
    """None and an empty one are none."""
    assert subfolders.explained(error) == error
    assert subfolders.explained(None) is subfolders.explained("") is None
