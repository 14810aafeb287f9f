"""AWS's own tools call functions, unchanged but for their environment: boto3, and the `aws` command."""

import json
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from called import Function
from testbed import Server, Swarm
from testbed.lambdas import NODE
from testbed.process import run


@pytest.fixture(scope="module")
def function(functions_server: Server) -> Function:
    return Function(functions_server, "tool", timeout=10)


@pytest.fixture(scope="module")
def client(functions_server: Server) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=functions_server.url,
        region_name="local",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        aws_session_token=functions_server.token,
        config=Config(retries={"total_max_attempts": 3}),
    )


def test_boto3_calls(client: Any, function: Function) -> None:
    """By name, by version and by ARN; the answer is the function's."""
    for name in ("tool", "tool:1", "arn:aws:lambda:local:000000000000:function:tool"):
        answer = client.invoke(FunctionName=name, Payload=json.dumps({"do": "echo", "name": name}))
        assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
        assert "FunctionError" not in answer
        assert json.loads(answer["Payload"].read())["event"]["name"] == name


def test_boto3_asks_whether_it_may(client: Any, function: Function) -> None:
    """A dry run is 204, and calls nothing."""
    calls = function.echo()["calls"]
    assert client.invoke(FunctionName="tool", InvocationType="DryRun")["StatusCode"] == 204
    assert function.echo()["calls"] == calls + 1


@pytest.mark.parametrize(
    ("event", "error_type"),
    [
        ({"do": "fail"}, "ValueError"),
        ({"do": "leave", "code": 3}, "Runtime.ExitError"),
        ({"do": "sleep", "seconds": 60}, "Sandbox.Timedout"),
    ],
    ids=["raises", "ends", "takes too long"],
)
def test_boto3_is_told_of_a_failure_once(
    functions_server: Server, client: Any, event: dict[str, Any], error_type: str
) -> None:
    """As an answer of 200 with `FunctionError`, so that it does not call again."""
    name = f"fails-{error_type.lower().replace('.', '-')}"
    function = Function(functions_server, name, timeout=6)
    function.echo()
    answer = client.invoke(FunctionName=name, Payload=json.dumps(event))
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"].read())["errorType"] == error_type
    assert answer["ResponseMetadata"]["RetryAttempts"] == 0


def test_boto3_knows_our_errors(client: Any, function: Function) -> None:
    """A function or version that is not there is `ResourceNotFoundException`."""
    for name in ("nobody", "tool:99"):
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.invoke(FunctionName=name)
    with pytest.raises(ClientError, match="InvalidRequestContentException"):
        client.invoke(FunctionName="tool", ClientContext="bm8gSlNPTg==")


def test_boto3_streams(functions_server: Server, node_swarm: Swarm, client: Any) -> None:
    """An answer comes in parts, as the function writes them, and its end."""
    Function(functions_server, "parts", image=NODE, command=["app.stream"], memory=256)
    payload = json.dumps({"parts": 3, "pause": 100})
    answer = client.invoke_with_response_stream(FunctionName="parts", Payload=payload)
    events = list(answer["EventStream"])
    parts = [event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event]
    assert b"".join(parts) == b"part 0\npart 1\npart 2\n"
    assert len(parts) == 3
    assert "InvokeComplete" in events[-1]


def test_the_aws_command(functions_server: Server, function: Function, tmp_path: Path) -> None:
    """Writes the answer to its file; a dry run; an error of the function; a function that is not there."""
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_LAMBDA": functions_server.url,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_SESSION_TOKEN": functions_server.token,
        "AWS_DEFAULT_REGION": "local",
    }

    def invoke(event: object, *options: str) -> Any:
        command = [sys.executable, "-m", "awscli", "lambda", "invoke", "--function-name", "tool", *options]
        return json.loads(run(*command, "--payload", json.dumps(event), str(tmp_path / "out"), env=environ))

    assert invoke({"do": "echo", "by": "aws"}) == {"StatusCode": 200, "ExecutedVersion": "1"}
    assert json.loads((tmp_path / "out").read_text())["event"] == {"do": "echo", "by": "aws"}
    assert invoke({}, "--invocation-type", "DryRun")["StatusCode"] == 204
    assert invoke({"do": "fail"})["FunctionError"] == "Unhandled"
    assert json.loads((tmp_path / "out").read_text())["errorType"] == "ValueError"
    with pytest.raises(RuntimeError, match="ResourceNotFoundException"):
        invoke({}, "--qualifier", "99")
