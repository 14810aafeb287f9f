"""Stand-ins for the quick tests: Docker's answers as plain data, and a swarm and containers without an engine."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings

from qmaster.auth.tokens import TokenPolicy, digest
from qmaster.engine.configs import Config, Configs
from qmaster.engine.containers import Containers
from qmaster.engine.services import Swarm
from qmaster.errors import Conflict, EngineRefused, NotFound
from qmaster.models import requests
from qmaster.models.credentials import Credentials
from qmaster.models.requests import PullPolicy, RunRequest

Json = dict[str, Any]

# Drawn cases that are the same in every run, and are not timed: a loaded machine fails no test.
steady = settings(
    max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

CREATED = "2024-05-06T07:08:09.123456789Z"
LATER = "2024-05-06T07:08:19.123456789Z"
DIGEST = "sha256:" + "a" * 64
CONTAINER_ID = "c" * 64


async def until(condition: Callable[[], object], seconds: float = 50) -> None:
    """Wait for a condition that no event tells of. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def run(**fields: Any) -> RunRequest:
    """A request as it is after its check."""
    return requests.convert({"image": "busybox", **fields}, RunRequest)


def encoded(document: Mapping[str, object] | str) -> str:
    """Credentials as a caller sends them."""
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.b64encode(text.encode()).decode()


AUTH = encoded({"username": "someone", "password": "something"})


def service(service_id: str = "s1", name: str = "one", **spec: Any) -> Json:
    """A service as Docker lists it; ``spec`` replaces keys of its ``Spec``."""
    base: Json = {
        "Name": name,
        "Labels": {},
        "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}, "RestartPolicy": {"Condition": "none"}},
        "Mode": {"Replicated": {"Replicas": 1}},
    }
    return {"ID": service_id, "CreatedAt": CREATED, "UpdatedAt": CREATED, "Spec": {**base, **spec}}


def task(state: str, slot: int = 1, *, code: int | None = None, **over: Any) -> Json:
    """A task as Docker lists it; ``code`` its container's exit code, ``err`` and ``at`` of its status."""
    status: Json = {"State": state, "Timestamp": over.pop("at", LATER), "Message": "said"}
    if "err" in over:
        status["Err"] = over.pop("err")
    if code is not None:
        status["ContainerStatus"] = {"ContainerID": CONTAINER_ID, "ExitCode": code}
    return {
        "ID": f"t-{state}-{slot}",
        "ServiceID": "s1",
        "NodeID": "n1",
        "Slot": slot,
        "CreatedAt": CREATED,
        "Version": {"Index": 1},
        "DesiredState": "shutdown",
        "Status": status,
        **over,
    }


def node(node_id: str = "n1", state: str = "ready", hostname: str = "host-1") -> Json:
    return {"ID": node_id, "Description": {"Hostname": hostname}, "Status": {"State": state}}


def container(container_id: str = CONTAINER_ID, name: str = "box", *, ours: bool = True, **over: Any) -> Json:
    """A container as Docker inspects it: one that runs; ``state`` and ``labels`` replace its own."""
    labels = {"io.qmaster.managed": "true", "io.qmaster.owner": "root"} if ours else {}
    state = {"Status": "running", "ExitCode": 0, "StartedAt": CREATED, "FinishedAt": "0001-01-01T00:00:00Z"}
    return {
        "Id": container_id,
        "Name": f"/{name}",
        "Created": CREATED,
        "RestartCount": 0,
        "Config": {"Image": "busybox", "Cmd": ["nap"], "Labels": {**labels, **over.pop("labels", {})}},
        "State": {**state, **over.pop("state", {})},
        "HostConfig": {"Memory": 64 * 1024 * 1024, "NanoCpus": 500_000_000},
        **over,
    }


def grant(name: str = "alice", token: str = "", **limits: Any) -> TokenPolicy:
    """What a token may do: all but what a limit says, of what it started. Its name is its token where none is given."""
    return TokenPolicy(name=name, digest=digest((token or name).encode()), **limits)


class Fake:
    """Keep what it was asked in ``calls``; a name in ``fails`` raises its error.

    A fake is a ``Fake`` and a subclass of the real class whose constructor is not called: mypy then compares what it
    overrides with the real methods, and one that it leaves out fails on its first missing attribute.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Exception] = {}

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def noted(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.fails:
            raise self.fails[name]


def _fresh(stem: str, calls: list[str]) -> str:
    """The first is the stem itself."""
    number = calls.count("create")
    return stem if number == 1 else f"{stem}-{number}"


class FakeSwarm(Fake, Swarm):
    """A swarm that is plain data."""

    def __init__(self, *services: Json, tasks: tuple[Json, ...] = (), nodes: tuple[Json, ...] = ()) -> None:
        super().__init__()
        self.there, self.its_tasks, self.its_nodes = list(services), list(tasks), list(nodes)

    async def pin(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> str:
        self.noted("pin", image, credentials)
        return f"{image}@{DIGEST}"

    async def network_ids(self, names: list[str]) -> list[str]:
        self.noted("network_ids", *names)
        return [f"id-{name}" for name in names]

    async def config_ids(self, names: list[str]) -> list[str]:
        self.noted("config_ids", *names)
        return [f"id-{name}" for name in names]

    async def secret_ids(self, names: list[str]) -> list[str]:
        self.noted("secret_ids", *names)
        return [f"id-{name}" for name in names]

    async def create(self, spec: Json, credentials: Credentials | None) -> str:
        self.noted("create", spec, credentials)
        service_id = _fresh("s-new", self.names())
        self.there.append({**service(service_id, spec["Name"]), "Spec": spec})
        return service_id

    async def service(self, name_or_id: str) -> Json | None:
        self.noted("service", name_or_id)
        return next((raw for raw in self.there if name_or_id in (raw["ID"], raw["Spec"]["Name"])), None)

    async def services(self, *ids: str) -> list[Json]:
        self.noted("services", *ids)
        return [raw for raw in self.there if not ids or raw["ID"] in ids]

    async def tasks(self, *service_ids: str) -> list[Json]:
        self.noted("tasks", *service_ids)
        return [raw for raw in self.its_tasks if not service_ids or raw["ServiceID"] in service_ids]

    async def wanted_tasks(self) -> list[Json]:
        self.noted("wanted_tasks")
        return [raw for raw in self.its_tasks if raw["DesiredState"] == "running"]

    async def end(self, service_id: str, label: str, why: str) -> bool:
        self.noted("end", service_id)
        return True

    async def nodes(self) -> list[Json]:
        self.noted("nodes")
        return list(self.its_nodes)

    async def remove(self, service_id: str) -> None:
        self.noted("remove", service_id)
        self.there = [raw for raw in self.there if raw["ID"] != service_id]


class FakeContainers(Fake, Containers):
    """An engine's containers that are plain data."""

    def __init__(self, *containers: Json) -> None:
        super().__init__()
        self.there = list(containers)

    async def prepare(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> None:
        self.noted("prepare", image, credentials)

    async def check_image(
        self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]
    ) -> str:
        self.noted("check_image", image, credentials)
        return image

    async def create(
        self, config: Json, name: str, credentials: Credentials | None, pull: PullPolicy, stdin: str | None = None
    ) -> str:
        self.noted("create", config, name, credentials)
        container_id = _fresh("c-new", self.names())
        self.there.append(container(container_id, name, ours=False, labels=config["Labels"]))
        return container_id

    async def container(self, name_or_id: str) -> Json | None:
        self.noted("container", name_or_id)
        return next((raw for raw in self.there if name_or_id in (raw["Id"], raw["Name"][1:])), None)

    async def start(self, container_id: str) -> None:
        self.noted("start", container_id)

    async def containers(self) -> list[Json]:
        self.noted("containers")
        ours = [raw for raw in self.there if raw["Config"]["Labels"].get("io.qmaster.managed") == "true"]
        return [{"Id": raw["Id"], "State": raw["State"]["Status"]} for raw in ours]

    async def stop(self, container_id: str) -> None:
        self.noted("stop", container_id)

    async def remove(self, container_id: str) -> None:
        self.noted("remove", container_id)
        self.there = [raw for raw in self.there if raw["Id"] != container_id]


class FakeConfigs(Fake, Configs):
    """A swarm's configs that are plain data."""

    def __init__(self, *configs: Config) -> None:
        super().__init__()
        self.there = {config.id: config for config in configs}
        self._number = len(configs)

    async def create(self, name: str, labels: Mapping[str, str], data: bytes) -> str:
        self.noted("create", name)
        if any(config.name == name for config in self.there.values()):
            raise Conflict(f"config {name} already exists")
        self._number += 1
        made = Config(id=f"config-{self._number}", name=name, labels=dict(labels), data=data, index=self._number)
        self.there[made.id] = made
        return made.id

    async def config(self, name_or_id: str) -> Config | None:
        self.noted("config", name_or_id)
        return next((each for each in self.there.values() if name_or_id in (each.id, each.name)), None)

    async def labelled(self, label: str) -> list[msgspec.Raw]:
        self.noted("labelled", label)
        key, _, value = label.partition("=")
        return [listed(each) for each in self.there.values() if _has(each, key, value)]

    async def relabel(self, config: Config, labels: Mapping[str, str]) -> None:
        self.noted("relabel", config.name)
        there = self.there.get(config.id)
        if there is None:
            raise NotFound(f"config {config.id} not found")
        if there.index != config.index:
            raise EngineRefused("the Docker engine refused: rpc error: code = Unknown desc = update out of sequence")
        self._number += 1
        self.there[config.id] = msgspec.structs.replace(there, labels=dict(labels), index=self._number)

    async def remove(self, config_id: str) -> None:
        self.noted("remove", config_id)
        self.there.pop(config_id, None)


def _has(config: Config, key: str, value: str) -> bool:
    return key in config.labels and value in ("", config.labels[key])


def listed(config: Config) -> msgspec.Raw:
    """A config as Docker lists it."""
    spec = {"Name": config.name, "Labels": config.labels, "Data": base64.b64encode(config.data).decode()}
    return msgspec.Raw(msgspec.json.encode({"ID": config.id, "Version": {"Index": config.index}, "Spec": spec}))
