"""responses: the engine's words without other people's things."""

import pytest

from qmaster.models.responses import mask

SENT = {"image": "busybox:nosuch", "command": ["nosuchprogram"], "ports": ["8080:80"], "name": "mine"}
ID64, ID25 = "3f" * 32, "rm81ax0pl2cnkq3hdxw9v4b7z"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            f"rpc error: desc = port '8080' is already in use by service 'victim' ({ID25}) as an ingress port",
            "rpc error: desc = port '8080' is already in use by another",
        ),
        (
            f'Conflict. The container name "/mine" is already in use by container "{ID64}". You have to remove it',
            'Conflict. The container name "/mine" is already in use by another',
        ),
        ("secret 's1' is in use by the following services: victim, other", "secret '…' is in use by another"),
        (f"network {ID25} has active endpoints", "network … has active endpoints"),
        (f"container {ID64[:12]} is not running", "container … is not running"),
        (
            "endpoint with name victim already exists in network bridge",
            "endpoint with name … already exists in network bridge",
        ),
        (
            f"driver failed on endpoint victim ({ID64}): Bind for 0.0.0.0:8080 failed",
            "driver failed on endpoint … (…): Bind for 0.0.0.0:8080 failed",
        ),
        (
            "Bind for 192.168.7.9:8080 failed: port is already allocated",
            "Bind for …:8080 failed: port is already allocated",
        ),
        ("lookup registry on 10.9.8.7:53: no such host", "lookup … on …:53: no such host"),
        ("dial tcp [fd00:1::53]:443: refused", "dial tcp […]:443: refused"),
        ("open /var/lib/docker/overlay2/x/merged: no space left", "open …: no space left"),
        ('node "worker-of-bob" is down', 'node "…" is down'),
        (
            "proxyconnect tcp: dial tcp: lookup proxy on 10.9.8.7:53: no such host",
            "proxyconnect tcp: dial tcp: lookup … on …:53: no such host",
        ),
        ("lookup mirror.corp.internal: no such host", "lookup …: no such host"),
        (
            "x509: certificate is valid for db-1.internal, *.corp.lan, not registry.example.com",
            "x509: certificate is valid for …, *.…, not …",
        ),
        ("see https://mirror.internal:5000/v2/ for more", "see https://…:5000/v2/ for more"),
        ("unable to open '/srv/qm/data/journal.db'", "unable to open '…'"),
    ],
)
def test_what_the_caller_did_not_send_is_masked(said: str, told: str) -> None:
    """Names, ids, addresses and folders; who holds what is wanted is not told at all."""
    assert mask(said, SENT) == told


@pytest.mark.parametrize(
    "said",
    [
        'OCI runtime create failed: exec: "nosuchprogram": executable file not found in $PATH: unknown',
        "the image busybox:nosuch is not on this engine, and the registry did not give it: manifest unknown",
        "no suitable node (scheduling constraints not satisfied on 3 nodes; insufficient resources on 1 node)",
        "this engine is not a swarm manager: run 'docker swarm init' on it, or join it to a swarm as a manager",
        "name conflicts with an existing object: service mine already exists",
        "task: non-zero exit (137): OOM killed",
        "Bind for 0.0.0.0:8080 failed: port is already allocated",
        "started at 12:30:45",
        'container_linux.go:380: starting container process caused: process.go:12: exec: "nosuchprogram": not found',
        "client version 1.41 is too old, e.g. 1.44; see docker.io/library/busybox:latest",
        "open /app/config.json: no such file",
    ],
)
def test_the_callers_own_and_plain_words_stay(said: str) -> None:
    """So that an error still tells what to do."""
    assert mask(said, SENT) == said


def test_a_guess_is_not_confirmed() -> None:
    """A caller that sends many names does not learn which of them has the port."""
    guesses = {**SENT, "labels": {"guess": "victim other 10.0.0.1"}}
    assert "victim" not in mask("port '8080' is already in use by service 'victim' (x1)", guesses)
