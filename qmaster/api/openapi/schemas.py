"""The schemas of ``/openapi.json``, from the types of requests, answers and events. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from ...errors import problem
from ...events import cloudevents, frames
from ...models.requests import NOT_SHOWN, RunRequest, StopRequest
from ...models.responses import Accepted, CallbackView, Node, Reason, Service, Status
from ...models.stats import Stats
from . import calls, functions, invocations
from .parts import STRING, STRINGS, ref, with_units

Json = dict[str, Any]

# Go's and Rust's regular expressions have no lookahead. ECMA's "$" needs none: it does not match before a last newline.
_PYTHON_END = r"(?!\n)"

FIELDS: Mapping[str, str] = {
    "image": "Any image reference.",
    "command": "Replaces the image's CMD, not its ENTRYPOINT. A string is split as a shell splits words.",
    "type": "`service`: on any node of the swarm. `container`: on this engine, without a swarm.",
    "auth": "Credentials of a private registry: base64 of Docker's JSON document.",
    "name": "By default the image's name and six letters, such as `busybox-kvtwrq`.",
    "labels": "The prefixes `io.qmaster.` and `com.docker.` are reserved.",
    "env": "Environment variables. No answer shows their values.",
    "workdir": "An absolute path.",
    "user": "`user` or `user:group`, as names or numbers.",
    "entrypoint": "Replaces the image's ENTRYPOINT. If empty, there is none, and the command is the program.",
    "memory": "MiB, or a size such as `512m`: the limit and the reservation.",
    "cpus": "Cores: the limit, and for services the reservation.",
    "replicas": "How many run at once. Services only.",
    "restart": "When a task that ended is restarted; `none` runs it once.",
    "max_attempts": "How often it is restarted. For a container only with `on-failure`.",
    "restart_delay": "Seconds between the end of an attempt and the next, by default Swarm's 5. Services only.",
    "restart_window": "Seconds: `max_attempts` counts the restarts of this long alone. 0: all of them. Services only.",
    "constraints": "The nodes it may run on, for example `node.role==worker`. Services only.",
    "networks": "Names of swarm networks to join. Services only.",
    "secrets": "Names of swarm secrets, mounted in `/run/secrets/`. Services only.",
    "ports": "`8080:80`, `8080:80/udp` or `8080:80/sctp`: the port on every node, then the container's. Services only.",
    "wait": "Seconds, or `true` (60): answer when the run has ended, with its result.",
    "timeout": "Seconds: end the run when it has run that long, counted from the start of its container.",
    "ttl": "Seconds from its end until it is removed; 0: at once. `never`: it stays until it is stopped.",
    "callback": "A URL that gets the event of the run's end, signed. The server's `--callbacks` names where it may be.",
    "mode": "`replicated`, or `global`: one on each node. Services only.",
    "init": "Whether a small init process is the first; by default as the engine has it.",
    "stop_signal": "The signal that asks it to end, such as `SIGINT`.",
    "stop_grace_period": "Seconds that it may take to end before SIGKILL, by default 10.",
    "hostname": "Its host name.",
    "extra_hosts": "`NAME:ADDRESS`, or an object of them, added to `/etc/hosts`.",
    "dns": "Addresses of DNS servers.",
    "read_only": "Whether its file system is read-only, but for its mounts.",
    "tmpfs": "Folders in memory: `/path` or `/path:size=64m,mode=1777`.",
    "shm_size": "MiB of `/dev/shm`.",
    "ulimits": "A name such as `nofile` with a number, or with `soft` and `hard`; -1: no limit.",
    "volumes": "`NAME:/path`, or `/folder:/path` of `--bind-mounts` or below, with `:ro`; or Compose's long form.",
    "configs": "Names of swarm configs, mounted at `/NAME`. Services only.",
    "generic_resources": 'What it reserves of what nodes announce, such as `{"gpu": 2}`. Services only.',
    "gpus": "How many GPUs it gets, or `all`. Containers only.",
    "stdin": "Its standard input. Containers only.",
    "pids_limit": "The most processes and threads, by default 1,024; 0: no limit.",
    "cap_drop": "Linux capabilities to drop, or `ALL`. By default `NET_RAW`, `MKNOD` and `AUDIT_WRITE`.",
    "no_new_privileges": "Whether set-user-id programs gain no privileges. Services need Docker 25 or newer.",
    "healthcheck": "Whether the image's HEALTHCHECK is used. By default it is, unless `restart` is `none`.",
    "pull_policy": "When to ask the registry for it. By default `always` for no tag or `latest`, else `missing`.",
}


def components() -> dict[str, Json]:
    """Return the schemas by name."""
    messages = [
        RunRequest,
        StopRequest,
        *functions.MESSAGES,
        *invocations.MESSAGES,
        Accepted,
        Service,
        CallbackView,
        Node,
        Stats,
        cloudevents.CloudEvent,
        *get_args(frames.Message),
    ]
    _, made = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    schemas: dict[str, Json] = {name: _plain(schema) for name, schema in made.items()}
    for name in ("RunRequest", "StopRequest", "FunctionSpec", "RollbackRequest"):
        schemas[name]["properties"]["token"] = {
            "type": ["string", "null"],
            "description": "Instead of the header `Authorization`.",
        }
    for name, words in FIELDS.items():
        default = made["RunRequest"]["properties"][name].get("default")
        schemas["RunRequest"]["properties"][name]["description"] = words + _default(default)
    functions.add_schemas(schemas, FIELDS)
    invocations.add_schemas(schemas)
    for name in ("RunRequest", "FunctionSpec", "Schedule"):
        schemas[name]["properties"] = with_units(schemas[name]["properties"])
    schemas["Service"]["properties"]["status"] = ref("schemas/Status")
    schemas["Service"]["properties"]["reason"] = {"anyOf": [ref("schemas/Reason"), {"type": "null"}]}
    schemas["RunSpec"] = _spec(schemas["RunRequest"])
    schemas["Service"]["properties"]["spec"] = {"anyOf": [ref("schemas/RunSpec"), {"type": "null"}]}
    schemas["Service"]["required"] = list(schemas["Service"]["properties"])  # an answer has all of them
    schemas["Stats"]["properties"]["success"] = {"type": "boolean", "const": True}
    schemas["Stats"]["required"] = list(schemas["Stats"]["properties"])
    of_runs = _answers(schemas["Service"], schemas.pop("Accepted"))
    of_functions = {**functions.answers(schemas), **calls.SCHEMAS}
    return dict(sorted({**schemas, **of_runs, **of_functions, **_events(schemas)}.items()))


def _spec(request: Json) -> Json:
    """Return the schema of the fields that a run was started with, of which the environment has no values."""
    names = {**STRINGS, "description": "The names of the environment variables."}
    fields = {**request["properties"], "env": names}
    shown = {name: schema for name, schema in fields.items() if name not in {*NOT_SHOWN, "token"}}
    about = "The fields that a run was started with, without those that were left out."
    return {"type": "object", "properties": shown, "required": ["image"], "description": about}


def _answers(service: Json, accepted: Json) -> dict[str, Json]:
    success = {"type": "boolean", "const": True}
    warnings = {
        **accepted["properties"]["warnings"],
        "minItems": 1,
        "description": "Settings of the run that are not in force. Only if there are any.",
    }
    view = {"success": success, **service["properties"]}
    callbacks = {
        **_array("CallbackView"),
        "description": "What became of its callback, at the quartermaster that sends it. Only if it has a `callback`.",
    }
    next_page = {"type": ["string", "null"], "description": "The `page` that goes on; null: there are no more."}
    started = {
        "type": "object",
        "properties": {**view, "warnings": warnings, "callbacks": callbacks},
        "required": accepted["required"],
    }
    return {
        "RunAnswer": {
            **started,
            "dependentRequired": {name: service["required"] for name in service["required"] if name != "id"},
            "description": "With `wait` all fields of `Service`; else `success` and `id`.",
        },
        "StatusAnswer": {
            "type": "object",
            "properties": {**view, "callbacks": callbacks},
            "required": list(view),
            "description": "A `Service` with `success`.",
        },
        "DryRun": {
            **_object(success=success, dry_run=success, image=STRING, spec=ref("schemas/RunSpec"), warnings=STRINGS),
            "description": "What would be run, with the image's digest if the registry was asked; nothing was started.",
        },
        "StopAnswer": _object(success=success, id=accepted["properties"]["id"]),
        "ListAnswer": _object(success=success, cursor=STRING, services=_array("Service"), next_page=next_page),
        "NodesAnswer": _object(success=success, cursor=STRING, nodes=_array("Node")),
        "Alive": _object(success=success, status={"type": "string", "const": "alive"}),
        "Ready": _object(success=success, status={"type": "string", "const": "ready"}),
        "Status": {"type": "string", "enum": list(get_args(Status))},
        "Reason": {"type": "string", "enum": list(get_args(Reason))},
        "Problem": _problem(),
    }


def _events(schemas: Mapping[str, Json]) -> dict[str, Json]:
    """Return the schemas of events. The data of a task's event is its service's, with the task that changed."""
    service = schemas["Service"]["properties"]
    moved = {name: value for name, value in service.items() if name not in cloudevents.ASIDE}
    kinds = ("ServiceEvent", "NodeEvent", "TaskEvent", "FunctionEvent", "InvocationEvent")
    service_events = [f"{cloudevents.PREFIX}service.{word}" for word in cloudevents.SERVICE_EVENTS]
    node_events = [f"{cloudevents.PREFIX}node.{word}" for word in cloudevents.NODE_EVENTS]
    function_events = [f"{cloudevents.PREFIX}function.{word}" for word in cloudevents.FUNCTION_EVENTS]
    invocation_events = [f"{cloudevents.PREFIX}invocation.{word}" for word in cloudevents.INVOCATION_EVENTS]
    states = {"type": "string", "pattern": r"^io\.qmaster\.task\.[a-z]+$"}
    event = schemas["CloudEvent"]
    return {
        "MovedTask": _object(**moved, task=ref("schemas/Task")),
        "ServiceEvent": _event(event, {"type": "string", "enum": service_events}, "Service"),
        "TaskEvent": _event(event, states, "MovedTask"),
        "NodeEvent": _event(event, {"type": "string", "enum": node_events}, "Node"),
        "FunctionEvent": _event(event, {"type": "string", "enum": function_events}, "FunctionVersion"),
        "InvocationEvent": _event(event, {"type": "string", "enum": invocation_events}, "InvocationView"),
        "CloudEvent": {"anyOf": [ref(f"schemas/{kind}") for kind in kinds], "description": "A CloudEvent 1.0."},
        "Frame": {
            "oneOf": [ref(f"schemas/{kind.__name__}") for kind in get_args(frames.Message)],
            "description": "A message of `/events`.",
        },
    }


def _event(event: Json, kind: Json, data: str) -> Json:
    own = {"type": kind, "data": ref(f"schemas/{data}")}
    return {**event, "properties": {**event["properties"], **own}}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(name: str) -> Json:
    return {"type": "array", "items": ref(f"schemas/{name}")}


def _default(default: Any) -> str:
    if not default:
        return ""
    return f" Default: `{default if isinstance(default, str) else msgspec.json.encode(default).decode()}`."


def _plain(value: Any) -> Any:
    """Return one of msgspec's schemas without what only Python understands.

    Titles go, which repeat the schemas' names; and defaults: many generators make a field with one required.
    """
    if isinstance(value, dict):
        plain = {key: _plain(each) for key, each in value.items() if key not in ("default", "title")}
        if "enum" in plain:
            words = plain.pop("enum")
            plain = {"type": "string", **plain, **({"enum": words} if len(words) > 1 else {"const": words[0]})}
        return plain
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.replace(_PYTHON_END, "").replace("``", "`") if isinstance(value, str) else value


def _problem() -> Json:
    fields: Json = dict.fromkeys(problem(400, "", ""), STRING)
    code = {"type": "integer", "minimum": 400, "maximum": 599}
    fields |= {"success": {"type": "boolean", "const": False}, "code": code, "status": code}
    fields["type"] = {"type": "string", "const": "about:blank"}
    return {**_object(**fields), "description": "Every error, by RFC 9457 and with `success`, `error` and `code`."}
