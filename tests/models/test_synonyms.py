"""validation: other tools' words get their answer, and a guess is made only where it means the same."""

import string

import pytest
from commands_cases import fake, qmaster
from fake_server import FakeServer
from validation_cases import RUN, refused

from qmaster.models import validation, words
from qmaster.models.requests import RunRequest

__all__ = ["fake"]  # the fixture

FIELDS = RunRequest.__struct_fields__


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("gpu", "use gpus for a container, generic_resources for a service"),
        ("mounts", "use volumes, such as NAME:/path"),
        ("add_host", "use extra_hosts, such as NAME:ADDRESS"),
        ("terminationGracePeriodSeconds", "use stop_grace_period"),
        ("readonlyRootfs", "use read_only"),
        ("ulimit", "use ulimits"),
        ("interactive", "use stdin, a container's standard input as text"),
        ("registry_auth", "use auth"),
        ("environment", "use env"),
        ("workingDir", "use workdir"),
        ("working-dir", "use workdir"),
        ("activeDeadlineSeconds", "use timeout"),
        ("ttlSecondsAfterFinished", "use ttl: seconds after its end, 0 for at once"),
        ("rm", "use ttl: seconds after its end, 0 for at once"),
        ("restart_policy", "use restart: none, on-failure or any"),
        ("backoffLimit", "use max_attempts with restart"),
        ("mem_limit", "use memory"),
        ("resources", "use memory and cpus: each is the limit and the reservation"),
        ("deploy", "use replicas, restart, restart_delay, max_attempts, constraints, memory and cpus"),
        ("network_mode", "use networks, the names of swarm networks; the host's network is not supported"),
        ("privileged", "not supported, because it could reach the host"),
        ("cap_add", "not supported, because it could reach the host"),
        ("hostPID", "not supported, because it could reach the host"),
        ("volumes_from", "not supported; use volumes"),
        ("tty", "not supported: a run has no terminal; use command and stdin"),
        ("allowPrivilegeEscalation", "use no_new_privileges, which says the opposite"),
        ("new_privileges", "use no_new_privileges, which says the opposite"),
        ("runAsUser", "use user"),
        ("label_file", "not supported; use labels with their names and values"),
        ("HostConfig", "not supported, because it could reach the host"),
    ],
)
def test_another_tools_word_is_answered(field: str, says: str) -> None:
    """Docker's, Compose's and Kubernetes', in whatever way it is written."""
    assert refused({**RUN, field: 1}) == f"unknown field '{field}': {says}"


@pytest.mark.parametrize(
    ("word", "known"),
    [
        ("comand", "command"), ("ENV", "env"), ("evn", "env"), ("secret", "secrets"), ("Ports", "ports"),
        ("maxAttempts", "max_attempts"), ("cpu", "cpus"), ("imgae", "image"), ("replica", "replicas"),
        ("pidsLimit", "pids_limit"), ("networkss", "networks"),
    ],
)  # fmt: skip
def test_a_slip_of_the_hand_is_seen(word: str, known: str) -> None:
    """Of case, of separators, of a letter too many or too few, of two in the wrong order."""
    assert validation.meant(word, FIELDS) == known


@pytest.mark.parametrize(
    "word", ["mounts", "registry_auth", "rm", "tty", "times", "hosts", "node", "test", "x" * 65, ""]
)
def test_no_other_meaning_is_guessed(word: str) -> None:
    """A word that means something else is no slip of the hand."""
    assert validation.meant(word, FIELDS) is None


def test_every_answer_names_fields_that_there_are() -> None:
    """And no word is answered that is a field itself."""
    for word, answer in words.ANSWERS.items():
        assert {name for _, name, _, _ in string.Formatter().parse(answer) if name} <= set(FIELDS), word
        assert word == validation.squeezed(word)
    assert not set(words.ANSWERS) & set(FIELDS)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--rm", ": use --ttl: seconds after its end, 0 for at once"),
        ("--publish", ": use --port"),
        ("--with-registry-auth", ": use --auth-file"),
        ("--memroy", "; did you mean --memory?"),
        ("--labels", "; did you mean --label?"),
        ("--pull-policy", "; did you mean --pull?"),
        ("--frobnicate", ""),
    ],
)
def test_another_tools_option_is_answered(fake: FakeServer, option: str, says: str) -> None:
    """In the words of the command line."""
    done = qmaster(fake, "run", option, "busybox")
    said = done.stderr.decode()
    assert done.returncode == 125
    assert said.rpartition(" (")[0] == f"qmaster: no such option: {option[:2] if option == '-it' else option}{says}"


def test_other_commands_know_no_words_of_a_run(fake: FakeServer) -> None:
    """`status --rm` is a mistake without a guess."""
    assert qmaster(fake, "status", "--rm").stderr.startswith(b"qmaster: no such option: --rm (")
