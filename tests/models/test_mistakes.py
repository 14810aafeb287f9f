"""What users of docker, Compose and kubectl write at first, each answered with the word to use."""

from typing import Any

import pytest
import tool_words
from commands_cases import fake, qmaster
from fake_server import FakeServer
from validation_cases import RUN, refused

from qmaster.errors import BadRequest
from qmaster.models import validation, words
from qmaster.models.functions import FunctionSpec, read_spec
from qmaster.models.requests import RunRequest

__all__ = ["fake"]  # the fixture

FIELDS = {validation.squeezed(field) for field in RunRequest.__struct_fields__}

MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("docker", {"environment": ["A=1"]}, "unknown field 'environment': use env"),
    ("docker", {"env": ["A=1"]}, 'env: expected an object, got an array; write {"NAME": "value"}'),
    ("docker", {"rm": True}, "unknown field 'rm': use ttl: seconds after its end, 0 for at once"),
    ("docker", {"detach": True}, "unknown field 'detach': not needed, because a run is in the background; wait"),
    ("docker", {"restart": "unless-stopped"}, "restart: expected one of none, on-failure, any; use any instead of"),
    ("docker", {"publish": ["8080:80"]}, "unknown field 'publish': use ports"),
    ("docker", {"privileged": True}, "unknown field 'privileged': not supported, because it could reach the host"),
    ("docker", {"memory": "512"}, "memory: expected an integer (MiB) or a size such as 512m, got '512'"),
    ("docker", {"network": "host"}, "unknown field 'network': did you mean networks?"),
    ("docker", {"registry_auth": "e30="}, "unknown field 'registry_auth': use auth"),
    ("Compose", {"env_file": ".env"}, "unknown field 'env_file': not supported; use env"),
    ("docker", {"mount": "type=bind"}, "unknown field 'mount': use volumes, such as NAME:/path"),
    ("docker", {"gpus": "device=0"}, "gpus: expected an integer, or all, got 'device=0'; write a number or \"all\""),
    ("docker", {"ulimits": ["nofile=1"]}, 'ulimits: expected an object, got an array; write {"nofile": 1024}'),
    ("docker", {"mode": "replicated-job"}, "mode: expected one of replicated, global; use replicated instead of"),
    ("Compose", {"volumes": {"data": {}}}, 'volumes: expected an array, got an object; write ["name:/path"]'),
    ("Compose", {"ulimits": {"nofile": {"soft": 1}}}, "ulimits[...].hard: is required"),
    ("Compose", {"volumes": [{"target": "/a", "type": "x\n"}]}, "volumes[0].type: expected one of volume, bind, tmpfs"),
    ("Compose", {"volumes": [{"target": "/a", "bind": {}}]}, "volumes[0]: unknown field 'bind'; known: type, source,"),
    ("Compose", {"shm_size": "64"}, "shm_size: expected an integer (MiB) or a size such as 512m, got '64'"),
    ("Compose", {"mem_limit": "512m"}, "unknown field 'mem_limit': use memory"),
    ("Compose", {"deploy": {"replicas": 2}}, "unknown field 'deploy': use replicas, restart, restart_delay"),
    ("Compose", {"ports": ["80"]}, "ports[0]: expected PUBLISHED:TARGET, such as 8080:80"),
    ("Compose", {"networks": {"default": {}}}, 'networks: expected an array, got an object; write ["name"]'),
    ("Compose", {"network_mode": "host"}, "unknown field 'network_mode': use networks, the names of swarm networks"),
    ("Compose", {"healthcheck": {"test": "true"}}, "healthcheck: expected a boolean, got an object; it switches"),
    ("Compose", {"timeout": "30"}, "timeout: expected a number (seconds) or a duration such as 1m30s, got '30'"),
    ("Compose", {"depends_on": ["db"]}, "unknown field 'depends_on': not supported: a run is one image"),
    ("Compose", {"working_dir": "/srv"}, "unknown field 'working_dir': use workdir"),
    ("kubectl", {"apiVersion": "batch/v1", "kind": "Job"}, "unknown field 'apiVersion': leave it out"),
    ("kubectl", {"spec": {}}, "unknown field 'spec': write its fields at the top, beside image"),
    ("kubectl", {"args": ["-v"]}, "unknown field 'args': use command"),
    ("kubectl", {"env": [{"name": "A", "value": "1"}]}, 'env: expected an object, got an array; write {"NAME":'),
    ("kubectl", {"env": {"A": 1}}, "env['A']: expected a string, got an integer; write"),
    ("kubectl", {"resources": {"limits": {}}}, "unknown field 'resources': use memory and cpus"),
    ("kubectl", {"limits": {"memory": "1Gi"}}, "unknown field 'limits': use memory and cpus"),
    ("kubectl", {"cpus": "500m"}, "cpus: expected a number (cores), got '500m'"),
    ("kubectl", {"restart": "OnFailure"}, "restart: expected one of none, on-failure, any; use on-failure instead of"),
    ("kubectl", {"pull_policy": "IfNotPresent"}, "pull_policy: expected one of always, missing, never; use missing"),
    ("kubectl", {"imagePullPolicy": "Always"}, "unknown field 'imagePullPolicy': use pull_policy"),
    ("kubectl", {"backoffLimit": 3}, "unknown field 'backoffLimit': use max_attempts with restart"),
    ("kubectl", {"schedule": "@daily"}, "unknown field 'schedule': not supported for a run; publish a function"),
    ("kubectl", {"nodeSelector": {"disk": "ssd"}}, "unknown field 'nodeSelector': use constraints"),
]


@pytest.mark.parametrize(("tool", "fields", "says"), MISTAKES)
def test_a_mistake_is_answered_with_the_word(tool: str, fields: dict[str, Any], says: str) -> None:
    """Of the body of `/run`."""
    assert refused({**RUN, **fields}).startswith(says), tool


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--privileged"], "not supported, because it could reach the host"),
        (["--restart", "always"], "is not one of 'none', 'on-failure', 'any'; use any instead of 'always'"),
        (["--pull=IfNotPresent"], "; use missing instead of 'IfNotPresent'"),
        (["--restart", "sometimes"], "'sometimes' is not one of 'none', 'on-failure', 'any' ("),
        (["--limits=memory=1Gi"], "use --memory and --cpus"),
        (["--image-pull-policy=Always"], "use --pull: always, missing or never"),
        (["--serviceaccount=me"], "not supported; use --secret"),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_too(fake: FakeServer, options: list[str], says: str) -> None:
    """In the words of its options; nothing is started."""
    done = qmaster(fake, "run", *options, "busybox")
    assert done.returncode == 125
    assert says in done.stderr.decode()


@pytest.mark.parametrize("tool", tool_words.ALL)
def test_every_word_of_a_tool_is_known(tool: str) -> None:
    """It is a field, has an answer, or is a field's name but for its number."""
    for word in tool_words.ALL[tool]:
        plain = validation.squeezed(word)
        known = plain in FIELDS or plain in words.ANSWERS or f"{plain}s" in FIELDS
        assert known, word


@pytest.mark.parametrize("tool", tool_words.ALL)
def test_every_word_is_answered_for_a_function_too(tool: str) -> None:
    """With fields that a function has: the answers are those of functions first."""
    for word in tool_words.ALL[tool]:
        if word in FunctionSpec.__struct_fields__:
            continue
        with pytest.raises(BadRequest) as caught:
            read_spec({**RUN, word: 1})
        said = str(caught.value)
        assert said.startswith(f"unknown field {validation.quote(word)}")
        assert "; known: " not in said, word
