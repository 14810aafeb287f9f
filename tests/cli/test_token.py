"""token: the command that makes a token."""

import io
import json
import tomllib

import pytest
from click.testing import CliRunner, Result

from qmaster.auth import tokens
from qmaster.auth.tokens import SCOPES, digest
from qmaster.cli import main
from qmaster.models.credentials import REDACTED
from qmaster.server.log import MADE, Redactor


def call(*words: str) -> Result:
    return CliRunner().invoke(main.main, ["token", *words])


def test_its_entry_is_of_the_token_that_it_shows() -> None:
    """The token on standard error, the entry on standard output: ready to be appended to the file."""
    result = call("alice")
    assert result.exit_code == 0
    made = result.stderr.strip()
    (alice,) = tokens.read(result.stdout.encode())
    assert (alice.name, alice.digest, alice.scopes) == ("alice", digest(made.encode()), frozenset(SCOPES))
    assert made not in result.stdout


def test_entries_can_be_appended() -> None:
    """Also to a file that does not end with a newline."""
    whole = "# tokens" + call("alice").stdout + call("bob", "--scope", "read").stdout
    assert [(one.name, set(one.scopes)) for one in tokens.read(whole.encode())] == [
        ("alice", set(SCOPES)),
        ("bob", {"read"}),
    ]


def test_scopes_are_chosen() -> None:
    """Each once, and only those that there are."""
    entry = tomllib.loads(call("alice", "--scope", "run", "--scope", "read", "--scope", "run").stdout)["alice"]
    assert entry["scopes"] == ["run", "read"]
    wrong = call("alice", "--scope", "admin")
    assert (wrong.exit_code, wrong.stdout) == (2, "")


@pytest.mark.parametrize("name", ["root", "Alice", "a b", "", "-a", "a" * 64, "a.b", "ä", "alice\n"])
def test_a_name_is_one_that_the_file_takes(name: str) -> None:
    """Else nothing is made."""
    result = call("--", name)
    assert result.exit_code == 2
    assert "expected up to 63 characters of a-z" in result.stderr
    assert result.stdout == ""


def test_no_two_are_the_same() -> None:
    """32 random octets."""
    made = {call("alice").stderr for _ in range(20)}
    assert len(made) == 20
    assert all(len(one.strip()) == 46 for one in made)


def test_the_log_knows_it_by_its_form() -> None:
    """Of such a token the server has only the digest, and takes it out of the log all the same."""
    made = call("alice").stderr.strip()
    assert MADE.fullmatch(made)
    line = json.dumps({"path": f"/status/{made}", "request": made})
    assert Redactor([])(line) == line.replace(made, REDACTED)


def test_it_needs_no_server_and_no_token() -> None:
    """It reads nothing, and asks nobody."""
    result = CliRunner().invoke(main.main, ["token", "alice"], env={"TOKEN": "", "QMASTER_URL": "no url"})
    assert result.exit_code == 0
    assert io.StringIO(result.stdout).readline() == "\n"
