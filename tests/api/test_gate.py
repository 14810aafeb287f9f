"""One gate: a table of attempts to reach more than the contract gives, each refused before any call to the engine.

What the contract has no word for is refused to the root token as well.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from fakes import DIGEST, encoded, steady
from hypothesis import given
from hypothesis import strategies as st
from in_process import BOX_OF_BOB, FOREIGN, OF_BOB, OF_ROOT, TOKEN, Ask, InProcess, app, ask, home, options
from tornado.httpclient import HTTPResponse

from qmaster.engine import spec
from qmaster.engine.spec import Defaults, Objects, Stamp
from qmaster.models import requests
from qmaster.models.requests import RunRequest
from qmaster.models.validation import quote

__all__ = ["app", "ask", "home", "options"]  # the fixtures

Json = dict[str, Any]

IMAGE = {"image": "busybox"}
SHA = "1" * 64
CHANGES = {"create", "remove", "end", "start", "stop", "pin"}


class Attempt(NamedTuple):
    """A call, and what its refusal is to begin with. ``path`` is of a POST where it has a body, else of a GET."""

    name: str
    says: str
    body: object = None
    path: str = "/run"
    status: int = 400


def fields(**more: object) -> Json:
    return {**IMAGE, **more}


# --- what the contract has no word for: 400, to everyone --------------------------------------------------------------

# Docker's own words for more than a function needs, of its API, its command line and its compose files.
UNKNOWN: Json = {
    # privileged
    "privileged": True, "Privileged": True, "PRIVILEGED": True, "--privileged": True, " privileged": True,
    "HostConfig": {"Privileged": True}, "host_config": {"Privileged": True}, "hostConfig": {"Privileged": True},
    # capabilities, and what else confines
    "cap_add": ["SYS_ADMIN"], "CapAdd": ["ALL"], "capabilities": ["CAP_SYS_ADMIN"], "CapabilityAdd": ["ALL"],
    "CapDrop": [], "security_opt": ["apparmor=unconfined"], "SecurityOpt": ["seccomp=unconfined"],
    "Privileges": {"Seccomp": {"Mode": "unconfined"}}, "NoNewPrivileges": False, "userns_mode": "host",
    "UsernsMode": "host", "group_add": ["docker"], "GroupAdd": ["0"], "MaskedPaths": [], "ReadonlyPaths": [],
    "ulimit": ["nofile=1"], "oom_kill_disable": True, "OomScoreAdj": -1000, "PidsLimit": -1,
    # the host's namespaces
    "pid": "host", "PidMode": "host", "pid_mode": "host", "ipc": "host", "IpcMode": "host", "uts": "host",
    "UTSMode": "host", "net": "host", "network": "host", "network_mode": "host", "NetworkMode": "container:x",
    "NetworkingConfig": {"EndpointsConfig": {"host": {}}}, "cgroupns": "host", "CgroupnsMode": "host",
    "cgroup_parent": "/", "CgroupParent": "/",
    # devices and the kernel
    "devices": ["/dev/sda"], "Devices": [{"PathOnHost": "/dev/sda"}], "device_cgroup_rules": ["a *:* rwm"],
    "DeviceRequests": [{"Count": -1}], "gpu": "all", "GenericResources": [], "sysctls": {"kernel.sem": "1"},
    "Sysctls": {"net.ipv4.ip_forward": "1"}, "runtime": "runc", "Runtime": "other", "isolation": "process",
    # the host's files, and the Docker socket
    "Volumes": {"/host": {}}, "volumes_from": ["other"], "VolumesFrom": ["other"],
    "binds": ["/var/run/docker.sock:/var/run/docker.sock"], "Binds": ["/:/host"], "volume": "/etc:/etc",
    "mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}],
    "Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"device": "/", "o": "bind"}}}}],
    "mount": "type=bind,source=/,target=/host", "Tmpfs": {"/run": ""}, "VolumeDriver": "local",
    "storage_opt": {"size": "1G"}, "Configs": [{"ConfigID": "x"}],
    # plugins, log drivers, and what else runs on the host
    "plugins": ["sshfs"], "PluginSpec": {"Name": "sshfs", "Remote": "evil/plugin"}, "Runtimes": ["plugin"],
    "log_driver": "syslog", "LogDriver": {"Name": "gelf", "Options": {"gelf-address": "udp://evil.example"}},
    "LogConfig": {"Type": "fluentd"}, "log_opts": {}, "logging": {"driver": "none"}, "CredentialSpec": {"File": "x"},
    "Init": True, "Healthcheck": {"Test": ["CMD", "x"]},
    # networks and names
    "add_host": ["registry:10.0.0.1"], "Hosts": ["10.0.0.1 x"], "DNSConfig": {}, "links": ["x"],
    "domainname": "x", "mac_address": "0", "EndpointSpec": {"Ports": []}, "publish": [],
    "ExposedPorts": {"22/tcp": {}}, "PublishAllPorts": True, "network_aliases": ["registry"],
    # whole documents of Docker's, and quartermaster's own
    "TaskTemplate": {"ContainerSpec": {"Image": "x"}}, "ContainerSpec": {"Image": "x"}, "Spec": {}, "Placement": {},
    "Resources": {}, "Mode": {"Global": {}}, "update_config": {}, "UpdateConfig": {},
    "owner": "bob", "id": OF_BOB, "scopes": ["run"], "memory_swap": -1, "MemorySwap": -1,
    "platform": "x", "fromSrc": "http://evil.example", "registry_auth": "x", "X-Registry-Auth": "x", "__proto__": {},
}  # fmt: skip

NOT_A_VALUE: list[tuple[str, Json]] = [
    ("image", {"image": ""}),
    ("image", {"image": None}),
    ("image", {"image": ["busybox"]}),
    ("image", {"image": "busybox --privileged"}),
    ("image", {"image": "-v /:/host busybox"}),
    ("image", {"image": "/var/run/docker.sock"}),
    ("image", {"image": "../busybox"}),
    ("image", {"image": "busybox\n"}),
    ("image", {"image": "busybox\x00"}),
    ("image", {"image": "BusyBox"}),
    ("image", {"image": "https://docker.io/busybox"}),
    ("image", {"image": "docker://busybox"}),
    ("image", {"image": "user:password@docker.io/busybox"}),
    ("image", {"image": "docker.io//busybox"}),
    ("image", {"image": "docker.io/team/../busybox"}),
    ("image", {"image": "docker.io%2fbusybox"}),
    ("image", {"image": "docker.io./library/busybox"}),
    ("image", {"image": "busybox:1:2"}),
    ("image", {"image": "busybox@sha256:1"}),
    ("image", {"image": f"busybox@SHA256:{SHA}"}),
    ("image", {"image": "busybox@md5:" + "1" * 32}),
    ("image", {"image": SHA}),
    ("image", {"image": "sha256:6"}),
    ("image", {"image": f"sha256:{SHA}"}),
    ("image", {"image": f"library/sha256:{SHA[:12]}"}),
    ("image", {"image": "docker.io/library/sha256:6ab"}),
    ("image", {"image": "index.docker.io/library/sha256:6ab"}),
    ("image", {"image": "busyböx"}),
    ("image", {"image": "busyb\u043ex"}),
    ("image", {"image": "a" * 513}),
    ("type", {"type": "plugin"}),
    ("type", {"type": "global"}),
    ("type", {"type": "Service"}),
    ("type", {"type": None}),
    ("memory", {"memory": 5}),
    ("memory", {"memory": 0}),
    ("memory", {"memory": -64}),
    ("memory", {"memory": 63.5}),
    ("memory", {"memory": "64"}),
    ("memory", {"memory": True}),
    ("memory", {"memory": [64]}),
    ("memory", {"memory": 2**63}),
    ("memory", {"memory": 2**80}),
    ("memory", {"memory": 1e300}),
    ("cpus", {"cpus": 0}),
    ("cpus", {"cpus": -0.5}),
    ("cpus", {"cpus": 1e-9}),
    ("cpus", {"cpus": "0.5"}),
    ("cpus", {"cpus": True}),
    ("cpus", {"cpus": 10_001}),
    ("cpus", {"cpus": 2**80}),
    ("replicas", {"replicas": 0}),
    ("replicas", {"replicas": -1}),
    ("replicas", {"replicas": 1.5}),
    ("replicas", {"replicas": "1"}),
    ("replicas", {"replicas": 10_001}),
    ("replicas", {"replicas": None}),
    ("restart", {"restart": "always"}),
    ("restart", {"restart": "unless-stopped"}),
    ("max_attempts", {"max_attempts": 0}),
    ("max_attempts", {"max_attempts": -1}),
    ("restart_delay", {"restart_delay": -1, "restart": "any"}),
    ("restart_window", {"restart_window": "60", "restart": "any"}),
    ("pids_limit", {"pids_limit": -1}),
    ("pids_limit", {"pids_limit": 2**31}),
    ("pids_limit", {"pids_limit": True}),
    ("pids_limit", {"pids_limit": "max"}),
    ("cap_drop", {"cap_drop": "NET_RAW"}),
    ("cap_drop", {"cap_drop": ["NET_RAW", "CAP_NET_RAW"]}),
    ("cap_drop", {"cap_drop": ["NET_RAW\n"]}),
    ("cap_drop", {"cap_drop": ["CAP_CAP_MKNOD"]}),
    ("cap_drop", {"cap_drop": ["-MKNOD"]}),
    ("cap_drop", {"cap_drop": ["NET_ROW"]}),
    ("no_new_privileges", {"no_new_privileges": "false"}),
    ("no_new_privileges", {"no_new_privileges": None}),
    ("healthcheck", {"healthcheck": {"test": "curl evil.example"}}),
    ("healthcheck", {"healthcheck": "true"}),
    ("constraints", {"constraints": "node.role==manager"}),
    ("constraints", {"constraints": ["node.role=manager"]}),
    ("constraints", {"constraints": [""]}),
    ("constraints", {"constraints": [{"node.role": "manager"}]}),
    ("constraints", {"constraints": ["node.role==manager"] * 65}),
    ("networks", {"networks": ["host"]}),
    ("networks", {"networks": "host"}),
    ("networks", {"networks": [{"Target": "host"}]}),
    ("networks", {"networks": ["container:other"]}),
    ("networks", {"networks": ["ns:/proc/1/ns/net"]}),
    ("networks", {"networks": ["blue", "blue"]}),
    ("secrets", {"secrets": "key"}),
    ("secrets", {"secrets": [{"SecretID": "x", "File": {"Name": "/etc/shadow"}}]}),
    ("secrets", {"secrets": ["source=key,target=/etc/shadow"]}),
    ("secrets", {"secrets": ["../key"]}),
    ("secrets", {"secrets": ["key", "key"]}),
    ("ports", {"ports": [8080]}),
    ("ports", {"ports": ["8080"]}),
    ("ports", {"ports": ["0:80"]}),
    ("ports", {"ports": ["8080:0"]}),
    ("ports", {"ports": ["65536:80"]}),
    ("ports", {"ports": ["-1:80"]}),
    ("ports", {"ports": ["127.0.0.1:8080:80"]}),
    ("ports", {"ports": ["8080-8090:80"]}),
    ("ports", {"ports": ["8080:80/icmp"]}),
    ("ports", {"ports": ["8080:80/TCP"]}),
    ("ports", {"ports": ["8080:80,mode=host"]}),
    ("ports", {"ports": ["٨٠٨٠:80"]}),
    ("ports", {"ports": [{"PublishedPort": 22, "TargetPort": 22, "PublishMode": "host"}]}),
    ("name", {"name": "../other"}),
    ("name", {"name": "a/b"}),
    ("name", {"name": ""}),
    ("name", {"name": "-rm"}),
    ("name", {"name": "a\n"}),
    ("name", {"name": "a" * 64}),
    ("user", {"user": "root; id"}),
    ("user", {"user": "0:0:0"}),
    ("user", {"user": "../root"}),
    ("user", {"user": "root\n"}),
    ("workdir", {"workdir": "etc"}),
    ("workdir", {"workdir": "/a\x00b"}),
    ("command", {"command": {"cmd": "x"}}),
    ("command", {"command": []}),
    ("command", {"command": ["a\x00b"]}),
    ("command", {"command": "sh -c 'open"}),
    ("entrypoint", {"entrypoint": [["sh"]]}),
    ("command", {"entrypoint": ""}),
    ("env", {"env": ["LD_PRELOAD=/x"]}),
    ("env", {"env": {"A=B": "c"}}),
    ("env", {"env": {"": "c"}}),
    ("env", {"env": {"A": "b\x00LD_PRELOAD=/x"}}),
    ("labels", {"labels": {"io.qmaster.owner": "bob"}}),
    ("labels", {"labels": {" io.qmaster.owner": "bob"}}),
    ("labels", {"labels": {"IO.QMASTER.owner": "bob"}}),
    ("labels", {"labels": {"io.qmaster.end": "stopped"}}),
    ("labels", {"labels": {"io.qmaster.new": "x"}}),
    ("labels", {"labels": {"com.docker.swarm.service.id": OF_BOB}}),
    ("labels", {"labels": {"Com.Docker.stack.namespace": "x"}}),
    ("labels", {"labels": {"": "x"}}),
    ("labels", {"labels": ["owner=bob"]}),
    ("wait", {"wait": -1}),
    ("wait", {"wait": 86_401}),
    ("wait", {"wait": "forever"}),
    ("timeout", {"timeout": 0}),
    ("timeout", {"timeout": -1}),
    ("timeout", {"timeout": 1e12}),
    ("ttl", {"ttl": -1}),
    ("ttl", {"ttl": "for ever"}),
    ("auth", {"auth": "no base64"}),
    ("auth", {"auth": encoded("[]")}),
    ("auth", {"auth": encoded({"username": "a", "password": "b", "registrytoken": "x"})}),
    ("auth", {"auth": {"username": "a", "password": "b"}}),
    ("constraints", {"type": "container", "constraints": ["node.role==manager"]}),
    ("networks", {"type": "container", "networks": ["blue"]}),
    ("secrets", {"type": "container", "secrets": ["key"]}),
    ("ports", {"type": "container", "ports": ["8080:80"]}),
    ("replicas", {"type": "container", "replicas": 2}),
    ("volumes", {"volumes": ["/:/host"]}),
    ("volumes", {"volumes": ["/proc/1/root:/host"]}),
    ("volumes", {"volumes": ["/srv/../etc:/host"]}),
    ("volumes", {"volumes": ["data:/proc"]}),
    ("volumes", {"volumes": ["data:/a,volume-opt=o=bind:ro"]}),
    ("volumes", {"volumes": [{"type": "npipe", "target": "/x"}]}),
    ("volumes", {"volumes": [{"source": "data", "target": "/x", "volume": {"driver_opts": {"device": "/"}}}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": "/srv", "target": "/x", "bind": {"propagation": "shared"}}]}),
    ("tmpfs", {"tmpfs": ["/sys"]}),
    ("tmpfs", {"tmpfs": ["/run:exec,suid,dev"]}),
    ("configs", {"configs": [{"ConfigID": "x"}]}),
    ("configs", {"configs": ["other"], "type": "container"}),
    ("extra_hosts", {"extra_hosts": ["registry:evil.example"]}),
    ("extra_hosts", {"extra_hosts": ["a\nb:10.0.0.1"]}),
    ("dns", {"dns": ["evil.example"]}),
    ("hostname", {"hostname": "{{.Node.ID}}"}),
    ("ulimits", {"ulimits": [{"Name": "nofile", "Soft": 1}]}),
    ("ulimits", {"ulimits": {"evil": 1}}),
    ("mode", {"mode": "replicated-job"}),
    ("stop_signal", {"stop_signal": "SIGKILL; x"}),
    ("gpus", {"gpus": [{"Count": -1}], "type": "container"}),
    ("gpus", {"gpus": "all"}),
    ("stdin", {"stdin": "x"}),
    ("generic_resources", {"generic_resources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]}),
]

# Host folders that the server does not name, to the root token too.
OF_THE_HOST: list[Json] = [
    {"volumes": ["/var/run/docker.sock:/var/run/docker.sock"]},
    {"volumes": ["/etc:/host:ro"], "type": "container"},
    {"volumes": [{"type": "bind", "source": "/run", "target": "/host"}]},
]

# As bytes: what no JSON library writes.
NO_REQUEST: list[tuple[str, bytes, str]] = [
    ("NaN", b'{"image": "busybox", "cpus": NaN}', "the body is not valid JSON"),
    ("infinity", b'{"image": "busybox", "cpus": Infinity}', "the body is not valid JSON"),
    ("minus infinity", b'{"image": "busybox", "memory": -Infinity}', "the body is not valid JSON"),
    ("beyond a float", b'{"image": "busybox", "cpus": 1e999}', ""),
    ("a number with a plus", b'{"image": "busybox", "cpus": +1}', "the body is not valid JSON"),
    ("hexadecimal", b'{"image": "busybox", "memory": 0x40}', "the body is not valid JSON"),
    ("a key twice", b'{"image": "busybox", "image": "evil"}', "the body has the key 'image' twice"),
    ("a cap twice", b'{"image": "busybox", "memory": 64, "memory": 6400}', "the body has the key 'memory' twice"),
    ("a label twice", b'{"image": "busybox", "labels": {"a": "1", "a": "2"}}', "the body has the key 'a' twice"),
    ("a key in disguise", b'{"image": "busybox", "\\u0070rivileged": true}', "unknown field 'privileged'"),
    ("a key that ends early", b'{"image": "busybox", "memory\\u0000": 6400}', "unknown field "),
    ("a comment", b'{"image": "busybox"} // "memory": 6400', "the body is not valid JSON"),
    ("two documents", b'{"image": "busybox"}{"privileged": true}', "the body is not valid JSON"),
    ("a list", b'[{"image": "busybox"}]', "the body is not a JSON object"),
    ("a form", b"image=busybox&privileged=true", "the body is not valid JSON"),
    ("another encoding", '{"image": "busybox"}'.encode("utf-16"), "the body is not valid JSON"),
    ("no UTF-8", b'{"image": "busy\xffbox"}', "the body is not valid JSON"),
    ("half a character", b'{"image": "busybox", "name": "\\ud800"}', "the body is not valid JSON"),
]


def to_everyone() -> Iterator[Attempt]:
    for name, value in UNKNOWN.items():
        yield Attempt(f"field {name}", f"unknown field {quote(name)}", fields(**{name: value}))
    for field, values in NOT_A_VALUE:
        yield Attempt(f"{field} {json.dumps(values)[:60]}", field, {**IMAGE, **values})
    for values in OF_THE_HOST:
        yield Attempt(f"host {json.dumps(values)[:60]}", "--bind-mounts: ", {**IMAGE, **values}, status=403)
    for name, raw, says in NO_REQUEST:
        yield Attempt(f"body: {name}", says, raw)
    for name in ("force", "all", "signal", "type", "owner", "v"):
        yield Attempt(f"stop with {name}", f"unknown field '{name}'", {"id": OF_ROOT, name: True}, "/stop")
    for value in (None, "", 1, [OF_ROOT], {"$ne": ""}, "a" * 256):
        yield Attempt(f"stop {json.dumps(value)[:20]}", "id: ", {"id": value}, "/stop")
    for query in ("privileged=1", "fromImage=evil", "name=x", "X-Registry-Auth=x"):
        yield Attempt(f"query {query}", "unknown query parameter", IMAGE, f"/run?{query}")
    for query in ("filters={}", "all=yes", "size=1", "label=", "limit=-1", "limit=99999", "by=bob", "status=any"):
        yield Attempt(f"listing {query}", "", None, f"/status?{query}")


# --- what a limited token may not -------------------------------------------------------------------------------------

FORBIDDEN: list[tuple[str, Json]] = [
    ("images", {"image": "alpine"}),
    ("images", {"image": "busybox2"}),
    ("images", {"image": "docker.io/team/busybox"}),
    ("images", {"image": "docker.io/busybox/busybox"}),
    ("images", {"image": "registry.example.com/busybox"}),
    ("images", {"image": "registry.example.com/library/busybox"}),
    ("images", {"image": "docker.io:443/library/busybox"}),
    ("images", {"image": "localhost/library/busybox"}),
    ("images", {"image": "localhost:5000/busybox"}),
    ("images", {"image": "127.0.0.1:5000/library/busybox"}),
    ("images", {"image": "[::1]:5000/busybox"}),
    ("images", {"image": "DOCKER.IO/library/busybox"}),
    ("images", {"image": "Docker/library/busybox"}),
    ("images", {"image": "docker.io.evil.example/library/busybox"}),
    ("images", {"image": "evil.example/docker.io/library/busybox"}),
    ("images", {"image": "docker.io/docker.io/library/busybox"}),
    ("images", {"image": "docker-io/library/busybox"}),
    ("images", {"image": "xn--dckr-5ta.io/library/busybox"}),
    ("images", {"image": "index.docker.io/team/app:2"}),
    ("images", {"image": "team/app"}),
    ("images", {"image": "team/app:2.0"}),
    ("images", {"image": "team/app:11.0"}),
    ("images", {"image": "team/app/sub:1.0"}),
    ("images", {"image": f"team/app@sha256:{SHA}"}),
    ("images", {"image": f"team/app:1.0@sha256:{SHA}"}),
    ("images", {"image": "registry.example.com:5000/team"}),
    ("images", {"image": "registry.example.com:5000/teams/app"}),
    ("images", {"image": "registry.example.com:50000/team/app"}),
    ("images", {"image": "registry.example.com/team/app"}),
    ("images", {"image": "Registry.example.com:5000/team/app"}),
    ("images", {"image": "registry.example.com-x:5000/team/app"}),
    ("images", {"image": "1" * 12}),
    ("max_memory", {"memory": 65}),
    ("max_memory", {"memory": 16 * 1024 * 1024}),
    ("max_memory", {"memory": 65, "type": "container"}),
    ("max_cpus", {"cpus": 0.5000001}),
    ("max_cpus", {"cpus": 1}),
    ("max_cpus", {"cpus": 10_000}),
    ("max_cpus", {"cpus": 1, "type": "container"}),
    ("max_replicas", {"replicas": 3}),
    ("max_replicas", {"replicas": 10_000}),
    ("max_pids", {"pids_limit": 0}),
    ("max_pids", {"pids_limit": 1025}),
    ("max_pids", {"pids_limit": 1025, "type": "container"}),
    ("allow_relaxed", {"cap_drop": []}),
    ("allow_relaxed", {"cap_drop": ["NET_RAW", "MKNOD"]}),
    ("allow_relaxed", {"cap_drop": ["NET_ADMIN"], "type": "container"}),
    ("allow_relaxed", {"no_new_privileges": False}),
    ("allow_relaxed", {"no_new_privileges": False, "type": "container"}),
    ("networks", {"networks": ["green"]}),
    ("networks", {"networks": ["blue", "green"]}),
    ("networks", {"networks": ["Blue"]}),
    ("networks", {"networks": ["blu"]}),
    ("networks", {"networks": ["blue2"]}),
    ("networks", {"networks": ["bridge"]}),
    ("networks", {"networks": ["ingress"]}),
    ("networks", {"networks": ["none"]}),
    ("networks", {"networks": ["docker_gwbridge"]}),
    ("networks", {"networks": ["HOST"]}),
    ("secrets", {"secrets": ["bobs-key"]}),
    ("secrets", {"secrets": ["key", "bobs-key"]}),
    ("secrets", {"secrets": ["Key"]}),
    ("secrets", {"secrets": ["ke"]}),
    ("secrets", {"secrets": ["quartermaster-token"]}),
    ("ports", {"ports": ["80:8080"]}),
    ("ports", {"ports": ["22:9000/tcp"]}),
    ("ports", {"ports": ["8081:8080"]}),
    ("ports", {"ports": ["9010:80"]}),
    ("ports", {"ports": ["8999:80/udp"]}),
    ("ports", {"ports": ["8080:80", "9090:9090"]}),
    ("ports", {"ports": ["00022:22"]}),
    ("volumes", {"volumes": ["bobs:/data"]}),
    ("volumes", {"volumes": ["bobs:/data"], "type": "container"}),
    ("resources", {"generic_resources": {"gpu": 1}}),
    ("resources", {"gpus": 1, "type": "container"}),
    ("configs", {"configs": ["bobs"]}),
    ("max_memory", {"shm_size": 65}),
    ("max_memory", {"tmpfs": ["/run:size=65m"]}),
    ("max_replicas", {"mode": "global"}),
    ("name", {"name": "qm-" + "0" * 40}),
    ("name", {"name": "QM-" + "0" * 40}),
    ("name", {"name": "Qm-x", "type": "container"}),
]

# Another's, and nobody's: by its id, its name, a part of them, and in other spellings.
THEIRS = [
    OF_ROOT,
    OF_BOB,
    FOREIGN,
    BOX_OF_BOB,
    "roots",
    "bobs",
    "foreign",
    "bobs-box",
]
ALMOST_THEIRS = [
    "s-of",
    "s-of-roo",
    OF_ROOT.upper(),
    BOX_OF_BOB[:12],
    BOX_OF_BOB[:63],
    "root",
    "bob",
    "BOBS",
    "%62obs",
    "%2Fbobs-box",
    "bobs%20",
    "bobs%00",
    "bobs%3Fforce=1",
    "..%2Fservices%2Fbobs",
    "*",
    "%25",
    "bobs'%20OR%20''='",
    "a" * 300,
]


def to_alice() -> Iterator[Attempt]:
    for rule, values in FORBIDDEN:
        yield Attempt(f"{rule} {json.dumps(values)[:60]}", rule, {**IMAGE, **values}, status=403)
    for name in THEIRS + ALMOST_THEIRS:
        yield Attempt(f"status {name[:20]}", "no service or container has", None, f"/status/{name}", 404)
        yield Attempt(f"logs {name[:20]}", "no service or container has", None, f"/logs/{name}?follow=1", 404)
        if "%" not in name and len(name) < 256:
            yield Attempt(f"stop {name[:20]}", "no service or container has", {"id": name}, "/stop", 404)
    for name in THEIRS:
        yield Attempt(f"wait {name[:20]}", "no service or container has", None, f"/status/{name}?wait=true", 404)
    yield Attempt("nodes", "scopes: this is for the root token only", None, "/nodes", 403)
    yield Attempt("metrics", "scopes: this is for the root token only", None, "/metrics", 403)
    yield Attempt("topic node", "scopes: the topic node is for the root token only", None, "/events?topic=node", 403)
    yield Attempt("topics", "scopes: the topic node is", None, "/events?topic=service,node&service=x", 403)
    yield Attempt("topic twice", "scopes: the topic node is", None, "/events?topic=task&topic=node", 403)


def names(attempt: Attempt) -> str:
    return attempt.name


def check(answer: HTTPResponse, attempt: Attempt) -> None:
    document = json.loads(answer.body)
    assert (answer.code, document["success"]) == (attempt.status, False), document
    assert document["error"].startswith(attempt.says)
    assert TOKEN not in answer.body.decode()


async def make(ask: Ask, who: str, attempt: Attempt) -> HTTPResponse:
    return await ask(who, "GET" if attempt.body is None else "POST", attempt.path, attempt.body)


# --- the tests --------------------------------------------------------------------------------------------------------


def test_there_are_enough_attempts() -> None:
    """So that nobody takes the table for a few examples; each is there once."""
    attempts = [*to_everyone(), *to_alice()]
    assert len({(one.path, repr(one.body)) for one in attempts}) == len(attempts) >= 150


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("who", ["alice", "root"])
async def test_what_the_contract_has_no_word_for_is_refused(ask: Ask, home: InProcess, who: str) -> None:
    """Whoever asks for it; the engine hears nothing."""
    for attempt in to_everyone():
        check(await make(ask, who, attempt), attempt)
        assert home.engine.asked() == [], attempt.name


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_what_a_token_may_not_is_refused(ask: Ask, home: InProcess) -> None:
    """The engine is changed by none of it. It is looked at only where one asks for a run: as for what nobody has."""
    for attempt in to_alice():
        check(await make(ask, "alice", attempt), attempt)
        looks = (
            {"service", "container"} if attempt.name.partition(" ")[0] in ("status", "wait", "logs", "stop") else set()
        )
        assert set(home.engine.asked()) <= looks, attempt.name
        assert not CHANGES & set(home.engine.asked()), attempt.name
        home.engine.forget()


@pytest.mark.slow
@pytest.mark.gen_test(timeout=20)
async def test_a_dry_run_is_refused_as_the_run_is(ask: Ask, home: InProcess) -> None:
    """In the same words, so that it shows what would become of the run."""
    attempts = [one for one in (*to_everyone(), *to_alice()) if one.path == "/run"]
    assert len(attempts) > 100
    for attempt in attempts:
        check(await make(ask, "alice", attempt._replace(path="/run?dry_run=1")), attempt)
        assert home.engine.asked() == [], attempt.name


@pytest.mark.gen_test
async def test_what_is_within_the_limits_is_not_refused(ask: Ask, home: InProcess) -> None:
    """Else the tables above would show nothing."""
    most = fields(memory=64, cpus=0.5, replicas=2, networks=["blue"], secrets=["key"], ports=["8080:80", "9009:1/udp"])
    assert (await ask("alice", "POST", "/run", most)).code == 200
    (made,) = home.engine.created()
    assert made["TaskTemplate"]["ContainerSpec"]["Image"] == f"docker.io/library/busybox:latest@{DIGEST}"
    assert (await ask("bob", "GET", "/status/bobs-box")).code == 200
    assert (await ask("bob", "GET", f"/status/{OF_BOB}")).code == 200
    assert (await ask("root", "GET", "/status/foreign")).code == 200
    assert (await ask("bob", "POST", "/stop", {"id": "bobs"})).code == 200
    assert "end" in home.engine.asked()


@pytest.mark.gen_test
async def test_so_many_may_run_at_once(ask: Ask, home: InProcess) -> None:
    """Also where they are asked for at the same time; what has ended counts no more, nor does another's."""
    first = await ask("alice", "POST", "/run", fields(type="container", name="alices"))
    answers = [ask("alice", "POST", "/run", fields(name=f"n{number}")) for number in range(6)]
    codes = sorted([(await answer).code for answer in answers])
    assert codes == [200, 200, 403, 403, 403, 403]
    assert len(home.engine.created()) == 3
    refused = await ask("alice", "POST", "/run", IMAGE)
    assert json.loads(refused.body)["error"].startswith("max_running: this token may have at most 3 runs")
    home.engine.containers.there = [
        {**raw, "State": {"Status": "exited", "ExitCode": 0}} if raw["Id"] == json.loads(first.body)["id"] else raw
        for raw in home.engine.containers.there
    ]
    await home.look()
    assert (await ask("alice", "POST", "/run", IMAGE)).code == 200


# --- registries -------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
@pytest.mark.parametrize("options", [{"registries": "registry.example.com:5000, index.docker.io"}])
@pytest.mark.parametrize("who", ["alice", "root"])
async def test_images_are_of_the_registries_that_are_allowed(ask: Ask, home: InProcess, who: str) -> None:
    """By the reference as Docker reads it, for everyone, before any call; what is run is what was checked."""
    for image in (
        "registry.example.com/team/app",
        "localhost/busybox",
        "localhost:5000/busybox",
        "127.0.0.1/library/busybox",
        "docker.io:443/library/busybox",
        "registry-1.docker.io/library/busybox",
        "docker.io.evil.example/library/busybox",
        "evil.example/docker.io/library/busybox",
        "evil.example:5000/team/app",
        "registry.example.com-5000.evil.example/team/app",
        "Docker.io/library/busybox",
        "REGISTRY.example.com:5000/team/app",
    ):
        for kind in ("service", "container"):
            answer = await ask(who, "POST", "/run", {"image": image, "type": kind})
            error = json.loads(answer.body)["error"]
            assert (answer.code, error.partition(":")[0]) in [(403, "--registries"), (403, "images")], error
            assert home.engine.asked() == []
    for image, as_run in (
        ("busybox", "docker.io/library/busybox:latest"),
        ("registry.example.com:5000/team/app:1", "registry.example.com:5000/team/app:1"),
    ):
        home.engine.forget()
        assert (await ask(who, "POST", "/run", {"image": image, "type": "container"})).code == 200
        (made,) = home.engine.created()
        assert made["Image"] == as_run


# --- what reaches the engine ------------------------------------------------------------------------------------------

# All that Docker is ever asked for, whoever asks.
OF_A_SERVICE = {
    "Name", "Labels", "Mode.Replicated.Replicas", "EndpointSpec.Ports[].Protocol", "EndpointSpec.Ports[].PublishedPort",
    "EndpointSpec.Ports[].TargetPort", "EndpointSpec.Ports[].PublishMode", "TaskTemplate.ContainerSpec.Image",
    "TaskTemplate.ContainerSpec.Command[]", "TaskTemplate.ContainerSpec.Args[]", "TaskTemplate.ContainerSpec.Env[]",
    "TaskTemplate.ContainerSpec.Dir", "TaskTemplate.ContainerSpec.User",
    "TaskTemplate.ContainerSpec.Secrets[].SecretID", "TaskTemplate.ContainerSpec.Secrets[].SecretName",
    "TaskTemplate.ContainerSpec.Secrets[].File.Name", "TaskTemplate.ContainerSpec.Secrets[].File.UID",
    "TaskTemplate.ContainerSpec.Secrets[].File.GID", "TaskTemplate.ContainerSpec.Secrets[].File.Mode",
    "TaskTemplate.Resources.Limits.MemoryBytes", "TaskTemplate.Resources.Limits.NanoCPUs",
    "TaskTemplate.Resources.Reservations.MemoryBytes", "TaskTemplate.Resources.Reservations.NanoCPUs",
    "TaskTemplate.RestartPolicy.Condition", "TaskTemplate.RestartPolicy.MaxAttempts",
    "TaskTemplate.RestartPolicy.Delay", "TaskTemplate.RestartPolicy.Window",
    *(f"TaskTemplate.LogDriver.{key}" for key in ("Name", "Options.max-size", "Options.max-file")),
    "TaskTemplate.Resources.Limits.Pids", "TaskTemplate.ContainerSpec.CapabilityDrop[]",
    "TaskTemplate.ContainerSpec.Privileges.NoNewPrivileges", "TaskTemplate.ContainerSpec.Healthcheck.Test[]",
    "TaskTemplate.Placement.Constraints[]", "TaskTemplate.Networks[].Target",
}  # fmt: skip
OF_A_CONTAINER = {
    "Image", "Cmd[]", "Entrypoint[]", "Env[]", "WorkingDir", "User", "Labels", "HostConfig.Memory",
    *(f"HostConfig.LogConfig.{key}" for key in ("Type", "Config.max-size", "Config.max-file")),
    "HostConfig.MemoryReservation", "HostConfig.NanoCpus", "HostConfig.RestartPolicy.Name",
    "HostConfig.RestartPolicy.MaximumRetryCount", "HostConfig.PidsLimit", "HostConfig.CapDrop[]",
    "HostConfig.SecurityOpt[]", "Healthcheck.Test[]",
}  # fmt: skip


def places(value: object, at: str = "") -> Iterator[str]:
    """Where there is something in a document; labels are the caller's own words."""
    if isinstance(value, dict) and at != "Labels":
        for key, each in value.items():
            yield from places(each, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for each in value:
            yield from places(each, f"{at}[]")
    else:
        yield at


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
WORDS = st.lists(TEXT, min_size=1, max_size=3)
EITHER: dict[str, st.SearchStrategy[Any]] = {
    "command": WORDS, "entrypoint": WORDS, "env": st.dictionaries(st.text("AB_.{}", min_size=1, max_size=4), TEXT),
    "labels": st.dictionaries(st.text("ab.-{}", min_size=1, max_size=4), TEXT), "workdir": TEXT.map(lambda t: f"/{t}"),
    "user": st.sampled_from(["0", "root:root", "1000"]), "memory": st.integers(6, 10_000), "cpus": st.floats(0.01, 64),
    "restart": st.sampled_from(["none", "on-failure", "any"]), "timeout": st.floats(0.1, 100), "ttl": st.floats(0, 100),
    "wait": st.booleans(), "name": st.just("mine"), "pids_limit": st.integers(0, 5000),
    "cap_drop": st.sampled_from([[], ["ALL"], ["mknod", "CAP_NET_RAW"]]), "no_new_privileges": st.booleans(),
    "healthcheck": st.booleans(),
}  # fmt: skip
SERVICES: dict[str, st.SearchStrategy[Any]] = {
    **EITHER, "replicas": st.integers(1, 9), "max_attempts": st.integers(1, 9),
    "restart_delay": st.floats(0, 9), "restart_window": st.floats(0, 9), "networks": st.just(["blue"]),
    "constraints": st.just(["node.role==worker"]), "secrets": st.just(["key"]), "ports": st.just(["8080:80", "1:2"]),
}  # fmt: skip
MARK, DEFAULTS = Stamp("mine", "alice", "nonce"), Defaults(250, 10, 10)


@pytest.mark.slow
@steady
@given(st.fixed_dictionaries({"image": st.just("busybox")}, optional=SERVICES))
def test_no_service_asks_docker_for_anything_else(document: Json) -> None:
    """Whatever the request: its spec is made of these words alone."""
    again = {"restart": "any"} if document.keys() & {"max_attempts", "restart_delay", "restart_window"} else {}
    request = requests.convert(document | again, RunRequest)
    objects = Objects(["n1"] * len(request.networks), ["i1"] * len(request.secrets))
    assert set(places(spec.service(request, MARK, "busybox", DEFAULTS, objects))) <= OF_A_SERVICE


@steady
@given(st.fixed_dictionaries({"image": st.just("busybox"), "type": st.just("container")}, optional=EITHER))
def test_no_container_asks_docker_for_anything_else(document: Json) -> None:
    """Nor any container's."""
    assert set(places(spec.container(requests.convert(document, RunRequest), MARK, DEFAULTS))) <= OF_A_CONTAINER
