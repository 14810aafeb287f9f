"""Failures of requests to Docker, as quartermaster's errors."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
import structlog

from ..errors import (
    BadRequest,
    Conflict,
    EngineAway,
    EngineRefused,
    EngineUnavailable,
    HttpError,
    NotAManager,
    NotFound,
)
from ..models.credentials import hide

log = structlog.get_logger(__name__)

# An engine's message may quote the request: a name, an image, a command. So these match only at the beginning, where
# the engine's own words are, and only in answers that can have them.
_RPC = r"(?:rpc error: code = \w+ desc = )?"
NO_LEADER = re.compile(
    r"rpc error: code = (?:DeadlineExceeded|Unavailable) desc = "
    rf"|{_RPC}(?:The swarm does not have a leader|context deadline exceeded)",
    re.IGNORECASE,
)
NOT_A_MANAGER = re.compile(
    rf"{_RPC}(?:(?:this |the )?node (?:is not|isn't) (?:a swarm manager|part of a swarm)"
    r"|Swarm is encrypted|Swarm certificates have expired)",
    re.IGNORECASE,
)
AMBIGUOUS = re.compile(
    rf"{_RPC}(?:multiple IDs found with provided prefix"
    r"|(?:config|network|node|secret|service|task) \S+ is ambiguous \()",
    re.IGNORECASE,
)
# The first segments of paths that the swarm answers.
SWARM = frozenset({"configs", "info", "networks", "nodes", "secrets", "services", "swarm", "tasks"})
_VERSION = re.compile(r"v[0-9.]+")
_REFUSED = "the Docker engine refused: "
SWARM_TROUBLE = (HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
MAX_DETAIL = 500

NO_API = "the Docker engine answered with something that is not its API"

AWAY = "the Docker engine is away: nothing answers at its address; start it, or see --docker-host"

LATE = "the Docker engine did not answer in time; try again"

STOPPING = "quartermaster is stopping: the request may still be carried out; try again when it is back"

NO_SWARM = "this engine is not a swarm manager: run 'docker swarm init' on it, or join it to a swarm as a manager"
WORKER = "this engine is a swarm worker, not a swarm manager: run quartermaster on a manager"
# In each of these cases 'docker swarm init' or 'leave' would destroy the state of a swarm.
LOCKED = "this swarm manager is locked: run 'docker swarm unlock' on it"
JOINING = "this engine is joining its swarm or starting its manager: wait, and see 'docker node ls' on another manager"
EXPIRED = "this engine's swarm certificates have expired: see 'docker info' on it, then join it to its swarm again"
BROKEN = "this engine's part of the swarm has failed: see 'docker info' and the log of the engine"
_SWARM_WORDS = (  # moby's daemon/cluster errors
    (re.compile(r"swarm is encrypted", re.IGNORECASE), LOCKED),
    (re.compile(r"certificates have expired", re.IGNORECASE), EXPIRED),
    (re.compile(r"manager is being prepared", re.IGNORECASE), JOINING),
    (re.compile(r"worker nodes", re.IGNORECASE), WORKER),
)


class EngineUnreached(EngineAway):
    """Nothing was sent: the engine cannot be connected to."""


class EngineStopping(EngineUnreached):
    """Nothing was sent: quartermaster is stopping."""


class EngineBusy(EngineUnavailable):
    """The engine cannot answer now: the swarm has no leader, or the engine is starting."""


class EngineTimeout(EngineAway):
    """No answer came in time: the request may have been carried out, or may still be."""


class NotOfEngine(EngineRefused):
    """The engine does not support the request, such as to read the logs of some log drivers."""


def translate(error: BaseException) -> HttpError:
    """Return our error for any exception of a request to the engine.

    Only a failure to connect means that nothing was sent. After any other, the request may have been carried out.
    """
    if isinstance(error, HttpError):
        return error
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return EngineUnreached(_no_connection(error))
    if isinstance(error, TimeoutError):
        return EngineTimeout(LATE)
    if isinstance(error, aiohttp.ClientResponseError):  # not HTTP, or a header over 8,190 bytes: never Docker's own 400
        return _not_understood(error)
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return EngineAway("the Docker engine closed the connection; try again")
    return _not_understood(error)


def _no_connection(error: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> str:
    reason = getattr(error, "os_error", error)
    if isinstance(reason, ConnectionRefusedError | FileNotFoundError | PermissionError):
        return AWAY
    if isinstance(reason, ssl.SSLError):
        return "the Docker engine is away: no TLS connection to it; see DOCKER_TLS_VERIFY and DOCKER_CERT_PATH"
    return "the Docker engine is away: its address cannot be reached; see --docker-host"


def _not_understood(error: BaseException) -> EngineRefused:
    log.warning("engine_answer_not_understood", exc_info=error)
    return EngineRefused(NO_API)


def outcome_open(error: HttpError) -> bool:
    """Return whether the request may have been carried out: no answer came, or a 5xx, which may mean *created*."""
    return isinstance(error, EngineAway | EngineBusy | EngineRefused) and not isinstance(error, EngineUnreached)


def is_ambiguous(error: HttpError) -> bool:
    """Return whether the engine refused a prefix that several ids share (400 or 500)."""
    said = str(error).removeprefix(_REFUSED)
    return isinstance(error, BadRequest | EngineRefused) and AMBIGUOUS.match(said) is not None


def broken_off(error: HttpError) -> bool:
    """Return whether the connection broke, as an idle one does if the engine has closed it."""
    return isinstance(error, EngineAway) and not isinstance(error, EngineUnreached | EngineTimeout)


def refused(status: int, body: bytes, asked_with: Mapping[str, str], path: str = "") -> HttpError:
    """Return the error for an answer that is not 2xx.

    The message does not show the credentials that were sent.

    Args:
        status: of the answer.
        body: of the answer.
        asked_with: the headers of the request.
        path: of the request.
    """
    words = body.decode(errors="replace")
    with contextlib.suppress(msgspec.MsgspecError):
        words = msgspec.json.decode(words, type=_Refusal).message
    said = hide(" ".join(words.split()), asked_with.get("X-Registry-Auth", ""))[:MAX_DETAIL]
    error = _meant(status, said or f"status {status} without a message", path)
    error.of_engine = True
    return error


class _Refusal(msgspec.Struct):
    message: str


def _meant(status: int, said: str, path: str) -> HttpError:
    trouble = _of_swarm(said) if status in SWARM_TROUBLE and _asks_the_swarm(path) else None
    if trouble is not None:
        return trouble
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(said)
    if status == HTTPStatus.CONFLICT:
        return Conflict(said)
    if status == HTTPStatus.BAD_REQUEST:
        return BadRequest(_REFUSED + said)
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return NotOfEngine(_REFUSED + said)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return EngineBusy(f"the Docker engine is not available: {said}")
    return EngineRefused(_REFUSED + said)


def _of_swarm(said: str) -> EngineUnavailable | None:
    """Return the error if the message is about the swarm itself, else None."""
    if NOT_A_MANAGER.match(said):
        return NotAManager(_manager_hint(said))
    if NO_LEADER.match(said):
        return EngineBusy(f"the swarm has no leader at the moment: {said}")
    return None


def _asks_the_swarm(path: str) -> bool:
    """Return whether the swarm answers this path; an unknown path ("") may be any."""
    first, *rest = path.removeprefix("/").split("/")
    return (rest[0] if rest and _VERSION.fullmatch(first) else first) in {"", *SWARM}


def _manager_hint(said: str) -> str:
    """Return what to do if a call was refused because the engine is not a manager."""
    return next((hint for words, hint in _SWARM_WORDS if words.search(said)), NO_SWARM)


def manager_trouble(swarm: Mapping[str, Any]) -> str | None:
    """Return what to do if ``Swarm`` of an engine's ``/info`` shows that it is not a manager; None if it is one."""
    if swarm.get("ControlAvailable"):
        return None
    state, error = swarm.get("LocalNodeState") or "inactive", swarm.get("Error") or ""
    if state == "inactive":
        return NO_SWARM
    if state == "error":
        hint = next((hint for words, hint in _SWARM_WORDS if words.search(error)), BROKEN)
        return f"{hint} ({error[:MAX_DETAIL]})" if error else hint
    return {"active": WORKER, "pending": JOINING, "locked": LOCKED}.get(state, f"{BROKEN} (it is {state!r})")
