"""compose: mounts, hosts and ulimits as Compose writes them, read into one form; and what is refused."""

from typing import Any

import pytest
from validation_cases import RUN, refused

from qmaster.models import compose, paths, requests
from qmaster.models.compose import Mount, Ulimit
from qmaster.models.requests import RunRequest


def run(**fields: Any) -> RunRequest:
    return requests.convert({**RUN, **fields}, RunRequest)


@pytest.mark.parametrize(
    ("fields", "mount"),
    [
        ({"volumes": ["data:/var/lib/x"]}, Mount("volume", "data", "/var/lib/x")),
        ({"volumes": ["data:/x/:ro"]}, Mount("volume", "data", "/x", read_only=True)),
        ({"volumes": ["data:/x:rw"]}, Mount("volume", "data", "/x")),
        ({"volumes": [{"source": "data", "target": "/x"}]}, Mount("volume", "data", "/x")),
        ({"volumes": ["/srv//data/:/x"]}, Mount("bind", "/srv/data", "/x")),
        ({"volumes": [{"type": "bind", "source": "/srv", "target": "/x"}]}, Mount("bind", "/srv", "/x")),
        ({"volumes": [{"type": "tmpfs", "target": "/x"}]}, Mount("tmpfs", "", "/x")),
        ({"tmpfs": "/x"}, Mount("tmpfs", "", "/x")),
        ({"tmpfs": ["/x:size=64m,mode=755,ro"]}, Mount("tmpfs", "", "/x", True, 64, 0o755)),
        ({"tmpfs": ["/x:size=1048576"]}, Mount("tmpfs", "", "/x", size=1)),
        ({"tmpfs": ["/dev/shm"]}, Mount("tmpfs", "", "/dev/shm")),
    ],
)
def test_a_mount_is_read(fields: dict[str, Any], mount: Mount) -> None:
    """In the short and in the long form."""
    assert run(**fields).mounts() == [mount]


@pytest.mark.parametrize(
    "entry",
    [
        "", ":", "data", "data:", ":/x", "data:x", "data:/x:z", "data:/x:ro:rw", "data:/../x", "data:/a/../x", "data:/",
        "data:/.", "data:/proc", "data:/proc/self", "data:/sys", "data:/dev/sda", "a/b:/x", "-a:/x", "a" * 256 + ":/x",
        "~/x:/x", "./x:/x", "../x:/x", "/srv/../etc:/x", "/:/x", "//:/x", "/proc:/x", "/dev/sda:/x", "{{x}}:/x",
        "data:/{{x}}", "data:/x\n", "data:/x,y", "/a\\b:/x",
    ],
)  # fmt: skip
def test_another_volume_is_refused(entry: str) -> None:
    """Whatever leads elsewhere, or means something to Docker that is not meant."""
    assert refused({**RUN, "volumes": [entry]}).startswith("volumes")


@pytest.mark.parametrize(
    "entry",
    [
        "x",
        "/",
        "/proc",
        "/x:size=0",
        "/x:size=1x",
        "/x:size=-1m",
        "/x:mode=9",
        "/x:exec",
        "/x:size=99999g",
        "/x:" + "ro," * 300,
    ],
)
def test_another_tmpfs_is_refused(entry: str) -> None:
    """It says what is expected."""
    assert refused({**RUN, "tmpfs": entry}).startswith("tmpfs: ")


@pytest.mark.parametrize("entry", ["qm-bind-x:/x", {"source": "qm-bind-", "target": "/x"}])
def test_the_volumes_of_host_folders_cannot_be_asked_for(entry: Any) -> None:
    """One is the whole folder. Names that only look alike are the user's."""
    assert refused({**RUN, "volumes": [entry]}).startswith("volumes: the prefix qm-bind- is reserved; ")
    assert run(volumes=["qm-bin:/x", "my-qm-bind-x:/y"]).mounts()


def test_two_mounts_have_two_targets() -> None:
    """Also where one is in a field of another name."""
    assert refused({**RUN, "volumes": ["a:/x"], "tmpfs": "/x"}) == "tmpfs: two mounts have the target '/x'"
    assert refused({**RUN, "shm_size": 1, "tmpfs": "/dev/shm"}).startswith("shm_size: ")


def test_hosts_and_ulimits_are_read() -> None:
    """In each form of Compose."""
    entries = ["a:10.0.0.1", "b=10.0.0.2", "six:fd00::1", "seven=[fd00::2]"]
    expected = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("six", "fd00::1"), ("seven", "fd00::2")]
    assert compose.hosts(entries) == compose.hosts(dict(expected)) == expected
    limits = run(ulimits={"nofile": 10, "core": {"soft": 0, "hard": -1}}).ulimits
    assert compose.limits(limits) == [Ulimit("nofile", 10, 10), Ulimit("core", 0, -1)]
    assert refused({**RUN, "ulimits": {"nofile": {"soft": 2, "hard": 1}}}).startswith("ulimits: the soft limit")
    assert refused({**RUN, "ulimits": {"nofile": {"soft": -1, "hard": 1}}}).startswith("ulimits: the soft limit")
    for entry in ("a", "a:b", "a:", ":10.0.0.1", "a b:10.0.0.1", "a\n:10.0.0.1", "a:10.0.0.1 b", "a:fe80::1%x\n::2 b"):
        assert refused({**RUN, "extra_hosts": [entry]}).startswith("extra_hosts: ")
    assert refused({**RUN, "dns": "fe80::1%x\noptions y"}).startswith("dns: ")


@pytest.mark.parametrize("number", [-2, 2**63, 10**30])
def test_a_ulimit_is_a_number_of_the_kernel(number: int) -> None:
    """By itself, and as one of two; a larger one can be neither sent to Docker nor shown."""
    assert refused({**RUN, "ulimits": {"nofile": number}}).startswith("ulimits['nofile']: ")
    assert refused({**RUN, "ulimits": {"nofile": {"soft": 0, "hard": number}}}).startswith("ulimits")


@pytest.mark.parametrize("path", ["/", "srv", "/srv/../etc", "/proc/1", "", "/a,b"])
def test_another_folder_is_no_folder_of_the_host(path: str) -> None:
    """Of --bind-mounts, and of a token."""
    with pytest.raises(ValueError, match=r"^volumes: "):
        paths.folder(path)
