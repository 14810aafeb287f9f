"""Forms of the answers that the commands rely on: another program may answer with any JSON."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import msgspec


class _Answer(TypedDict):
    success: bool


class _Error(_Answer):
    error: str


class _Started(_Answer):
    id: str
    warnings: NotRequired[list[str]]


class _DryRun(_Answer):
    image: str
    spec: dict[str, object]
    warnings: list[str]


class _Replicas(TypedDict):
    desired: int
    running: int


class _LastExit(TypedDict):
    exit_code: int | None
    error: str | None
    finished_at: str | None


class _Task(TypedDict):
    slot: int | None
    node: str | None
    state: str
    exit_code: int | None
    error: str | None
    updated_at: str | None


class _Service(TypedDict):
    id: str
    name: str
    image: str
    command: list[str] | None
    labels: dict[str, str]
    status: str
    reason: str | None
    error: str | None
    exit_code: int | None
    replicas: _Replicas
    created_at: str | None
    timeout: NotRequired[float | None]
    ttl: NotRequired[float | None]
    last_exit: NotRequired[_LastExit | None]
    attempts: NotRequired[list[_LastExit]]
    tasks: list[_Task]


class _Status(_Answer, _Service):
    pass


class _Listing(_Answer):
    services: list[_Service]


class _Reserved(TypedDict):
    memory: int
    cpus: float


class _Node(TypedDict):
    hostname: str
    role: str
    state: str
    availability: str
    engine: str | None
    memory: int
    cpus: float
    reserved: _Reserved
    leader: bool


class _Nodes(_Answer):
    nodes: list[_Node]


class _Line(TypedDict):
    time: str | None
    stream: str
    task: str | None
    line: str
    partial: NotRequired[bool]
    base64: NotRequired[bytes]  # JSON has it as base64


class _Instances(TypedDict):
    starting: int
    idle: int
    busy: int


class _Version(TypedDict):
    name: str
    version: int
    image: str
    owner: str
    published_at: str
    spec: dict[str, object]


class _Schedule(TypedDict):
    cron: str
    time_zone: str
    suspend: bool
    last: str | None
    next: str | None


class _Function(_Version):
    schedules: NotRequired[list[_Schedule]]
    instances: _Instances
    queued: int
    last_errors: list[dict[str, str]]


class _Published(_Answer, _Function):
    warnings: NotRequired[list[str]]


class _Functions(_Answer):
    functions: list[_Function]


class _Versions(_Answer):
    versions: list[_Version]


class _AcceptedCall(_Answer):
    id: str
    status: str


class _Failure(TypedDict):
    type: str
    message: str


class _Attempt(TypedDict):
    started_at: str
    ended_at: str | None
    instance: str | None
    error: _Failure | None


class _Callback(TypedDict):
    url: str
    delivered_at: str | None
    attempts: int
    last_error: str | None


class _Invocation(TypedDict):
    id: str
    function: str
    version: int
    status: str
    created_at: str
    attempts: list[_Attempt]
    error: _Failure | None
    callbacks: list[_Callback]
    output_base64: NotRequired[str]


class _ShownInvocation(_Answer, _Invocation):
    pass


class _Invocations(_Answer):
    invocations: list[_Invocation]
    next_page: str | None


class _Redriven(_Answer):
    redriven: int
    next_page: str | None


FUNCTIONS, INVOCATIONS = "/functions", "/invocations"
DRY_RUN = "/run?dry_run=1"
_ANSWERS = {
    "/run": _Started,
    DRY_RUN: _DryRun,
    "/stop": _Started,
    "/status": _Listing,
    "/nodes": _Nodes,
    FUNCTIONS: _Functions,
    INVOCATIONS: _Invocations,
}
_LINE = msgspec.json.Decoder(_Line)


def check(path: str, document: object, method: str = "GET") -> None:
    """Check the answer of a call.

    Args:
        path: the path of the call, without its query, or ``DRY_RUN``.
        document: the decoded answer.
        method: of the call.

    Raises:
        msgspec.ValidationError: quartermaster does not answer so.
    """
    msgspec.convert(document, _form(path, method))


def _form(path: str, method: str) -> type[_Answer]:
    if path.startswith("/status/"):
        return _Status
    if path.startswith(f"{INVOCATIONS}/"):
        return _ShownInvocation
    if path.startswith(f"{FUNCTIONS}/") and method != "DELETE":
        _, _, action = path.removeprefix(f"{FUNCTIONS}/").partition("/")
        return {"versions": _Versions, "invoke": _AcceptedCall, "redrive": _Redriven}.get(action, _Published)
    return _ANSWERS.get(path, _Answer)


def error(document: object) -> str:
    """Return the message of an answer with an error.

    Raises:
        msgspec.ValidationError: quartermaster does not answer so.
    """
    return msgspec.convert(document, _Error)["error"]


def line(raw: bytes) -> _Line:
    """Decode a line of a log.

    Raises:
        msgspec.DecodeError: it is not JSON, or not a line of a log.
    """
    return _LINE.decode(raw)
