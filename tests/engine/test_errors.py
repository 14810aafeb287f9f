"""errors: Docker's failures become quartermaster's, by what was answered, and by what was not."""

import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import msgspec
import pytest

from qmaster.engine import errors
from qmaster.engine.errors import (
    EngineBusy,
    EngineTimeout,
    EngineUnreached,
    NotOfEngine,
    broken_off,
    outcome_open,
    refused,
    translate,
)
from qmaster.errors import BadRequest, Conflict, EngineAway, EngineRefused, HttpError, NotAManager, NotFound


def answered(status: int, said: str, path: str = "") -> HttpError:
    return refused(status, msgspec.json.encode({"message": said}), {}, path)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (400, "invalid mount", BadRequest),
        (404, "service x not found", NotFound),
        (409, "name in use", Conflict),
        (500, "oops", EngineRefused),
        (501, "not implemented", NotOfEngine),
        (503, "shutting down", EngineBusy),
        (503, "This node is not a swarm manager. Use docker swarm init", NotAManager),
        (406, "This node is not part of a swarm", NotAManager),
        (503, "This node is not a swarm manager. Worker nodes can't be used to view", NotAManager),
        (500, "rpc error: code = Unknown desc = The swarm does not have a leader.", EngineBusy),
        (500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded", EngineBusy),
        (500, "rpc error: code = Unavailable desc = connection closed", EngineBusy),
    ],
)
def test_an_answer_means_what_its_status_and_words_say(status: int, said: str, kind: type[HttpError]) -> None:
    """And is marked as the engine's own words."""
    error = answered(status, said)
    assert type(error) is kind
    assert error.of_engine


KEY: Any = Mock(ssl=True, host="docker", port=2376)


def connector(cause: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, cause)


@pytest.mark.parametrize(
    ("error", "kind", "is_open", "is_broken"),
    [
        (connector(ConnectionRefusedError(111, "refused")), EngineUnreached, False, False),
        (connector(FileNotFoundError(2, "no such file")), EngineUnreached, False, False),
        (connector(PermissionError(13, "denied")), EngineUnreached, False, False),
        (connector(OSError(113, "no route to host")), EngineUnreached, False, False),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version")), EngineUnreached, False, False),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("x")), EngineUnreached, False, False),
        (aiohttp.ConnectionTimeoutError("connect"), EngineUnreached, False, False),
        (aiohttp.SocketTimeoutError("read"), EngineTimeout, True, False),
        (TimeoutError(), EngineTimeout, True, False),
        (aiohttp.ServerDisconnectedError(), EngineAway, True, True),
        (aiohttp.ClientOSError(104, "reset"), EngineAway, True, True),
        (aiohttp.ClientPayloadError("cut"), EngineAway, True, True),
        (ConnectionResetError(104, "reset"), EngineAway, True, True),
        (aiohttp.ClientResponseError(Mock(), (), status=400, message="no HTTP"), EngineRefused, True, False),
        (ValueError("no log"), EngineRefused, True, False),
        (msgspec.DecodeError("no JSON"), EngineRefused, True, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_did_not_connect_was_sent_nothing(
    error: Exception, kind: type[HttpError], is_open: bool, is_broken: bool
) -> None:
    """Else it may have been done; where the connection broke, what changes nothing may be sent again."""
    known = translate(error)
    assert type(known) is kind
    assert (outcome_open(known), broken_off(known)) == (is_open, is_broken)


def test_an_error_of_ours_stays_what_it_is() -> None:
    """It was translated already."""
    error = BadRequest("ours")
    assert translate(error) is error


def test_words_say_where_to_look() -> None:
    """At the engine, its address or its certificates."""
    said = [
        str(translate(error))
        for error in (
            connector(ConnectionRefusedError(111, "refused")),
            aiohttp.ConnectionTimeoutError("connect"),
            aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("x")),
        )
    ]
    for words, look in zip(said, ("start it", "--docker-host", "DOCKER_CERT_PATH"), strict=True):
        assert look in words


LEADER = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online"
)
SERVICES, START = "/services/create", "/containers/3f/start"


def said_at(path: str, status: int, said: str) -> HttpError:
    return answered(status, said, f"/v1.41{path}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            said_at(START, 400, 'exec: "context deadline exceeded": executable file not found in $PATH: unknown'),
            BadRequest,
        ),
        (
            said_at(START, 500, 'chdir to cwd ("/The swarm does not have a leader") set in config.json failed'),
            EngineRefused,
        ),
        (said_at(START, 500, "context deadline exceeded"), EngineRefused),
        (said_at("/containers/create", 404, "No such image: not-a-swarm-manager/code = Unavailable:1"), NotFound),
        (said_at("/containers/create", 503, "This node is not a swarm manager"), EngineBusy),
        (said_at("/distribution/x/json", 500, 'Get "https://x/v2/": context deadline exceeded'), EngineRefused),
        (said_at(SERVICES, 400, "rpc error: code = Unavailable desc = what was sent"), BadRequest),
        (said_at(SERVICES, 409, "name conflicts: The swarm does not have a leader already exists"), Conflict),
        (said_at(SERVICES, 500, "bad mount source /not a swarm manager/context deadline exceeded"), EngineRefused),
        (said_at(SERVICES, 500, "rpc error: code = Unknown desc = bad label: not part of a swarm"), EngineRefused),
        (said_at(SERVICES, 503, LEADER), EngineBusy),
        (said_at("/nodes", 500, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"), EngineBusy),
        (said_at("/tasks", 503, 'This node is not a swarm manager. Use "docker swarm init"'), NotAManager),
    ],
    ids=str,
)
def test_words_that_a_caller_sent_mean_nothing(error: HttpError, kind: type[HttpError]) -> None:
    """The engine quotes them: its own words of the swarm have their status, their place and their calls."""
    assert type(error) is kind


@pytest.mark.parametrize(
    ("status", "said", "ambiguous"),
    [
        (400, "Multiple IDs found with provided prefix: 3f", True),
        (500, "rpc error: code = Unknown desc = service x is ambiguous (2 matches found)", True),
        (404, "service multiple IDs found with provided prefix not found", False),
        (400, "invalid name: service x is ambiguous (no)", False),
    ],
)
def test_what_is_ambiguous(status: int, said: str, ambiguous: bool) -> None:
    """Docker says so of the beginning of several ids."""
    assert errors.is_ambiguous(answered(status, said)) is ambiguous


def test_dockers_words_are_one_line_of_bounded_length() -> None:
    """An engine's answer may be a page of HTML."""
    said = str(answered(404, "one\n two\t" + "x" * 9999))
    assert said.startswith("one two x")
    assert len(said) == errors.MAX_DETAIL


def test_a_worker_is_told_from_an_engine_without_a_swarm() -> None:
    """What to do is another thing."""
    worker = answered(503, "This node is not a swarm manager. Worker nodes can't be used to view")
    alone = answered(503, "This node is not a swarm manager. Use docker swarm init")
    assert "run quartermaster on a manager" in str(worker)
    assert "docker swarm init" in str(alone)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            'Swarm is encrypted and needs to be unlocked. Please use "docker swarm unlock".',
            "unlock",
        ),
        ("Swarm certificates have expired. To replace them, leave the swarm and join again.", "certificates"),
        ("This node is not a swarm manager. Manager is being prepared or has trouble connecting.", "wait"),
    ],
    ids=["locked", "expired", "prepared"],
)
def test_a_swarm_that_is_there_is_never_to_be_made_anew(said: str, hint: str) -> None:
    """`docker swarm init` would destroy it."""
    error = answered(503, said)
    assert isinstance(error, NotAManager)
    assert hint in str(error)
    assert "swarm init" not in str(error)
