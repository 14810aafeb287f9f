"""images: what a registry says of one, how often it is asked, and pulls."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fakes import AUTH, DIGEST
from raw_engine import RawEngine, Say, Scripted, engine_and_client, reply, silence

from qmaster.engine import images
from qmaster.engine.calls import Calls
from qmaster.engine.client import Client
from qmaster.engine.errors import EngineTimeout, EngineUnreached, refused
from qmaster.engine.images import KEPT, Images, Registry
from qmaster.errors import EngineAway, HttpError, RegistryRefused, TooManyCalls
from qmaster.limiter import act_for, acting_for
from qmaster.models.credentials import Credentials

pytestmark = pytest.mark.gen_test

CREDENTIALS = Credentials.decode(AUTH)
LATE = EngineTimeout("late")


def refusal(status: int, words: str) -> HttpError:
    return refused(status, words.encode(), {})


def asking(image: str, headers: dict[str, str] | None = None) -> tuple[Any, ...]:
    return ("GET", f"/distribution/{quote(image, safe='/:')}/json", headers or {})


def calls(client: Client, slots: int = 1) -> Calls:
    return Calls(client, "registry", slots, suspects=False)


TOLD = {"Descriptor": {"digest": DIGEST}}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def registry(*answers: Any) -> tuple[Registry, Scripted, Clock]:
    client, clock = Scripted(*answers), Clock()
    return Registry(calls(client), clock), client, clock


@pytest.mark.parametrize(
    ("image", "pinned", "asked"),
    [
        ("busybox", f"busybox@{DIGEST}", 1),
        ("team/tool:v1", f"team/tool:v1@{DIGEST}", 1),
        (f"busybox@{'sha256:' + 'b' * 64}", f"busybox@{'sha256:' + 'b' * 64}", 0),
    ],
)
async def test_an_image_is_pinned_as_it_was_written(image: str, pinned: str, asked: int) -> None:
    """With its digest behind it; one that has a digest is not asked about."""
    kept, client, _ = registry(TOLD)
    assert await kept.pin(image, None) == pinned
    assert client.asked == [asking(image)] * asked


async def test_credentials_go_with_the_question() -> None:
    """As this call's own header; also for an image with a digest, as they are checked by it."""
    kept, client, _ = registry(TOLD)
    image = f"busybox@{'sha256:' + 'b' * 64}"
    assert await kept.pin(image, CREDENTIALS) == image
    assert client.asked == [asking(image, {"X-Registry-Auth": CREDENTIALS.header()})]


UNSURE: list[tuple[Any, str]] = [
    (refusal(404, "manifest unknown"), "missing"),
    (refusal(401, "unauthorized: incorrect username or password"), "denied"),
    (refusal(403, "denied: requested access to the resource is denied"), "denied"),
    (refusal(500, "no basic auth credentials"), "denied"),
    (refusal(500, "dial tcp: lookup registry: no such host"), "silent"),
    (refusal(503, "i/o timeout"), "silent"),
    (LATE, "silent"),
]


@pytest.mark.parametrize(("answer", "kind"), UNSURE, ids=str)
async def test_without_credentials_an_image_goes_on_unpinned(answer: Exception, kind: str) -> None:
    """An engine may have it, whatever the registry says."""
    kept, _, _ = registry(answer)
    assert await kept.pin("registry:5000/tool", None) == "registry:5000/tool"


@pytest.mark.parametrize(("answer", "says"), [(TOLD, None), (UNSURE[1][0], "refused the credentials")])
async def test_wrong_credentials_are_refused(answer: Any, says: str | None) -> None:
    """502 before anything is created; the error names the registry, and shows no credentials."""
    kept, _, _ = registry(answer)
    if says is None:
        assert await kept.pin("registry:5000/tool", CREDENTIALS) == f"registry:5000/tool@{DIGEST}"
        return
    with pytest.raises(RegistryRefused, match=says) as caught:
        await kept.pin("registry:5000/tool", CREDENTIALS)
    assert "registry:5000" in str(caught.value)
    assert "something" not in str(caught.value)


async def test_credentials_that_cannot_be_checked_are_refused() -> None:
    """502 where the registry is silent."""
    kept, _, _ = registry(refusal(500, "dial tcp: i/o timeout"))
    with pytest.raises(RegistryRefused, match="did not answer"):
        await kept.pin("registry:5000/tool", CREDENTIALS)


NAMED = "registry:401/denied/unauthorized:404"


@pytest.mark.parametrize(
    ("image", "said", "says"),
    [
        (NAMED, f'Get "https://{NAMED}/v2/": dial tcp 10.77.0.1:403: connect: connection refused', "did not answer"),
        ("forbidden:not-found", "cannot fetch forbidden:not-found: i/o timeout", "did not answer"),
        (NAMED, f"manifest for {NAMED} not found: manifest unknown: manifest unknown", None),
        ("denied:1", "manifest for denied:1 not found: manifest unknown", None),
        (NAMED, "errors: unauthorized: authentication required", "refused the credentials"),
        ("denied:1", "unexpected status from HEAD request to https://x/v2/denied: 403 Forbidden", "refused the creden"),
    ],
)
async def test_what_an_image_is_called_says_nothing_of_its_registry(image: str, said: str, says: str | None) -> None:
    """The engine quotes the reference, and the address that it was sent to."""
    kept, _, _ = registry(refusal(500, said))
    if says is None:
        assert await kept.pin(image, CREDENTIALS) == image
        return
    with pytest.raises(RegistryRefused, match=says):
        await kept.pin(image, CREDENTIALS)


async def test_callers_at_once_share_one_question() -> None:
    """A hundred runs of one image ask the registry once."""
    kept, client, _ = registry(TOLD)
    answers = await asyncio.gather(*(kept.pin("busybox", None) for _ in range(100)))
    assert set(answers) == {f"busybox@{DIGEST}"}
    assert len(client.asked) == 1


class Slow(Scripted):
    """Answers when it may ``go``."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.go = asyncio.Event()

    async def send(self, *asked: Any, **more: Any) -> bytes:
        await self.go.wait()
        return await super().send(*asked, **more)


async def test_nobody_waits_in_anothers_queue_for_the_registry() -> None:
    """Another owner asks again while a question is open; what it was told all may have."""
    client = Slow(TOLD)
    kept = Registry(calls(client, 3))
    with acting_for("alice"):
        first = [asyncio.ensure_future(kept.pin(image, None)) for image in ("busybox:1", "busybox:2", "busybox")]
        await asyncio.sleep(0.02)
    with acting_for("bob"):
        bobs = asyncio.ensure_future(kept.pin("busybox", None))
        await asyncio.sleep(0.02)
        client.go.set()
        assert await asyncio.wait_for(bobs, 3) == f"busybox@{DIGEST}"
        asked = len(client.asked)
        assert await kept.pin("busybox", None) == f"busybox@{DIGEST}"
        assert len(client.asked) == asked
    assert len(await asyncio.gather(*first)) == 3
    assert len(client.asked) == 4  # hers, and his own


async def test_a_wait_in_our_own_queue_is_no_silence_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as what it is, also with credentials, and nothing is kept of it."""
    client = Slow(TOLD)
    questions = calls(client)
    monkeypatch.setattr(questions._limiter, "_queued_for", 0.05)
    kept = Registry(questions)
    act_for("alice")
    first = asyncio.ensure_future(kept.pin("busybox:1", None))
    await asyncio.sleep(0.02)
    with pytest.raises(TooManyCalls, match="busy with this token's other calls"):
        await kept.pin("busybox", CREDENTIALS)
    client.go.set()
    await first
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"


@pytest.mark.parametrize("answer", [TOLD, refusal(500, "i/o timeout"), refusal(401, "unauthorized")], ids=str)
async def test_an_answer_or_a_silence_is_kept_for_a_minute(answer: Any) -> None:
    """Then it is asked again."""
    kept, client, clock = registry(answer)
    await kept.pin("busybox", None)
    clock.now += KEPT - 0.1
    await kept.pin("busybox", None)
    assert len(client.asked) == 1
    clock.now += 0.2
    await kept.pin("busybox", None)
    assert len(client.asked) == 2
    assert KEPT == 60.0


OLD, SILENT = {"Descriptor": {"digest": "sha256:" + "0" * 64}}, refusal(500, "i/o timeout")


@pytest.mark.parametrize("first", [OLD, refusal(404, "manifest unknown"), refusal(401, "unauthorized")], ids=str)
async def test_always_asks_for_the_digest_of_now(first: Any) -> None:
    """Whatever was told a moment ago; and what it learns serves those that ask for any of the last minute."""
    kept, client, _ = registry(first, TOLD)
    await kept.pin("busybox", None)
    warnings: list[str] = []
    assert await kept.pin("busybox", None, "always", warnings) == f"busybox@{DIGEST}"
    assert await kept.pin("busybox", None) == f"busybox@{DIGEST}"
    assert (len(client.asked), warnings) == (2, [])


async def test_always_at_once_is_one_question() -> None:
    """A thousand runs of one image that are in flight at one moment ask the registry once."""
    kept, client, _ = registry(TOLD)
    answers = await asyncio.gather(*(kept.pin("busybox", None, "always") for _ in range(1000)))
    assert set(answers) == {f"busybox@{DIGEST}"}
    assert len(client.asked) == 1
    await kept.pin("busybox", None, "always")
    assert len(client.asked) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (SILENT, "did not answer"),
        (LATE, "did not answer"),
        (refusal(404, "manifest unknown"), "has no such image"),
        (refusal(401, "unauthorized"), "refused the image"),
    ],
    ids=str,
)
async def test_always_in_vain_is_a_warning(answer: Any, says: str) -> None:
    """The image goes on as it is: its node may have it."""
    kept, _, _ = registry(answer)
    warnings: list[str] = []
    assert await kept.pin("registry:5000/tool", None, "always", warnings) == "registry:5000/tool"
    (warning,) = warnings
    assert warning.startswith(f"pull_policy: the registry registry:5000 {says}, so the local image is used: ")


async def test_a_silence_is_believed_by_always_too() -> None:
    """For a minute no run waits for that registry again; each is warned."""
    kept, client, clock = registry(SILENT)
    for asked in (1, 1, 2):
        warnings: list[str] = []
        await kept.pin("busybox", None, "always", warnings)
        assert (len(client.asked), len(warnings)) == (asked, 1)
        clock.now += KEPT / 2 + 0.1


async def test_credentials_that_were_right_are_believed_for_a_minute() -> None:
    """A registry that falls silent after it told a digest stops no run: always is warned, missing has that digest."""
    kept, client, _ = registry(TOLD, SILENT)
    await kept.pin("busybox", CREDENTIALS)
    warnings: list[str] = []
    assert await kept.pin("busybox", CREDENTIALS, "always", warnings) == "busybox"
    assert len(warnings) == 1
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"
    assert len(client.asked) == 2


@pytest.mark.parametrize("credentials", [None, CREDENTIALS])
async def test_never_asks_nobody(credentials: Credentials | None) -> None:
    """Neither for a digest nor whether credentials are right."""
    kept, client, _ = registry(TOLD)
    assert await kept.pin("busybox", credentials, "never") == "busybox"
    assert client.asked == []


async def test_one_callers_credentials_do_not_open_for_another() -> None:
    """Each image and each credentials are a question of their own."""
    kept, client, _ = registry(TOLD, refusal(401, "unauthorized"), TOLD, TOLD)
    other = Credentials("someone", "else")
    await kept.pin("busybox", CREDENTIALS)
    with pytest.raises(RegistryRefused):
        await kept.pin("busybox", other)
    await kept.pin("busybox", None)
    await kept.pin("busybox:1", CREDENTIALS)
    assert len(client.asked) == 4


async def test_credentials_are_not_kept() -> None:
    """Only a salted digest is."""
    kept, _, _ = registry(TOLD)
    await kept.pin("busybox", CREDENTIALS)
    assert CREDENTIALS.header() not in repr(vars(kept))
    assert "something" not in repr(vars(kept))


async def test_a_caller_that_leaves_does_not_end_the_others_question() -> None:
    """The question is not the first caller's own."""
    kept, client, _ = registry(TOLD)
    first = asyncio.ensure_future(kept.pin("busybox", None))
    second = asyncio.ensure_future(kept.pin("busybox", None))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == f"busybox@{DIGEST}"
    assert len(client.asked) == 1


async def test_an_engine_that_is_away_is_no_silent_registry() -> None:
    """503 and not 502 with credentials; and nothing is kept of it when it is back."""
    kept, client, _ = registry(TOLD)
    client.away = EngineUnreached("the engine is away")
    with pytest.raises(EngineAway):
        await kept.pin("busybox", CREDENTIALS)
    client.away = None
    assert await kept.pin("busybox", CREDENTIALS) == f"busybox@{DIGEST}"


@pytest.mark.parametrize("answer", [{}, {"Descriptor": {}}, [], b"<html>"], ids=str)
async def test_nonsense_is_no_digest(answer: Any) -> None:
    """The image goes on unpinned."""
    kept, _, _ = registry(answer)
    assert await kept.pin("busybox", None) == "busybox"


# --- pulls ------------------------------------------------------------------------------------------------------------

PROGRESS = b'{"status": "Pulling"}\r\n{"status": "Done"}\r\n'


async def pull(tmp_path: Path, *answers: Say, credentials: Credentials | None = None) -> RawEngine:
    async with engine_and_client(tmp_path, *answers) as (engine, client):
        await Images(Calls(client, "pull", 8)).pull("registry:5000/tool:1", credentials)
    return engine


async def test_a_pull_is_a_stream_that_ends_well(tmp_path: Path) -> None:
    """Asked for by name and tag, with the caller's credentials."""
    engine = await pull(tmp_path, reply(PROGRESS, 200), credentials=CREDENTIALS)
    (asked,) = engine.calls
    assert asked.line == "POST /v1.41/images/create?fromImage=registry%3A5000%2Ftool&tag=1 HTTP/1.1"
    assert asked.headers["x-registry-auth"] == CREDENTIALS.header()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply(PROGRESS + b'{"error": "manifest unknown"}\r\n', 200), "manifest unknown"),
        (reply({"message": "pull access denied"}, 404), "pull access denied"),
        (reply({"message": "unauthorized"}, 500), "unauthorized"),
    ],
)
async def test_a_pull_that_fails_is_the_registrys_refusal(tmp_path: Path, answer: bytes, says: str) -> None:
    """Also as a line of a stream that began with 200."""
    with pytest.raises(RegistryRefused, match=says):
        await pull(tmp_path, answer)


async def test_a_registry_that_falls_silent_ends_its_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first word, and between two."""

    async def stops(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + PROGRESS)

    for answer, first_word, between in ((silence, 0.1, 60.0), (stops, 60.0, 0.1)):
        monkeypatch.setattr(images, "CHANGE", first_word)
        monkeypatch.setattr(images, "SILENCE", between)
        with pytest.raises(RegistryRefused, match="no answer came in time"):
            await pull(tmp_path, answer)


async def test_an_owners_pulls_of_one_image_are_one(tmp_path: Path) -> None:
    """Another owner's is another: it would wait in the queue of whoever came first."""
    async with engine_and_client(tmp_path, reply(PROGRESS, 200)) as (engine, client):
        pulls = Images(Calls(client, "pull", 8))
        with acting_for("alice"):
            waiting = [asyncio.ensure_future(pulls.pull("busybox", None)) for _ in range(5)]
        with acting_for("bob"):
            waiting.append(asyncio.ensure_future(pulls.pull("busybox", None)))
        await asyncio.gather(*waiting)
        assert len(engine.calls) == 2
