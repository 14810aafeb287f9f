"""policy: may they run this?"""

from typing import Any

import msgspec
import pytest
from fakes import grant, run, steady
from hypothesis import given
from hypothesis import strategies as st

from qmaster.auth import policy
from qmaster.auth.tokens import SCOPES, TokenPolicy
from qmaster.errors import BadRequest, ConfigError, Forbidden
from qmaster.models.images import Pattern, Reference
from qmaster.models.requests import RunRequest

D1 = "sha256:" + "1" * 64
MEMORY = 250  # MiB, of a run that names none


def allow(request: RunRequest, by: TokenPolicy | None = None, registries: frozenset[str] = frozenset()) -> RunRequest:
    return policy.allow(request, by, registries, MEMORY)


def images(*patterns: str) -> tuple[Pattern, ...]:
    return tuple(map(Pattern.parse, patterns))


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_is_needed(scope: Any) -> None:
    """It is had or not; the root token has all, and alone what is for it."""
    policy.require(None, scope)
    policy.require(grant(scopes=frozenset({scope})), scope)
    others = frozenset(SCOPES) - {scope}
    with pytest.raises(Forbidden, match=rf"^scopes: this call needs the scope {scope}; this token has \w+, \w+, \w+$"):
        policy.require(grant(scopes=others), scope)
    policy.require_root(None, "this is")
    with pytest.raises(Forbidden, match=r"^scopes: this is for the root token only$"):
        policy.require_root(grant(), "this is")


# --- what is let through ----------------------------------------------------------------------------------------------


def test_the_root_token_may_all() -> None:
    """What it asks is what is run."""
    request = run(memory=16_777_216, cpus=9_999, replicas=9_999, networks=["any"], secrets=["any"], ports=["1:1"])
    assert allow(request) is request


def test_a_request_within_its_limits_is_let_through() -> None:
    """As it was asked, but for the image: that which was checked is the one that is run."""
    limits = grant(
        images=images("busybox:1.*", "registry.example.com/team/**"),
        max_memory=64,
        max_cpus=0.5,
        max_replicas=2,
        networks=frozenset({"blue", "green"}),
        secrets=frozenset({"key"}),
        ports=(range(80, 81), range(8000, 8100)),
    )
    request = run(
        image="busybox:1.36",
        memory=64,
        cpus=0.5,
        replicas=2,
        networks=["blue"],
        secrets=["key"],
        ports=["80:80", "8099:1/udp"],
    )
    assert allow(request, limits) == msgspec.structs.replace(request, image="docker.io/library/busybox:1.36")


@pytest.mark.parametrize(
    ("image", "as_run"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("team/app:2", "docker.io/team/app:2"),
        (f"busybox:1@{D1}", f"docker.io/library/busybox@{D1}"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("abcdefabcdef", "docker.io/library/abcdefabcdef:latest"),  # an engine takes it for an image's id
        ("localhost:5000/app", "localhost:5000/app:latest"),
    ],
)
def test_what_was_checked_is_what_is_run(image: str, as_run: str) -> None:
    """In a form that no engine reads as something else."""
    assert allow(run(image=image), grant()).image == as_run
    assert allow(run(image=image), None, frozenset({"docker.io", "localhost:5000"})).image == as_run


def test_what_is_not_named_is_within_the_limits_too() -> None:
    """The default memory, or less; all cores that it may; one replica."""
    low = allow(run(), grant(max_memory=64, max_cpus=0.5))
    assert (low.memory, low.cpus, low.replicas) == (64, 0.5, 1)
    high = allow(run(), grant(max_memory=1024, max_replicas=1))
    assert (high.memory, high.cpus) == (MEMORY, None)
    assert allow(run(), grant()).memory is None


@pytest.mark.parametrize(
    ("limits", "asked", "runs_with"),
    [
        ({}, None, None),
        ({}, 1024, 1024),
        ({"max_pids": 100}, None, 100),
        ({"max_pids": 4096}, None, None),
        ({"max_pids": 4096}, 4096, 4096),
        ({"allow_relaxed": True}, 0, 0),
        ({"allow_relaxed": True}, 100_000, 100_000),
        ({"allow_relaxed": True, "max_pids": 100}, None, 100),
    ],
)
def test_processes_are_limited(limits: dict[str, Any], asked: int | None, runs_with: int | None) -> None:
    """To 1,024 where the token says nothing: that is what None stands for."""
    assert allow(run(pids_limit=asked), grant(**limits)).pids_limit == runs_with


@pytest.mark.parametrize(
    "fields", [{}, {"cap_drop": ["ALL"]}, {"cap_drop": ["CHOWN", "net_raw", "CAP_MKNOD", "AUDIT_WRITE"]}]
)
def test_a_run_may_be_hardened_further(fields: dict[str, Any]) -> None:
    """By any token: what is dropped by default stays dropped."""
    assert allow(run(**fields), grant()).cap_drop == fields.get("cap_drop")


def test_a_token_may_be_allowed_to_relax() -> None:
    """With allow_relaxed; the root token always may."""
    relaxed = run(cap_drop=[], no_new_privileges=False, ulimits={"rtprio": 1})
    for who in (grant(allow_relaxed=True), None):
        allowed = allow(relaxed, who)
        assert (allowed.cap_drop, allowed.no_new_privileges) == ([], False)


def test_constraints_are_added_to_every_run() -> None:
    """To what it asks for itself, each once: Swarm wants all of them met."""
    forced = grant(constraints=("node.labels.team==blue", "node.role==worker"))
    assert allow(run(), forced).constraints == ["node.labels.team==blue", "node.role==worker"]
    asked = run(constraints=["node.role==worker", "node.labels.team!=blue"])
    assert allow(asked, forced).constraints == [
        "node.role==worker",
        "node.labels.team!=blue",
        "node.labels.team==blue",
    ]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "fields", "says"),
    [
        ({"images": images("busybox:1")}, {"image": "busybox:2"}, "images: this token may not run docker.io/library/b"),
        ({"images": ()}, {}, "images: this token may not run"),
        ({}, {"image": "Registry.example.com/app"}, "images: write the registry in lower case"),
        ({"max_memory": 64}, {"memory": 65}, "max_memory: this token's runs may have at most 64 MiB; got 65"),
        ({"max_cpus": 0.5}, {"cpus": 0.501}, "max_cpus: this token's runs may have at most 0.5 cores; got 0.501"),
        ({}, {"pids_limit": 0}, "max_pids: this token's runs may have at most 1024 processes; got any number"),
        ({"max_pids": 9}, {"pids_limit": 10}, "max_pids: this token's runs may have at most 9 processes; got 10"),
        (
            {"allow_relaxed": True, "max_pids": 9},
            {"pids_limit": 0},
            "max_pids: this token's runs may have at most 9 processes; got any number",
        ),
        (
            {},
            {"cap_drop": ["MKNOD"]},
            "allow_relaxed: this token's runs must drop NET_RAW, AUDIT_WRITE as well; add them to cap_drop",
        ),
        (
            {},
            {"no_new_privileges": False},
            "allow_relaxed: this token may not set no_new_privileges to false; leave the field out",
        ),
        ({}, {"ulimits": {"rtprio": 0}}, "allow_relaxed: this token may not set ulimits.rtprio; leave it out"),
        (
            {"max_ttl": 60.0},
            {"ttl": "never"},
            "max_ttl: this token's runs are kept at most 60 seconds after their end; got never",
        ),
        (
            {"max_ttl": 60.0},
            {"ttl": 61},
            "max_ttl: this token's runs are kept at most 60 seconds after their end; got 61",
        ),
        ({"max_replicas": 2}, {"replicas": 3}, "max_replicas: this token's runs may have at most 2; got 3"),
        ({}, {"networks": ["blue"]}, "networks: this token may not use 'blue'"),
        (
            {"networks": frozenset({"blue"})},
            {"networks": ["blue", "green"]},
            "networks: this token may not use 'green'",
        ),
        ({"networks": frozenset({"blue"})}, {"networks": ["Blue"]}, "networks: this token may not use 'Blue'"),
        ({}, {"secrets": ["key"]}, "secrets: this token may not use 'key'"),
        ({"secrets": frozenset({"key"})}, {"secrets": ["key2"]}, "secrets: this token may not use 'key2'"),
        ({}, {"ports": ["80:80"]}, "ports: this token may not publish 80"),
        ({"ports": (range(8000, 8010),)}, {"ports": ["8000:1", "8010:1"]}, "ports: this token may not publish 8010"),
        ({"ports": (range(8000, 8010),)}, {"ports": ["80:8000"]}, "ports: this token may not publish 80"),
        (
            {"constraints": ("node.role==worker",)},
            {"type": "container"},
            "constraints: this token is limited to certain nodes",
        ),
        ({}, {"name": "qm-1"}, "name: the prefix qm- is reserved"),
        ({}, {"name": "QM-1"}, "name: the prefix qm- is reserved"),
    ],
)
def test_what_is_beyond_a_limit_is_refused(limits: dict[str, Any], fields: dict[str, Any], says: str) -> None:
    """The message begins with the rule; the root token may all of it."""
    with pytest.raises(Forbidden) as caught:
        allow(run(**fields), grant(**limits))
    assert str(caught.value).startswith(says)
    assert allow(run(**fields)) == run(**fields)


@pytest.mark.parametrize(
    ("asked", "limit", "default", "stays"),
    [
        (None, None, 86400.0, None),
        (None, 60.0, 86400.0, 60.0),
        (None, 60.0, None, 60.0),
        (None, 60.0, 30.0, None),
        (0, 60.0, 86400.0, 0),
        (60, 60.0, 86400.0, 60),
        (100, None, 86400.0, 100),
    ],
)
def test_a_run_stays_no_longer_than_its_token_may(
    asked: float | None, limit: float | None, default: float | None, stays: float | None
) -> None:
    """One that names no ttl gets the default, or the limit where that is less."""
    request = run() if asked is None else run(ttl=asked)
    assert policy.allow(request, grant(max_ttl=limit), (), MEMORY, default).ttl == stays


everybody = pytest.mark.parametrize("by", [None, grant()], ids=["root", "alice"])


@everybody
@pytest.mark.parametrize(
    "image",
    [
        "busybox",
        "index.docker.io/library/busybox",
        "registry.example.com:5000/app",
        "registry.example.com.evil.example/app",
        "evil.example/registry.example.com/app",
        "localhost/registry.example.com/app",
        "registry.example.com-evil/app",
    ],
)
def test_an_image_is_of_a_registry_that_is_allowed(image: str, by: TokenPolicy | None) -> None:
    """Also for the root token."""
    with pytest.raises(Forbidden, match=r"^--registries: this server does not run images from '.*'$"):
        allow(run(image=image), by, frozenset({"registry.example.com"}))
    assert allow(run(image="registry.example.com/app"), by, frozenset({"registry.example.com"}))


@everybody
def test_a_registry_is_written_in_lower_case(by: TokenPolicy | None) -> None:
    """What is wrong is said: it is one that is allowed."""
    with pytest.raises(Forbidden, match=r"^images: write the registry in lower case; got '.*'$"):
        allow(run(image="REGISTRY.example.com/app"), by, frozenset({"registry.example.com"}))


def test_so_many_may_run_at_once() -> None:
    """One more is refused; without a limit, or with the root token, none is."""
    policy.check_running(grant(max_running=2), 1)
    policy.check_running(grant(), 1_000_000)
    policy.check_running(None, 1_000_000)
    with pytest.raises(Forbidden, match=r"^max_running: .* at most 2 runs that have not ended; it has 2$"):
        policy.check_running(grant(max_running=2), 2)


# --- drawn ------------------------------------------------------------------------------------------------------------

LETTERS = st.text("aA0.-_:/@é", min_size=1, max_size=14)


@steady
@given(LETTERS)
def test_no_reference_is_read_in_two_ways(text: str) -> None:
    """What is sent to the engine is, read again, what was checked; plain ASCII, with its registry in front."""
    try:
        parsed = Reference.parse(text)
    except ValueError:
        return
    again = Reference.parse(parsed.canonical)
    assert (again.domain, again.path, again.canonical) == (parsed.domain, parsed.path, parsed.canonical)
    assert parsed.canonical.isascii()
    assert parsed.canonical.startswith(f"{parsed.domain}/")


@steady
@given(st.fixed_dictionaries({}, optional={
    "memory": st.integers(1, 600), "cpus": st.floats(0.001, 5), "replicas": st.integers(1, 5),
    "networks": st.lists(st.sampled_from(["blue", "green"]), unique=True),
    "secrets": st.lists(st.sampled_from(["key", "other"]), unique=True),
    "ports": st.lists(st.sampled_from(["80:80", "8000:80", "8005:80"]), unique=True),
    "constraints": st.lists(st.sampled_from(["node.role==manager", "node.id!=a"]), unique=True),
    "image": st.sampled_from(["busybox", "busybox:1", "team/app", "registry.example.com/app"]),
    "type": st.sampled_from(["service", "container"]),
}))  # fmt: skip
def test_nothing_beyond_a_limit_is_let_through(fields: dict[str, Any]) -> None:
    """Whatever is asked: it is refused, or within every limit."""
    limits = grant(
        images=images("busybox", "team/*"),
        max_memory=300,
        max_cpus=2.0,
        max_replicas=3,
        constraints=("node.role==worker",),
        networks=frozenset({"blue"}),
        secrets=frozenset({"key"}),
        ports=(range(8000, 8006),),
    )
    try:
        allowed = allow(run(**fields), limits)
    except (Forbidden, BadRequest):
        return
    assert allowed.image.startswith(("docker.io/library/busybox:", "docker.io/team/app:"))
    assert (allowed.memory or MEMORY) <= 300
    assert allowed.cpus is not None
    assert allowed.cpus <= 2
    assert allowed.replicas <= 3
    assert set(allowed.networks) <= {"blue"}
    assert set(allowed.secrets) <= {"key"}
    assert all(port.startswith("80") and not port.startswith("80:") for port in allowed.ports)
    assert "node.role==worker" in allowed.constraints
    assert allowed.type == "service"


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "name", "sees"),
    [
        ((), "a", False),
        (("a",), "a", True),
        (("a",), "ab", False),
        (("team-*",), "team-a", True),
        (("team-*",), "team-", True),
        (("team-*",), "teams", False),
        (("team-*",), "my-team-a", False),
        (("*",), "anything", True),
        (("a*c", "b"), "abc", True),
        (("a*c", "b"), "b", True),
        (("a*c", "b"), "abcd", False),
    ],
)
def test_a_token_has_the_functions_that_it_names(patterns: tuple[str, ...], name: str, sees: bool) -> None:
    """None by default; the root token has all."""
    assert policy.sees_function(grant(functions=patterns), name) is sees
    assert policy.sees_function(None, name)
    policy.check_function(None, name, "public")
    if sees:
        policy.check_function(grant(functions=patterns), name, "token")
    else:
        with pytest.raises(Forbidden, match=rf"^functions: this token may not publish '{name}'$"):
            policy.check_function(grant(functions=patterns), name)


def test_an_open_url_has_a_rule_of_its_own() -> None:
    """A token may make one only where its table says so."""
    policy.check_function(grant(functions=("*",), public=True), "f", "public")
    with pytest.raises(Forbidden, match=r"^public: .*; use url token$"):
        policy.check_function(grant(functions=("*",)), "f", "public")


@pytest.mark.parametrize(
    ("fields", "allowed", "rule"),
    [
        ({"volumes": ["team-x:/x"]}, {"volumes": ("team-*",)}, "volumes: this token may not use the volume 'team-x'"),
        ({"volumes": ["/srv/x:/x"]}, {"mounts": frozenset({"/srv/x"})}, "mounts: this token may not mount the"),
        ({"configs": ["c"]}, {"configs": frozenset({"c"})}, "configs: this token may not use 'c'"),
        (
            {"generic_resources": {"fpga": 1}},
            {"resources": frozenset({"fpga"})},
            "resources: this token may not",
        ),
        (
            {"type": "container", "gpus": 1},
            {"resources": frozenset({"gpu"})},
            "resources: this token may not",
        ),
    ],
)
def test_what_a_token_uses_is_named_in_its_table(fields: dict[str, Any], allowed: dict[str, Any], rule: str) -> None:
    """Nothing is allowed by default; the root token may all of it."""
    folders = ("/srv/x",)
    policy.allow(run(**fields), grant(**allowed), (), MEMORY, None, folders)
    policy.allow(run(**fields), None, (), MEMORY, None, folders)
    with pytest.raises(Forbidden) as caught:
        policy.allow(run(**fields), grant(), (), MEMORY, None, folders)
    assert str(caught.value).startswith(rule)


def test_a_host_folder_is_one_of_the_server_s_for_all() -> None:
    """Or below one; the root token is no exception, and a prefix is no folder."""
    for source in ("/srv", "/srv/x2", "/srv/x2/y", "/srv/y/x", "/etc"):
        for by in (None, grant(mounts=frozenset({source}))):
            with pytest.raises(Forbidden, match=r"^--bind-mounts: "):
                policy.allow(run(volumes=[f"{source}:/x"]), by, (), MEMORY, None, ("/srv/x",))
    for source in ("/srv/x", "/srv/x/below", "/srv//x/./far/below/"):
        request = run(volumes=[f"{source}:/x"])
        assert policy.allow(request, None, (), MEMORY, None, ("/srv/x",)) is request


@pytest.mark.parametrize(
    ("mounts", "source", "allowed"),
    [
        (["/srv/data"], "/srv/data", True),
        (["/srv/data"], "/srv/data/a", True),
        (["/srv/data"], "/srv/data/a/b", True),
        (["/srv"], "/srv/data/a", True),
        (["/srv/data/a"], "/srv/data/a", True),
        # Its runs can write to /srv/data/a, so a link there could lead to /srv/data/b.
        (["/srv/data/a"], "/srv/data/a/b", False),
        (["/srv/data/a"], "/srv/data", False),
        (["/srv/data/a"], "/srv/data/b", False),
        (["/srv/data/a"], "/srv/data/ab", False),
        (["/srv/dat"], "/srv/data", False),
        (["/srv/other"], "/srv/data/a", False),
        ([], "/srv/data", False),
        ([], "/srv/data/a", False),
    ],
)
def test_a_token_has_its_folders(mounts: list[str], source: str, allowed: bool) -> None:
    """Those below too, where it has all of the server's folder."""
    request, by = run(volumes=[f"{source}:/x"]), grant(mounts=frozenset(mounts))
    if allowed:
        assert policy.allow(request, by, (), MEMORY, None, ("/srv/data",)).volumes == [f"{source}:/x"]
        return
    with pytest.raises(Forbidden, match=rf"^mounts: this token may not mount the host folder '{source}'"):
        policy.allow(request, by, (), MEMORY, None, ("/srv/data",))


@pytest.mark.parametrize(
    ("mounts", "fits"),
    [
        ({"a": ["/srv/data/a"], "b": ["/srv/data/b"]}, True),
        ({"a": ["/srv/data/a"], "b": ["/srv/data/a"]}, True),
        ({"a": ["/srv/data/a"], "b": ["/srv/data/ab/c"]}, True),
        ({"a": ["/srv/data"], "b": ["/srv/data/a"]}, True),
        ({"a": ["/srv"], "b": ["/srv/data/a"]}, True),
        ({"a": ["/elsewhere/a"], "b": ["/elsewhere/a/b"]}, True),
        ({"a": ["/srv/data/a"], "b": ["/srv/data/a/b"]}, False),
        ({"a": ["/srv/data/a/b/c"], "b": ["/srv/data/a"]}, False),
        ({"a": ["/srv/data/a", "/srv/data/a/b"]}, False),
    ],
)
def test_the_folders_of_tokens_are_side_by_side(mounts: dict[str, list[str]], fits: bool) -> None:
    """A token that may write to a folder can turn those in it into links."""
    grants = [grant(name=name, mounts=frozenset(folders)) for name, folders in mounts.items()]
    if fits:
        policy.check_mounts(grants, ("/srv/data", "/mnt"))
        return
    with pytest.raises(ConfigError, match=r"^\[[ab]\] mounts: /srv/data/a/b(/c)? is inside /srv/data/a of \[[ab]\]"):
        policy.check_mounts(grants, ("/srv/data", "/mnt"))


def test_files_in_memory_count_as_memory() -> None:
    """`shm_size` and the sizes of `tmpfs`; on top of the default memory too."""
    fits = {"memory": 32, "shm_size": 16, "tmpfs": ["/a:size=8m", "/b:size=8m"]}
    assert allow(run(**fits), grant(max_memory=64)).memory == 32
    with pytest.raises(Forbidden, match=r"^max_memory: .* at most 63 MiB; got 64 MiB"):
        allow(run(**fits), grant(max_memory=63))
    with pytest.raises(Forbidden, match=r"^max_memory: "):
        allow(run(shm_size=1), grant(max_memory=MEMORY))


def test_every_node_is_more_than_so_many_replicas() -> None:
    """A token with a limit of them has no global services."""
    assert allow(run(mode="global"), grant()).mode == "global"
    with pytest.raises(Forbidden, match=r"^max_replicas: "):
        allow(run(mode="global"), grant(max_replicas=100))
