"""Functions: their names, specs and versions, decoded and checked, and the views of them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..errors import BadRequest, NotFound, PayloadTooLarge
from .requests import MIN_TIMEOUT, RunFields, RunRequest, convert
from .responses import Time
from .schedules import INSTEAD as SCHEDULE_INSTEAD
from .schedules import MAX_SCHEDULES, Schedule, ScheduleView
from .units import numbers
from .urls import MAX_URL, check_url
from .validation import answer, quote, squeezed

T = TypeVar("T")

MAX_NAME = 48  # characters: a config's name has at most 64, of which quartermaster needs some
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,46}[a-z0-9])?")
NAMES = "up to 48 of a-z, 0-9, - and _, with a letter or digit at both ends"
LATEST: Final = "$LATEST"
MAX_INSTANCES = 1000
MAX_CONCURRENCY = 1000
MAX_QUEUE = 100_000
MAX_RETRIES = 10
MAX_AGE = 7 * 86_400  # seconds
MAX_CALL = 86_400  # seconds
# Set by quartermaster for every instance.
OWN_ENV = frozenset(
    {
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_MAX_CONCURRENCY",
        "AWS_LAMBDA_RUNTIME_API",
    }
)

MAX_INPUT = 24 * 1024  # bytes of a job's input
INPUT, INVOCATION = "QMASTER_INPUT", "QMASTER_INVOCATION"  # set for every job
OWN_ENV_OF_JOBS = frozenset({INPUT, INVOCATION})

Runtime = Literal["lambda", "job"]
Url = Literal["none", "token", "public"]
Seconds = Annotated[float, Meta(ge=MIN_TIMEOUT, le=MAX_CALL)]

_NO_AUTH = "not supported, as later instances need it too; the server's --registry-auth-file has the credentials"
_REPLACED = "not needed: an instance that ends is replaced when there are calls"
_CALLED = "not supported: an instance asks for its calls; use url for a function URL"
# Words of /run, of Lambda and of Knative, in lower case without - and _; before those of ``ANSWERS``.
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(
        ("auth", "registryauth", "withregistryauth", "xregistryauth", "credentials", "imagepullsecrets"), _NO_AUTH
    ),
    **dict.fromkeys(
        ("wait", "detach", "background", "async"), "not supported: publishing starts no call; use POST …/invoke"
    ),
    **dict.fromkeys(
        ("replicas", "scale", "parallelism", "completions", "instances", "count", "deploy", "mode", "autoscaling"),
        "use min_instances and max_instances",
    ),
    **dict.fromkeys(("minreplicas", "minscale", "provisionedconcurrency", "warm"), "use min_instances"),
    **dict.fromkeys(
        ("maxreplicas", "maxscale", "reservedconcurrency", "reservedconcurrentexecutions"), "use max_instances"
    ),
    **dict.fromkeys(
        ("restart", "maxattempts", "restartpolicy", "restartcondition", "restartmaxattempts", "maximumretrycount"),
        _REPLACED,
    ),
    **dict.fromkeys(("backofflimit", "restartdelay", "restartwindow"), _REPLACED),
    **dict.fromkeys(
        ("ports", "publish", "publishall", "portbindings", "publishedports", "endpointspec", "expose", "exposedports"),
        _CALLED,
    ),
    **dict.fromkeys(("containerport", "port"), _CALLED),
    **dict.fromkeys(("ttl", "rm", "autoremove", "remove", "ttlsecondsafterfinished"), "use idle"),
    **dict.fromkeys(("idletimeout", "scaledowndelay", "scaletozero"), "use idle: seconds without a call"),
    "type": "not supported: an instance is a service",
    **dict.fromkeys(
        ("name", "functionname", "containername", "servicename", "jobname", "generatename"),
        "not supported here: the name is in the path",
    ),
    **dict.fromkeys(
        ("tty", "stdin", "interactive", "openstdin", "stdinopen", "attach"), "not supported: the input is a call's body"
    ),
    **dict.fromkeys(("handler", "imageconfig"), 'use command, such as ["app.handler"]'),
    **dict.fromkeys(("imageuri", "packagetype", "code", "zipfile", "s3bucket"), "use image"),
    "memorysize": "use memory",
    **dict.fromkeys(("gpus", "gpu", "devicerequests"), "use generic_resources"),
    **dict.fromkeys(("layers", "filesystemconfigs"), "not supported; put files into the image"),
    **dict.fromkeys(("description", "tags"), "use labels"),
    "dryrun": "not supported: the same spec again changes nothing",
    **dict.fromkeys(("role", "vpcconfig", "tracingconfig", "snapstart", "ephemeralstorage"), "not supported"),
    "architectures": "not supported; use constraints, such as node.platform.arch==x86_64",
    "containerconcurrency": "use concurrency",
    **dict.fromkeys(("activedeadlineseconds", "deadline", "maxruntime", "timeoutseconds"), "use timeout"),
    **dict.fromkeys(("startuptimeout", "initdurationtimeout"), "use init_timeout"),
    **dict.fromkeys(("queuesize", "maxqueue"), "use queue"),
    **dict.fromkeys(("functionurl", "functionurlconfig", "authtype"), "use url"),
    **dict.fromkeys(("maxretryattempts", "maximumretryattempts", "maxretries", "attempts", "retry"), "use retries"),
    **dict.fromkeys(("maximumeventageinseconds", "eventage"), "use max_age"),
    **dict.fromkeys(("retryinterval", "backoff"), "use retry_delay"),
    **dict.fromkeys(("schedule", "cron", "crontab", "timer", "timezone"), "use schedules: a list, each with cron"),
    **dict.fromkeys(
        ("suspend", "concurrencypolicy", "startingdeadlineseconds"), "use schedules: a list, each with cron"
    ),
    **dict.fromkeys(
        ("callback", "callbackurl", "destinationconfig", "webhook", "notify"), "use on_success and on_failure"
    ),
}


# The fields that only instances have, with their defaults.
NOT_OF_JOBS: Mapping[str, float] = {"min_instances": 0, "concurrency": 1, "idle": 300.0, "init_timeout": 30.0}


class FunctionSpec(RunFields, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of ``PUT /functions/{name}``, without the token. Times are seconds; limits are of each quartermaster."""

    runtime: Runtime = "lambda"
    min_instances: Annotated[int, Meta(ge=0, le=MAX_INSTANCES)] = 0
    max_instances: Annotated[int, Meta(ge=1, le=MAX_INSTANCES)] = 10
    concurrency: Annotated[int, Meta(ge=1, le=MAX_CONCURRENCY)] = 1
    idle: Seconds = 300.0
    timeout: Seconds = 60.0
    init_timeout: Seconds = 30.0
    queue: Annotated[int, Meta(ge=0, le=MAX_QUEUE)] = 100
    retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES)] = 2
    max_age: Annotated[float, Meta(ge=1, le=MAX_AGE)] = 21_600.0
    retry_delay: Seconds = 60.0
    url: Url = "none"
    schedules: Annotated[list[Schedule], Meta(max_length=MAX_SCHEDULES)] = msgspec.field(default_factory=list)
    on_success: Annotated[str, Meta(max_length=MAX_URL)] | None = None
    on_failure: Annotated[str, Meta(max_length=MAX_URL)] | None = None

    def __post_init__(self) -> None:
        self.request()
        if self.runtime == "job":
            self._check_job()
        for field, url in (("on_success", self.on_success), ("on_failure", self.on_failure)):
            if url is not None:
                check_url(field, url)
        if self.min_instances > self.max_instances:
            raise ValueError(f"min_instances: expected at most max_instances, {self.max_instances}")
        for name in sorted((OWN_ENV_OF_JOBS if self.runtime == "job" else OWN_ENV) & self.env.keys()):
            raise ValueError(f"env: {name} is set by quartermaster; leave it out")

    def _check_job(self) -> None:
        for field, default in NOT_OF_JOBS.items():
            if getattr(self, field) != default:
                raise ValueError(
                    f"{field}: not supported with runtime job, as each call is a run of its own; leave it out"
                )

    def request(self, name: str | None = None, image: str | None = None) -> RunRequest:
        """Return the run of an instance.

        Args:
            name: of the service; None: quartermaster chooses one.
            image: the pinned reference; None: that of the spec.

        Raises:
            ValueError: a field is wrong; the message names it.
        """
        shared = {field: getattr(self, field) for field in RunFields.__struct_fields__}
        return RunRequest(**shared | {"image": image or self.image, "name": name})

    def shown(self) -> dict[str, Any]:
        """Return the spec as JSON values, with the names of the environment's variables but not their values."""
        return {**msgspec.to_builtins(self), "env": sorted(self.env)}

    def __repr__(self) -> str:  # the default shows env
        return f"FunctionSpec(image={self.image!r})"


class RollbackRequest(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The body of ``POST /functions/{name}/rollback``, without the token."""

    version: Annotated[int, Meta(ge=1)]


class InstanceCounts(Struct, frozen=True, kw_only=True):
    """How many instances of a function this quartermaster has, by state."""

    starting: int = 0
    idle: int = 0
    busy: int = 0


class FunctionError(Struct, frozen=True, kw_only=True):
    """Why an instance did not start, or a call failed."""

    time: Time
    reason: str
    message: str


class FunctionStats(Struct, frozen=True, kw_only=True):
    """What this quartermaster does for a function now."""

    instances: InstanceCounts = InstanceCounts()
    queued: int = 0
    last_errors: list[FunctionError] = []
    schedules: list[ScheduleView] = []


class FunctionVersion(Struct, frozen=True, kw_only=True):
    """A version of a function: what was published, when and by whom. ``spec`` has no values of the environment."""

    name: str
    version: int
    image: str
    owner: str
    published_at: Time
    spec: dict[str, Any]


class Function(FunctionVersion, frozen=True, kw_only=True):
    """A function: its newest version, its instances and calls at this quartermaster, and its ticks."""

    instances: InstanceCounts = InstanceCounts()
    queued: int = 0
    last_errors: list[FunctionError] = []
    schedules: list[ScheduleView] = []


class Version(Struct, frozen=True, kw_only=True):
    """A version of a function.

    Attributes:
        id: the config's id, which its instances carry: a version that was deleted and published again has another.
        function: the function's name.
        number: from 1.
        spec: as it was published; ``spec.image`` is what a token's ``images`` are compared with.
        image: the pinned reference, which instances run.
        owner: the name of the publisher's token.
        published_at: RFC 3339.
    """

    id: str
    function: str
    number: int
    spec: FunctionSpec
    image: str
    owner: str
    published_at: str

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"version {self.number} of the function {self.function!r}"

    def view(self) -> FunctionVersion:
        """Return the view; the environment has no values."""
        return FunctionVersion(**self.fields())

    def fields(self) -> dict[str, Any]:
        """Return the fields of the view."""
        return {
            "name": self.function,
            "version": self.number,
            "image": self.image,
            "owner": self.owner,
            "published_at": self.published_at,
            "spec": self.spec.shown(),
        }


def check_name(name: str) -> str:
    """Return the name of a function that is to be published.

    Raises:
        BadRequest: it cannot be one.
    """
    if not NAME.fullmatch(name):
        raise BadRequest(f"name: expected {NAMES}; got {quote(name)}")
    return name


def read_input(payload: bytes) -> str:
    """Return the input of a job as text.

    Raises:
        PayloadTooLarge: it is over ``MAX_INPUT`` bytes.
        BadRequest: it cannot be the value of an environment variable.
    """
    if len(payload) > MAX_INPUT:
        raise PayloadTooLarge(f"the input of a job has at most {MAX_INPUT} bytes; got {len(payload)}")
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise BadRequest("the input of a job has to be UTF-8; send bytes as base64") from None
    if "\0" in text:
        raise BadRequest("the input of a job cannot have NUL characters; send bytes as base64")
    return text


def read_spec(document: dict[str, Any]) -> FunctionSpec:
    """Check the decoded body of ``PUT /functions/{name}``.

    Raises:
        BadRequest: a field is wrong, unknown or missing; the message names it.
    """
    schedules = document.get("schedules")
    if isinstance(schedules, list) and len(schedules) <= MAX_SCHEDULES:
        is_job = document.get("runtime") == "job"
        read = [_read_schedule(place, each, is_job) for place, each in enumerate(schedules)]
        document = document | {"schedules": read}
    spec = convert(document, FunctionSpec, _instead)
    if spec.schedules and not spec.queue:  # not checked of what is published: earlier versions allowed it
        raise BadRequest("queue: 0 takes no asynchronous calls, which those of schedules are; expected at least 1")
    return spec


def read_qualifier(name: str, qualifier: str | None) -> int | None:
    """Return the number of a version, None for the newest.

    Raises:
        NotFound: no version can have this qualifier.
    """
    if qualifier in (None, "", LATEST):
        return None
    if not (qualifier.isascii() and qualifier.isdigit() and len(qualifier) < 10):
        raise NotFound(f"the function {quote(name)} has no version {quote(qualifier)}")
    return int(qualifier)


def _read_schedule(place: int, document: Any, is_job: bool) -> Any:
    """Check a schedule by itself, so that the error names its place and its field; return it with numbers."""
    if not isinstance(document, dict):
        return document
    try:
        schedule = convert(document, Schedule, lambda word: SCHEDULE_INSTEAD.get(squeezed(word)))
        schedule.check()
        if is_job and len(schedule.payload()) > MAX_INPUT:
            raise ValueError(f"input: that of a job has at most {MAX_INPUT} bytes; got {len(schedule.payload())}")
        return numbers(document, Schedule.__struct_fields__)
    except (BadRequest, ValueError) as error:
        said = str(error)
        between = ": " if said.startswith("unknown field") else "."
        raise BadRequest(f"schedules[{place}]{between}{said}") from None


def _instead(word: str) -> str | None:
    """Return what to use instead of a word of another tool, or of a field that only a run has."""
    own = INSTEAD.get(squeezed(word))
    return own or answer(word, {field: field for field in FunctionSpec.__struct_fields__})
