"""Pure: a validated request → the body of Docker's create calls, built from known fields only.

What is not written here or in ``options`` cannot be requested of Docker: no privileges, no host namespaces.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..models.functions import INPUT, INVOCATION
from ..models.images import Reference
from ..models.requests import NEVER, PIDS_LIMIT, Key, RunRequest, Ttl, entrypoint_words, words
from . import options
from .labels import (
    BODY,
    CALLBACK,
    CALLBACK_BY,
    FUNCTION,
    FUNCTION_NUMBER,
    FUNCTION_VERSION,
    KEY,
    MANAGED,
    MIB,
    OWNER,
    RUN,
    RUNTIME,
    SPEC,
    TIMEOUT,
    TTL,
)

MAX_NAME = 63
LETTERS = "bcdfghjklmnpqrstvwxz"  # without vowels, so that they make no words
NOWHERE = "node.id==none"
KEPT_JOB = 86_400.0  # seconds that an ended job stays whose quartermaster is away
NO_HEALTHCHECK = {"Test": ["NONE"]}

# A container inherits its image's labels unless it sets them itself: an image must not set quartermaster's.
_NOT_OF_THE_IMAGE = dict.fromkeys((KEY, BODY, TIMEOUT, TTL, CALLBACK, CALLBACK_BY), "")
_CONTAINER_RESTART = {"none": "no", "on-failure": "on-failure", "any": "always"}


class Objects(NamedTuple):
    """The ids of the networks, secrets and configs that a request names, in the order of the request."""

    networks: Sequence[str] = ()
    secrets: Sequence[str] = ()
    configs: Sequence[str] = ()


class Defaults(NamedTuple):
    """Defaults of a run: memory in MiB, timeout and ttl in seconds; None: no limit.

    ``bind_mounts`` are the host folders that runs may mount, with those below.
    """

    memory: int
    timeout: float | None = None
    ttl: float | None = None
    bind_mounts: Collection[str] = ()


# Every run sets its log driver: a node's default may be one that Docker cannot read back (`none`, `gelf`), and Swarm
# does not show a node's default. The size limit is that of Docker's `local` driver.
LOG_DRIVER = "json-file"
LOG_OPTIONS = {"max-size": "20m", "max-file": "5"}


class Stamp(NamedTuple):
    """What quartermaster adds to a run.

    Attributes:
        name: of the run.
        owner: the name of the token.
        nonce: identifies this creation.
        key: of the request.
        quartermaster: the id of the one that accepts the run.
    """

    name: str
    owner: str
    nonce: str
    key: Key | None = None
    quartermaster: str = ""


RUNTIME_DOMAIN = "qm.internal"  # the secret of an instance is its host name in this domain
REGION, TASK_ROOT = "local", "/var/task"


class Instance(NamedTuple):
    """What an instance of a function has in addition to a run.

    Attributes:
        function: the function's name.
        number: of the version.
        version: the id of the version's config.
        image: the pinned reference.
        concurrency: how many calls it takes at once.
        secret: what it identifies itself with at the runtime API.
        host: the address of the runtime API.
        port: its port.
    """

    function: str
    number: int
    version: str
    image: str
    concurrency: int
    secret: str
    host: str
    port: int

    @property
    def runtime(self) -> str:
        """What identifies the quartermaster that starts it, also after a restart."""
        return f"{self.host}:{self.port}"


def stamp(request: RunRequest, owner: str, key: Key | None = None, quartermaster: str = "") -> Stamp:
    """Return the stamp of a new run; choose its name if none was given. A chosen name may be taken."""
    name = key.name if key else request.name or f"{_stem(request.image)}-{_letters()}"
    return Stamp(name, owner, _nonce(), key, quartermaster)


def instance_stamp(made: Instance, owner: str) -> Stamp:
    """Return the stamp of a new instance, whose service is named after its function."""
    nonce = _nonce()
    return Stamp(f"{_joined(made.function)}-{nonce}", owner, nonce)


def job_stamp(made: Job, owner: str) -> Stamp:
    """Return the stamp of a new job."""
    return Stamp(made.name, owner, _nonce())


def instance(request: RunRequest, mark: Stamp, made: Instance, defaults: Defaults, objects: Objects) -> dict[str, Any]:
    """Return the body of Docker's ``POST /services/create`` for an instance of a function.

    Its secret is a host name, as clients keep no path, user or scheme of ``AWS_LAMBDA_RUNTIME_API``, but send the name.
    It is removed as soon as its output is kept.
    """
    memory = request.memory or defaults.memory
    request = msgspec.structs.replace(request, env=_instance_environment(request, made, memory), ttl=0.0)
    body = service(request, mark, made.image, defaults, objects)
    body["Labels"] |= {
        FUNCTION: made.function,
        FUNCTION_NUMBER: str(made.number),
        FUNCTION_VERSION: made.version,
        RUNTIME: made.runtime,
    }
    container = body["TaskTemplate"]["ContainerSpec"]
    container["Hosts"] = [f"{made.host} {_host_name(made)}", *container.get("Hosts", ())]
    container.setdefault("StopGracePeriod", 0)  # its calls have ended; Python as the first process ignores SIGTERM
    return body


class Job(NamedTuple):
    """What a call of a function whose runtime is ``job`` has in addition to a run.

    Attributes:
        name: of its service.
        invocation: the id of the call.
        text: the input.
        function: the function's name.
        number: of the version.
        version: the id of the version's config.
        image: the pinned reference.
        runtime: what identifies the quartermaster that starts it, as that of an instance; "" if it is not known.
        kept: whether its quartermaster needs its end after a restart, so that no other removes it before.
    """

    name: str
    invocation: str
    text: str
    function: str
    number: int
    version: str
    image: str
    runtime: str
    kept: bool


def job(request: RunRequest, mark: Stamp, made: Job, defaults: Defaults, objects: Objects) -> dict[str, Any]:
    """Return the body of Docker's ``POST /services/create`` for a call of a function whose runtime is ``job``.

    Its input comes on top of the environment of its function, whose size is limited by itself.
    """
    request = msgspec.structs.replace(request, ttl=KEPT_JOB if made.kept else 0.0)
    body = service(request, mark, made.image, defaults, objects)
    body["Labels"] |= {
        FUNCTION: made.function,
        FUNCTION_NUMBER: str(made.number),
        FUNCTION_VERSION: made.version,
        **({RUNTIME: made.runtime} if made.runtime else {}),
    }
    container = body["TaskTemplate"]["ContainerSpec"]
    given = _not_expanded(_environment({INPUT: made.text, INVOCATION: made.invocation})) or []
    container["Env"] = [*(container.get("Env") or ()), *given]
    return body


def service(request: RunRequest, mark: Stamp, image: str, defaults: Defaults, objects: Objects) -> dict[str, Any]:
    """Return the body of Docker's ``POST /services/create``.

    Args:
        request: the request.
        mark: its name, owner, nonce and key.
        image: the reference to run, with its digest if known.
        defaults: values for what the request leaves out.
        objects: the ids of its networks, secrets and configs.
    """
    resources = _drop_none(
        {
            "MemoryBytes": (request.memory or defaults.memory) * MIB,
            "NanoCPUs": _nano(request.cpus),
        }
    )
    pids = PIDS_LIMIT if request.pids_limit is None else request.pids_limit
    container = _drop_none(
        {
            "Image": image,
            "Command": entrypoint_words(request.entrypoint),
            "Args": words("command", request.command),
            "Env": _not_expanded(_environment(request.env)),
            "Dir": request.workdir,
            "User": request.user,
            "Secrets": [_secret(name, i) for name, i in zip(request.secrets, objects.secrets, strict=True)] or None,
            "CapabilityDrop": request.dropped() or None,
            "Privileges": {"NoNewPrivileges": True} if request.no_new_privileges else None,
            "Healthcheck": None if request.checks_health else NO_HEALTHCHECK,
            **options.of_service(request, objects.configs, defaults.bind_mounts),
        }
    )
    reserved = _drop_none({**resources, "GenericResources": options.generic_resources(request)})
    template = _drop_none(
        {
            "ContainerSpec": container,
            "Resources": {"Limits": {**resources, **({"Pids": pids} if pids else {})}, "Reservations": reserved},
            "RestartPolicy": _restart_policy(request),
            "Placement": {"Constraints": list(request.constraints)} if request.constraints else None,
            "Networks": [{"Target": network} for network in objects.networks] or None,
            "LogDriver": {"Name": LOG_DRIVER, "Options": LOG_OPTIONS},
        }
    )
    return {
        "Name": mark.name,
        "Labels": _labels(request, mark, defaults),
        "TaskTemplate": template,
        "Mode": {"Global": {}} if request.mode == "global" else {"Replicated": {"Replicas": request.replicas}},
        "EndpointSpec": {"Ports": [_port(port) for port in request.ports]},
    }


def container(request: RunRequest, mark: Stamp, defaults: Defaults) -> dict[str, Any]:
    """Return the body of Docker's ``POST /containers/create``."""
    octets = (request.memory or defaults.memory) * MIB
    restart = {"Name": _CONTAINER_RESTART[request.restart], "MaximumRetryCount": request.max_attempts or 0}
    host = {
        "Memory": octets,
        "MemoryReservation": octets,
        "NanoCpus": _nano(request.cpus),
        "RestartPolicy": restart,
        "PidsLimit": PIDS_LIMIT if request.pids_limit is None else request.pids_limit,
        "CapDrop": request.dropped() or None,
        "SecurityOpt": ["no-new-privileges:true"] if request.no_new_privileges else None,
        "LogConfig": {"Type": LOG_DRIVER, "Config": LOG_OPTIONS},
        **options.of_host(request, defaults.bind_mounts),
    }
    return _drop_none(
        {
            "Image": Reference.parse(request.image).explicit(request.image),
            "Cmd": words("command", request.command),
            "Entrypoint": entrypoint_words(request.entrypoint),
            "Env": _environment(request.env),
            "WorkingDir": request.workdir,
            "User": request.user,
            "Healthcheck": None if request.checks_health else NO_HEALTHCHECK,
            **options.of_container(request),
            "Labels": _NOT_OF_THE_IMAGE | _labels(request, mark, defaults),
            "HostConfig": _drop_none(host),
        }
    )


def ending_spec(stored: Mapping[str, Any], label: str, why: str) -> dict[str, Any]:
    """Return a service's stored spec, changed so that Swarm ends all its tasks gracefully and starts no others."""
    template = dict(stored["TaskTemplate"])
    placement = dict(template.get("Placement") or {})
    template["Placement"] = {**placement, "Constraints": [NOWHERE]}
    template["RestartPolicy"] = {**(template.get("RestartPolicy") or {}), "Condition": "none"}
    update = {**(stored.get("UpdateConfig") or {}), "Parallelism": 0, "Delay": 0}
    labels = {**(stored.get("Labels") or {}), label: why}
    return {**stored, "TaskTemplate": template, "UpdateConfig": update, "Labels": labels}


def marked_spec(stored: Mapping[str, Any], label: str, why: str) -> dict[str, Any]:
    """Return a service's stored spec with one more label, which restarts nothing."""
    return {**stored, "Labels": {**(stored.get("Labels") or {}), label: why}}


def _nonce() -> str:
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def _letters() -> str:
    return "".join(LETTERS[byte % len(LETTERS)] for byte in secrets.token_bytes(6))


def _stem(image: str) -> str:
    """Return the readable part of a run's name: ``registry:5000/team/tool_x:1`` → ``tool-x``."""
    return _joined(Reference.parse(image).name.rpartition("/")[2])


def _joined(name: str) -> str:
    """Return a name as Swarm accepts it in front of letters or a nonce."""
    return "-".join(part for part in name.replace("_", "-").replace(".", "-").split("-") if part)[: MAX_NAME - 17]


def _host_name(made: Instance) -> str:
    return f"{made.secret}.{RUNTIME_DOMAIN}"


def _instance_environment(request: RunRequest, made: Instance, memory: int) -> dict[str, str]:
    """Return the environment that Lambda gives a function; what the spec sets comes before defaults."""
    command = words("command", request.command) or []
    asked = request.env
    own = {
        "AWS_LAMBDA_FUNCTION_NAME": made.function,
        "AWS_LAMBDA_FUNCTION_VERSION": str(made.number),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_LAMBDA_RUNTIME_API": f"{_host_name(made)}:{made.port}",
    }
    if made.concurrency > 1:
        own["AWS_LAMBDA_MAX_CONCURRENCY"] = str(made.concurrency)
    if len(command) == 1:
        own["_HANDLER"] = command[0]
    # The runtime API must not be asked for through a proxy that the spec sets.
    direct = {
        name: ",".join(filter(None, (asked.get(name) or asked.get(other), f".{RUNTIME_DOMAIN}")))
        for name, other in (("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY"))
    }
    return {"AWS_REGION": REGION, "LAMBDA_TASK_ROOT": TASK_ROOT, **asked, **own, **direct}


def _labels(request: RunRequest, mark: Stamp, defaults: Defaults) -> dict[str, str]:
    """Return the caller's labels and our own, from which any quartermaster can manage the run."""
    labels = {**request.labels, MANAGED: "true", OWNER: mark.owner, RUN: mark.nonce, SPEC: _shown(request)}
    timeout = defaults.timeout if request.timeout is None else request.timeout
    ttl = _ttl(request.ttl, defaults.ttl)
    if timeout is not None:
        labels[TIMEOUT] = _duration(timeout)
    if ttl is not None:
        labels[TTL] = _duration(ttl)
    if request.callback is not None:
        labels |= {CALLBACK: request.callback, CALLBACK_BY: mark.quartermaster}
    if mark.key is not None:
        labels |= {KEY: mark.key.name, BODY: mark.key.body}
    return labels


def _shown(request: RunRequest) -> str:
    """Return the fields of a request for its label: the engine's own spec has ids, and the defaults of the image."""
    return msgspec.json.encode(request.shown()).decode()


def _ttl(asked: Ttl | None, default: float | None) -> float | None:
    """Return the ttl in seconds; None: never remove the run."""
    if asked is None:
        return default
    return None if asked == NEVER else asked


def _duration(seconds: float) -> str:
    """Format a duration as Docker does: ``1.5s``."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"


def _environment(env: Mapping[str, str]) -> list[str] | None:
    return [f"{key}={value}" for key, value in env.items()] or None


def _not_expanded(environment: list[str] | None) -> list[str] | None:
    """Escape ``{{``, as Swarm expands the environment as Go templates."""
    return None if environment is None else [each.replace("{{", '{{"{{"}}') for each in environment]


def _secret(name: str, secret_id: str) -> dict[str, Any]:
    """Mount a secret as ``docker service create --secret NAME`` does: /run/secrets/NAME, readable by every user."""
    file = {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444}
    return {"SecretID": secret_id, "SecretName": name, "File": file}


def _restart_policy(request: RunRequest) -> dict[str, Any]:
    return _drop_none(
        {
            "Condition": request.restart,
            "MaxAttempts": request.max_attempts,
            "Delay": _nano(request.restart_delay),
            "Window": _nano(request.restart_window),
        }
    )


def _port(text: str) -> dict[str, Any]:
    numbers, _, protocol = text.partition("/")
    published, _, target = numbers.partition(":")
    return {
        "Protocol": protocol or "tcp",
        "PublishedPort": int(published),
        "TargetPort": int(target),
        "PublishMode": "ingress",
    }


def _nano(number: float | None) -> int | None:
    return None if number is None else round(number * 1e9)


def _drop_none(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value is not None}
