"""tokens: the tokens file is read, and again when it changes; what cannot be read changes nothing."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from fakes import until
from structlog.testing import capture_logs

from qmaster.auth import watched
from qmaster.auth.tokens import TokenFile, TokenPolicy, digest
from qmaster.auth.watched import MAX_SIZE
from qmaster.errors import ConfigError

pytestmark = pytest.mark.gen_test

WITHIN = 2.0  # seconds
ROOT = digest(b"root's")


def entry(name: str, scopes: str = '"run"') -> str:
    return f'[{name}]\nsha256 = "{digest(name.encode()).hex()}"\nscopes = [{scopes}]\n'


def put(path: Path, content: str | None) -> None:
    """Write it; with None, have nothing there."""
    if path.is_dir():
        path.rmdir()
    if content is not None:
        path.write_text(content)
    elif path.exists():
        path.unlink()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks more often, so that a test need not wait."""
    monkeypatch.setattr(watched, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(watched, "SETTLES_IN", 0.02)


class Told:
    """What a keyring has told, by names."""

    def __init__(self, path: Path) -> None:
        self.names: list[list[str]] = []
        self.token_file = TokenFile(path, {ROOT}, self._take)
        self.last: Sequence[TokenPolicy] = ()

    def _take(self, grants: Sequence[TokenPolicy]) -> None:
        self.names.append([grant.name for grant in grants])
        self.last = grants


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("alice"))
    path.chmod(0o600)
    return path


@contextlib.asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Told]:
    """A keyring that has read the file, and looks at it."""
    told = Told(path)
    told.token_file.load()
    task = asyncio.create_task(told.token_file.run())
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()


# --- at the start -----------------------------------------------------------------------------------------------------


async def test_it_is_read_at_the_start(path: Path) -> None:
    """And the log says whose tokens there are; never a digest."""
    told = Told(path)
    with capture_logs() as logs:
        told.token_file.load()
    assert told.names == [["alice"]]
    assert logs == [{"event": "tokens_loaded", "log_level": "info", "names": ["alice"]}]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read {path}: No such file or directory"),
        ("[alice", "{path}: it is not TOML: "),
        ("[alice]", "{path}: [alice] sha256: is required"),
        ("#" * (MAX_SIZE + 1), "cannot read {path}: it has more than 1048576 bytes"),
        (entry("alice").replace(digest(b"alice").hex(), ROOT.hex()), "{path}: [alice] sha256: is already that of root"),
    ],
)
async def test_one_that_is_wrong_at_the_start_ends_it(path: Path, content: str | None, says: str) -> None:
    """There is no last good one to keep."""
    put(path, content)
    with pytest.raises(ConfigError) as caught:
        Told(path).token_file.load()
    assert str(caught.value).startswith("--tokens-file: " + says.format(path=path))


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
async def test_a_file_is_a_file(path: Path, make: Callable[[Path], None]) -> None:
    """A pipe could keep it waiting for ever."""
    put(path, None)
    make(path)
    with pytest.raises(ConfigError, match="it is not a file"):
        Told(path).token_file.load()


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o644, False), (0o664, True), (0o602, True)])
async def test_who_could_write_it_is_warned_of(path: Path, mode: int, warns: bool) -> None:
    """They could give themselves a token; who reads it has digests alone."""
    os.chmod(path, mode)
    with capture_logs() as logs:
        Told(path).token_file.load()
    assert ([line["mode"] for line in logs if line["event"] == "tokens_file_writable_by_others"] != []) is warns


# --- when it changes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_change_is_told(path: Path) -> None:
    """Whether it is written in place or put in its place; a token that is added, changed, or gone."""
    async with watching(path) as told:
        put(path, entry("alice") + entry("bob"))
        await until(lambda: told.names[-1] == ["alice", "bob"], WITHIN)
        beside = path.with_suffix(".new")
        put(beside, entry("alice", '"read"'))
        os.replace(beside, path)
        await until(lambda: told.names[-1] == ["alice"], WITHIN)
        assert told.last[0].scopes == {"read"}
        put(path, "")
        await until(lambda: told.names[-1] == [], WITHIN)


@pytest.mark.usefixtures("often")
async def test_one_that_stays_the_same_is_told_once(path: Path) -> None:
    """Also where it is written anew."""
    async with watching(path) as told:
        put(path, entry("alice"))
        put(path, entry("bob"))
        await until(lambda: len(told.names) == 2, WITHIN)
        put(path, entry("bob"))
        await asyncio.sleep(10 * watched.LOOK_EVERY)
        assert told.names == [["alice"], ["bob"]]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_text("[alice"), "it is not TOML"),
        (
            lambda path: path.write_text(entry("alice", '"admin"')),
            "[alice] scopes[0]: expected one of run, stop, read,",
        ),
        (lambda path: path.write_text("#" * (MAX_SIZE + 1)), "it has more than"),
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: (path.unlink(), path.mkdir()), "it is not a file"),
    ],
    ids=["no TOML", "wrong", "huge", "gone", "folder"],
)
@pytest.mark.usefixtures("often")
async def test_one_that_becomes_wrong_keeps_the_last_good_one(
    path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    """The log says so, once; and when it is right again it counts."""
    async with watching(path) as told:
        with capture_logs() as logs:
            spoil(path)
            await until(lambda: bool(logs), WITHIN)
            await asyncio.sleep(10 * watched.LOOK_EVERY)
            (line,) = logs
            assert (line["event"], line["log_level"]) == ("tokens_file_wrong", "warning")
            assert says in line["error"]
            assert line["advice"] == "the tokens read before stay valid"
            assert told.names == [["alice"]]
            put(path, entry("alice"))
            await until(lambda: told.names == [["alice"], ["alice"]], WITHIN)


@pytest.mark.slow
async def test_a_half_written_file_does_not_count(path: Path) -> None:
    """One table of two is TOML as well: a change counts when it lasts."""
    async with watching(path) as told:
        with capture_logs() as logs:
            with path.open("w") as file:
                for line in (entry("bob") + entry("carol")).splitlines(keepends=True):
                    file.write(line)
                    file.flush()
                    await asyncio.sleep(0.1)
            await until(lambda: len(told.names) == 2, WITHIN)
        assert told.names == [["alice"], ["bob", "carol"]]
        assert [line["event"] for line in logs] == ["tokens_loaded"]
