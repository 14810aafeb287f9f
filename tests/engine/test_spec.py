"""spec: what Docker is asked for, made of known fields alone."""

import json
import re
from typing import Any

import msgspec
import pytest
from contract import DOCUMENT, check_value
from fakes import AUTH, DIGEST, run

from qmaster.engine import spec
from qmaster.engine.labels import OWNER
from qmaster.models import requests
from qmaster.runs.views import run_view

Json = dict[str, Any]
MARK = spec.Stamp("named", "alice", "nonce")
DEFAULTS = spec.Defaults(250)
PINNED = f"busybox@{DIGEST}"
CAPS = ["CAP_NET_RAW", "CAP_MKNOD", "CAP_AUDIT_WRITE"]
HARDENED = {"CapabilityDrop": CAPS, "Privileges": {"NoNewPrivileges": True}, "Healthcheck": {"Test": ["NONE"]}}
HARDENED_HOST = {"PidsLimit": 1024, "CapDrop": CAPS, "SecurityOpt": ["no-new-privileges:true"]}
NOT_OF_THE_IMAGE = {f"io.qmaster.{name}": "" for name in ("key", "body", "timeout", "ttl", "callback", "callback-by")}
LOG_FILES = {"max-size": "20m", "max-file": "5"}
LABELS = {"io.qmaster.managed": "true", "io.qmaster.owner": "alice", "io.qmaster.run": "nonce"}


def started_with(**fields: Any) -> Json:
    """The label of the fields of a run."""
    return {"io.qmaster.spec": json.dumps({"image": "busybox", **fields}, separators=(",", ":"))}


def service(objects: spec.Objects | None = None, **fields: Any) -> Json:
    return spec.service(run(**fields), MARK, PINNED, DEFAULTS, objects or spec.Objects())


def container(**fields: Any) -> Json:
    return spec.container(run(type="container", **fields), MARK, DEFAULTS)


def test_the_least_service() -> None:
    """Pinned, restarted never, hardened, one replica, the default memory reserved, a log that can be read, no more."""
    octets = {"MemoryBytes": 250 * 1024 * 1024}
    assert service() == {
        "Name": "named",
        "Labels": LABELS | started_with(),
        "TaskTemplate": {
            "ContainerSpec": {"Image": PINNED, **HARDENED},
            "Resources": {"Limits": {**octets, "Pids": 1024}, "Reservations": octets},
            "RestartPolicy": {"Condition": "none"},
            "LogDriver": {"Name": "json-file", "Options": LOG_FILES},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {"Ports": []},
    }


def test_the_least_container() -> None:
    """The default memory reserved, restarted never, hardened, a log that can be read, and nothing more."""
    octets = 250 * 1024 * 1024
    assert container() == {
        "Image": "busybox:latest",
        "Labels": NOT_OF_THE_IMAGE | LABELS | started_with(type="container"),
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Memory": octets,
            "MemoryReservation": octets,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": LOG_FILES},
            **HARDENED_HOST,
        },
    }


FULL: Json = {
    "command": "echo 'a b'",
    "entrypoint": ["/bin/sh", "-c"],
    "env": {"A": "1=2", "B": ""},
    "workdir": "/srv",
    "user": "1000:1000",
    "memory": 64,
    "cpus": 0.5,
    "labels": {"team": "data"},
}


def test_an_environment_is_no_template() -> None:
    """Swarm would expand it: what begins a template is sent as one that gives that. A container's is taken as it is."""
    env = {"A": "{{.Node.ID}} {{{b}}}"}
    assert service(env=env)["TaskTemplate"]["ContainerSpec"]["Env"] == ['A={{"{{"}}.Node.ID}} {{"{{"}}{b}}}']
    assert container(env=env)["Env"] == ["A={{.Node.ID}} {{{b}}}"]


def test_a_callback_is_a_label_with_who_sends_it() -> None:
    """Only the quartermaster that accepted the run; a container's image cannot set either."""
    mark = spec.Stamp("name", "alice", "nonce", None, "0a0b0c0d")
    asked = run(callback="https://hooks.example/x")
    shown = {"io.qmaster.callback": "https://hooks.example/x", "io.qmaster.callback-by": "0a0b0c0d"}
    shown |= started_with(callback="https://hooks.example/x")
    body = spec.service(asked, mark, PINNED, spec.Defaults(250), spec.Objects())
    assert body["Labels"] == {**LABELS, **shown}
    assert spec.container(asked, mark, spec.Defaults(250))["Labels"] == {**NOT_OF_THE_IMAGE, **LABELS, **shown}


def test_a_full_service() -> None:
    """Each field at its place in Docker's API; names of networks and secrets as ids."""
    body = service(
        spec.Objects(["id-n"], ["id-s"]),
        **FULL,
        replicas=3,
        restart="on-failure",
        max_attempts=2,
        restart_delay=1.5,
        restart_window=60,
        constraints=["node.role==worker"],
        networks=["backend"],
        secrets=["key"],
        ports=["8080:80", "53:5353/udp"],
    )
    resources = {"MemoryBytes": 64 * 1024 * 1024, "NanoCPUs": 500_000_000}
    assert body["Labels"].items() >= {"team": "data", **LABELS}.items()
    assert body["Mode"] == {"Replicated": {"Replicas": 3}}
    assert body["TaskTemplate"] == {
        "ContainerSpec": {
            "Image": PINNED,
            "Command": ["/bin/sh", "-c"],
            "Args": ["echo", "a b"],
            "Env": ["A=1=2", "B="],
            "Dir": "/srv",
            "User": "1000:1000",
            "Secrets": [
                {
                    "SecretID": "id-s",
                    "SecretName": "key",
                    "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o444},
                }
            ],
            **{key: value for key, value in HARDENED.items() if key != "Healthcheck"},
        },
        "Resources": {"Limits": {**resources, "Pids": 1024}, "Reservations": resources},
        "RestartPolicy": {
            "Condition": "on-failure",
            "MaxAttempts": 2,
            "Delay": 1_500_000_000,
            "Window": 60_000_000_000,
        },
        "Placement": {"Constraints": ["node.role==worker"]},
        "Networks": [{"Target": "id-n"}],
        "LogDriver": {"Name": "json-file", "Options": LOG_FILES},
    }
    assert body["EndpointSpec"]["Ports"] == [
        {"Protocol": "tcp", "PublishedPort": 8080, "TargetPort": 80, "PublishMode": "ingress"},
        {"Protocol": "udp", "PublishedPort": 53, "TargetPort": 5353, "PublishMode": "ingress"},
    ]


def test_a_full_container() -> None:
    """Each field at its place in Docker's API."""
    octets = 64 * 1024 * 1024
    assert container(**FULL) == {
        "Image": "busybox:latest",
        "Cmd": ["echo", "a b"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Env": ["A=1=2", "B="],
        "WorkingDir": "/srv",
        "User": "1000:1000",
        "Labels": {
            "team": "data",
            **NOT_OF_THE_IMAGE,
            **LABELS,
            "io.qmaster.spec": msgspec.json.encode(run(type="container", **FULL).shown()).decode(),
        },
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Memory": octets,
            "MemoryReservation": octets,
            "NanoCpus": 500_000_000,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": LOG_FILES},
            **HARDENED_HOST,
        },
    }


@pytest.mark.parametrize(
    ("asked", "sent"),
    [(["mknod"], ["CAP_MKNOD"]), (["CAP_CHOWN", "Net_Raw"], ["CAP_CHOWN", "CAP_NET_RAW"]), (["all"], ["ALL"])],
)
def test_capabilities_are_sent_in_dockers_spelling(asked: list[str], sent: list[str]) -> None:
    """In any spelling that Docker takes; they replace those that are dropped by default."""
    assert service(cap_drop=asked)["TaskTemplate"]["ContainerSpec"]["CapabilityDrop"] == sent
    assert container(cap_drop=asked)["HostConfig"]["CapDrop"] == sent


def test_a_run_may_be_relaxed() -> None:
    """Any number of processes, Docker's own capabilities, and privileges from set-user-id programs."""
    relaxed: Json = {"pids_limit": 0, "cap_drop": [], "no_new_privileges": False}
    template = service(**relaxed)["TaskTemplate"]
    assert "Pids" not in template["Resources"]["Limits"]
    assert not template["ContainerSpec"].keys() & {"CapabilityDrop", "Privileges"}
    host = container(**relaxed)["HostConfig"]
    assert host["PidsLimit"] == 0
    assert not host.keys() & {"CapDrop", "SecurityOpt"}


@pytest.mark.parametrize(
    ("fields", "off"),
    [
        ({}, True),
        ({"healthcheck": True}, False),
        ({"healthcheck": False}, True),
        ({"restart": "any"}, False),
        ({"restart": "on-failure"}, False),
        ({"restart": "any", "healthcheck": False}, True),
    ],
)
def test_what_runs_once_is_not_checked_for_health(fields: Json, off: bool) -> None:
    """Unless it asks for it; what restarts is, unless it asks not to be."""
    expected = {"Test": ["NONE"]} if off else None
    assert service(**fields)["TaskTemplate"]["ContainerSpec"].get("Healthcheck") == expected
    assert container(**fields).get("Healthcheck") == expected


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({"restart": "none"}, {"Name": "no", "MaximumRetryCount": 0}),
        ({"restart": "any"}, {"Name": "always", "MaximumRetryCount": 0}),
        ({"restart": "on-failure"}, {"Name": "on-failure", "MaximumRetryCount": 0}),
        ({"restart": "on-failure", "max_attempts": 4}, {"Name": "on-failure", "MaximumRetryCount": 4}),
    ],
)
def test_a_containers_restart_is_in_dockers_words(fields: Json, policy: Json) -> None:
    """Swarm's words and the engine's differ."""
    assert container(**fields)["HostConfig"]["RestartPolicy"] == policy


def test_never_is_no_ttl() -> None:
    """Whatever the default; without a word about it the default holds."""
    for make in (service, container):
        assert "io.qmaster.ttl" not in {key for key, value in make(ttl="never")["Labels"].items() if value}
        assert make(ttl=0)["Labels"]["io.qmaster.ttl"] == "0s"


def test_an_empty_entrypoint_is_one_of_docker_s() -> None:
    """Of one empty word, which switches the image's off."""
    assert service(entrypoint=[], command="true")["TaskTemplate"]["ContainerSpec"]["Command"] == [""]
    assert container(entrypoint="", command="true")["Entrypoint"] == [""]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("beef", "beef:latest"),
        ("beef:1", "beef:1"),
        ("a.example/beef", "a.example/beef:latest"),
        ("localhost:5000/beef", "localhost:5000/beef:latest"),
    ],
)
def test_the_image_of_a_container_has_a_tag(image: str, told: str) -> None:
    """Without one an engine may read it as the beginning of an image's ID."""
    assert container(image=image)["Image"] == told


def test_a_reservation_is_not_the_limits_own_object() -> None:
    """To change one later does not change the other."""
    resources = service()["TaskTemplate"]["Resources"]
    assert resources["Limits"] is not resources["Reservations"]


def test_credentials_are_in_neither_body() -> None:
    """They go in a header: the swarm keeps the spec, and shows it to anyone who may inspect."""
    for body in (service(auth=AUTH), container(auth=AUTH)):
        assert AUTH not in repr(body)
        assert "something" not in repr(body)


def test_a_caller_cannot_take_quartermasters_labels() -> None:
    """Should one ever get past the request's check, the stamp wins."""
    forged = run()
    forged.labels["io.qmaster.owner"] = "root"
    forged.labels["io.qmaster.spec"] = "{}"
    assert spec._labels(forged, MARK, DEFAULTS).items() >= LABELS.items()
    assert "busybox" in spec._labels(forged, MARK, DEFAULTS)["io.qmaster.spec"]


def test_a_run_shows_what_it_was_started_with() -> None:
    """Each field that was given, as it was; no default, no value of the environment, and nothing secret."""
    asked = {**FULL, "networks": ["backend"], "replicas": 3, "pull_policy": "never", "ttl": "never"}
    for body in (service(spec.Objects(["id-n"]), **asked, auth=AUTH, wait=True), container(**FULL, auth=AUTH)):
        shown = msgspec.json.decode(run_view._spec(body["Labels"]))
        given = {"image": "busybox", **(asked if "Name" in body else {**FULL, "type": "container"})}
        assert shown == {**given, "env": ["A", "B"]}


EVERY: Json = {
    "cap_drop": ["ALL"], "no_new_privileges": False, "pids_limit": 0, "healthcheck": True, "init": True,
    "stop_signal": "SIGINT", "stop_grace_period": 2.5, "hostname": "box", "extra_hosts": {"db": "10.0.0.2"},
    "dns": "10.0.0.3", "read_only": True, "tmpfs": ["/run:size=16m"], "shm_size": 64, "configs": ["app"],
    "ulimits": {"nofile": {"soft": 10, "hard": 20}, "core": 0}, "generic_resources": {"gpu": 2}, "gpus": "all",
    "volumes": ["data:/data:ro", {"type": "bind", "source": "/srv", "target": "/srv", "read_only": True}],
    "pull_policy": "always", "constraints": ["node.role==worker"], "networks": ["n"], "secrets": ["s"],
    "type": "container", "mode": "global", "name": "box", "replicas": 2, "restart": "any", "max_attempts": 2,
    "restart_delay": 1.5, "restart_window": 60.0, "ports": ["80:80"], "timeout": 5.0, "ttl": 0.0,
    "callback": "https://hooks.example/x", "image": "busybox:1", **FULL,
}  # fmt: skip


def test_every_field_is_shown_as_it_was_sent() -> None:
    """But of the environment the names; and as the API describes it."""
    assert EVERY.keys() | requests.NOT_SHOWN == set(requests.RunRequest.__struct_fields__)
    for name, value in EVERY.items():
        needs = {
            **({"restart": "any"} if name in ("max_attempts", "restart_delay", "restart_window") else {}),
            **({"type": "container"} if name == "gpus" else {}),
        }
        shown = run(**{name: value, **needs}).shown()
        assert shown[name] == (["A", "B"] if name == "env" else value)
        check_value(DOCUMENT["components"]["schemas"]["RunSpec"], shown)


@pytest.mark.parametrize("label", ["", "[]", "1", "{", "null", '{"a": 1} {}'])
def test_a_label_that_is_no_spec_shows_none(label: str) -> None:
    """Any client of the engine can set one."""
    assert run_view._spec({"io.qmaster.spec": label}) == run_view._spec({}) == msgspec.Raw(b"null")


def test_a_spec_is_valid_json_whatever_the_label_has() -> None:
    """It goes into answers as it is, so it is written anew."""
    assert bytes(run_view._spec({"io.qmaster.spec": ' {"a" : "\\u0001\x7f"} '})) == b'{"a":"\\u0001\x7f"}'


def test_a_label_read_back_is_the_one_that_was_written() -> None:
    """lifecycle shows the owner and the caller's labels."""
    labels = service(labels={"team": "data"})["Labels"]
    assert run_view.own_labels(labels) == {"team": "data"}
    assert labels[OWNER] == "alice"


def test_a_name_that_is_given_is_kept() -> None:
    """Only without one a name is chosen."""
    assert spec.stamp(run(name="mine"), "root").name == "mine"


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("busybox", "busybox"),
        ("registry:5000/team/tool_x:1", "tool-x"),
        (f"ghcr.io/a/b.c--d__e@{DIGEST}", "b-c-d-e"),
        ("team/" + "x" * 100, "x" * 46),
    ],
)
def test_a_name_is_chosen_where_none_is_given(image: str, stem: str) -> None:
    """The image's own last word and six letters: a name that Swarm takes, and that a person can say."""
    name = spec.stamp(run(image=image), "root").name
    assert re.fullmatch(f"{stem}-[a-z]{{6}}", name)
    assert re.fullmatch(requests.NAME, name)


def test_names_and_nonces_are_random() -> None:
    """A nonce tells one creation from all others; of the names few of a thousand may be the same."""
    marks = [spec.stamp(run(), "root") for _ in range(1000)]
    assert len({mark.nonce for mark in marks}) == 1000
    assert len({mark.name for mark in marks}) > 990


# -- instances of functions

MADE = spec.Instance("hello", 3, "config-1", "busybox@sha256:" + "a" * 64, 1, "s3cret", "10.0.0.9", 9091)


def _instance(made: spec.Instance = MADE, **fields: Any) -> dict[str, Any]:
    return spec.instance(run(**fields), spec.instance_stamp(made, "alice"), made, DEFAULTS, spec.Objects())


def _env(body: dict[str, Any]) -> dict[str, str]:
    return dict(each.split("=", 1) for each in body["TaskTemplate"]["ContainerSpec"]["Env"])


def test_an_instance_says_whose_it_is() -> None:
    """Its labels name the function, the version, and the quartermaster that started it."""
    labels = _instance()["Labels"]
    assert labels["io.qmaster.function"] == "hello"
    assert labels["io.qmaster.function-number"] == "3"
    assert labels["io.qmaster.function-version"] == "config-1"
    assert labels["io.qmaster.runtime"] == "10.0.0.9:9091"
    assert labels["io.qmaster.owner"] == "alice"
    assert labels["io.qmaster.ttl"] == "0s"


def test_an_instance_gets_what_lambda_gives() -> None:
    """The environment of a Lambda function; what the spec sets of it stays."""
    env = _env(_instance(command=["app.handler"], memory=128, env={"AWS_REGION": "eu-central-1"}))
    assert env == {
        "AWS_REGION": "eu-central-1",
        "LAMBDA_TASK_ROOT": "/var/task",
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "3",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_RUNTIME_API": "s3cret.qm.internal:9091",
        "_HANDLER": "app.handler",
        "NO_PROXY": ".qm.internal",
        "no_proxy": ".qm.internal",
    }


def test_a_proxy_is_not_asked_for_the_runtime_api() -> None:
    """Whatever else the spec takes out of it."""
    env = _env(_instance(env={"HTTP_PROXY": "http://proxy", "no_proxy": "example.org"}))
    assert env["NO_PROXY"] == env["no_proxy"] == "example.org,.qm.internal"


@pytest.mark.parametrize(("concurrency", "expected"), [(1, None), (8, "8")])
def test_only_several_calls_at_once_are_told(concurrency: int, expected: str | None) -> None:
    """A client that hears of a concurrency of 1 would start a pool of workers."""
    assert _env(_instance(MADE._replace(concurrency=concurrency))).get("AWS_LAMBDA_MAX_CONCURRENCY") == expected


@pytest.mark.parametrize("command", [None, ["python", "app.py"]])
def test_a_command_that_names_no_handler_is_none(command: list[str] | None) -> None:
    """``_HANDLER`` is the only word of a command."""
    assert "_HANDLER" not in _env(_instance(command=command))


def test_the_secret_is_a_host_name_that_leads_to_the_runtime_api() -> None:
    """In the instance's own /etc/hosts; and it is killed at once when it is to end."""
    container = _instance()["TaskTemplate"]["ContainerSpec"]
    assert container["Hosts"] == ["10.0.0.9 s3cret.qm.internal"]
    assert container["StopGracePeriod"] == 0
    assert container["Image"] == MADE.image


@pytest.mark.parametrize("name", ["a", "a--b", "a_-b", "x" * 48])
def test_an_instance_is_named_as_swarm_accepts_it(name: str) -> None:
    """After its function, whose name may have what a service's may not."""
    made = spec.instance_stamp(MADE._replace(function=name), "root").name
    assert re.fullmatch(r"[a-zA-Z0-9]+(?:[-_][a-zA-Z0-9]+)*", made)
    assert len(made) <= 63


# -- jobs of functions

JOB = spec.Job(
    name="qm-job-0123",
    invocation="01-23",
    text='{"a": "{{.Node.ID}}"}',
    function="backup",
    number=3,
    version="config-1",
    image="busybox@sha256:" + "a" * 64,
    runtime="10.0.0.9:9091",
    kept=False,
)


def _job(made: spec.Job = JOB, **fields: Any) -> dict[str, Any]:
    return spec.job(run(**fields), spec.job_stamp(made, "alice"), made, DEFAULTS, spec.Objects())


def test_a_job_is_a_run_of_its_function() -> None:
    """Named after the call; it reaches no runtime API, and is removed as soon as its output is kept."""
    body = _job(timeout=5)
    labels = body["Labels"]
    assert (body["Name"], body["TaskTemplate"]["ContainerSpec"]["Image"]) == ("qm-job-0123", JOB.image)
    assert (labels["io.qmaster.function"], labels["io.qmaster.function-number"]) == ("backup", "3")
    assert (labels["io.qmaster.owner"], labels["io.qmaster.timeout"]) == ("alice", "5s")
    assert labels["io.qmaster.ttl"] == "0s"
    assert labels["io.qmaster.runtime"] == "10.0.0.9:9091"
    assert "io.qmaster.runtime" not in _job(JOB._replace(runtime=""))["Labels"]
    assert "Hosts" not in body["TaskTemplate"]["ContainerSpec"]
    assert body["TaskTemplate"]["RestartPolicy"] == {"Condition": "none"}
    assert _job(JOB._replace(kept=True))["Labels"]["io.qmaster.ttl"] == "86400s"


def test_a_jobs_input_is_no_template() -> None:
    """It comes on top of the environment, whose own limit is not the input's."""
    text = "a" * 24 * 1024
    env = _job(JOB._replace(text=text), env={"LONG": "b" * 30_000})["TaskTemplate"]["ContainerSpec"]["Env"]
    assert env == ["LONG=" + "b" * 30_000, f"QMASTER_INPUT={text}", "QMASTER_INVOCATION=01-23"]
    assert _job()["TaskTemplate"]["ContainerSpec"]["Env"][0] == 'QMASTER_INPUT={"a": "{{"{{"}}.Node.ID}}"}'
