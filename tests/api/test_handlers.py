"""handlers: the HTTP contract over a run service that only notes what it is asked."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from api_cases import (
    BEARER,
    GOING_ON,
    IMAGE,
    NOT_JSON,
    OVER,
    TOKEN,
    Ask,
    FakeRunService,
    State,
    check_refused,
    connection,
    document,
    head,
)
from fakes import CONTAINER_ID, container, grant, service, task, until
from request_cases import WRONG
from structlog.testing import capture_logs
from swarm_cases import NODES, NOW
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders

from qmaster import errors
from qmaster.api import filters, queries, runs
from qmaster.api.limits import MAX_READ
from qmaster.models.requests import MAX_BODY, body_digest
from qmaster.models.responses import Service
from qmaster.runs.views import container_status
from qmaster.runs.views import status as lifecycle

pytestmark = pytest.mark.gen_test


# --- what is asked and answered ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/run", "/start"])
async def test_a_run_is_answered_with_its_id(ask: Ask, run_service: FakeRunService, path: str) -> None:
    """Success and the id; the request goes on as it was sent, with its owner."""
    answer = await ask("POST", path, {**IMAGE, "command": "echo hi", "type": "container", "memory": 64})
    assert (answer.code, document(answer)) == (200, {"success": True, "id": "s1"})
    assert answer.headers["Location"] == "/status/s1"
    ((verb, request, owner),) = run_service.calls
    assert (verb, owner) == ("run", "root")
    assert (request.image, request.command, request.type, request.memory) == ("busybox", "echo hi", "container", 64)


@pytest.mark.parametrize(
    ("wait", "seconds", "view", "status"),
    [(True, 60.0, OVER, 200), (2.5, 2.5, OVER, 200), (1, 1.0, GOING_ON, 202), (0, 0.0, GOING_ON, 202)],
)
async def test_a_run_that_waits_is_answered_with_its_end(
    ask: Ask, run_service: FakeRunService, wait: object, seconds: float, view: Service, status: int
) -> None:
    """The status document, with the result; 202 where it has not ended by then."""
    run_service.views = [view]
    answer = await ask("POST", "/run", {**IMAGE, "wait": wait})
    assert answer.code == status
    assert run_service.calls[-1] == ("when_over", "s1", seconds)
    assert document(answer) == {"success": True, **msgspec.json.decode(msgspec.json.encode(view))}


@pytest.mark.parametrize(("query", "seconds"), [("5", 5.0), ("0.5", 0.5), ("1m30s", 90.0), ("true", 60.0)])
async def test_a_status_can_wait_too(ask: Ask, run_service: FakeRunService, query: str, seconds: float) -> None:
    """`wait=S`; it is 200 whatever the run has come to."""
    run_service.views = [GOING_ON]
    answer = await ask("GET", f"/status/one?wait={query}")
    assert (answer.code, run_service.calls) == (200, [("when_over", "one", seconds)])


@pytest.mark.parametrize("query", ["", "-1", "1e3", "false", "soon", "86401", "2d", "1&wait=2"])
async def test_a_wait_that_is_no_time_is_refused(ask: Ask, run_service: FakeRunService, query: str) -> None:
    """It names the parameter."""
    check_refused(await ask("GET", f"/status/one?wait={query}"), 400, "wait: expected seconds")
    assert run_service.calls == []


async def test_who_hangs_up_waits_no_longer(http_client: AsyncHTTPClient, http_port: int, state: State) -> None:
    """The wait is told, and the request is finished."""
    run_service = state.run_service
    run_service.views, run_service.gate = [OVER], asyncio.Event()
    async with connection(http_port) as raw:
        raw.send(head(path="/status/one?wait=9", method="GET"))
        await until(lambda: run_service.left is not None)
        assert run_service.left is not None
        assert not run_service.left.done()
    await run_service.left
    run_service.gate.set()
    await until(lambda: not state.busy)


async def test_a_key_names_the_run(ask: Ask, run_service: FakeRunService) -> None:
    """By owner and key, with a digest of the body without `token`, `auth` and `wait`."""
    run_service.views = [OVER]
    answer = await ask("POST", "/run", {**IMAGE, "wait": 1}, {**BEARER, "Idempotency-Key": "k-1"})
    assert (answer.code, answer.headers.get("Idempotency-Replayed")) == (200, None)
    key = run_service.calls[0][3]
    assert key.name.startswith("qm-")
    assert key.body == body_digest(IMAGE)


async def test_a_replayed_answer_says_so(ask: Ask, run_service: FakeRunService) -> None:
    """In a header; the answer is the first one's."""
    run_service.replays = True
    answer = await ask("POST", "/run", IMAGE, {**BEARER, "Idempotency-Key": "k-1"})
    assert (document(answer), answer.headers["Idempotency-Replayed"]) == ({"success": True, "id": "s1"}, "true")


@pytest.mark.parametrize(
    ("key", "body", "says"),
    [
        ("", IMAGE, "Idempotency-Key: expected"),
        ("two words", IMAGE, "Idempotency-Key: expected"),
        ("k" * 256, IMAGE, "Idempotency-Key: expected"),
        ("k", {**IMAGE, "name": "one"}, "name: not supported with an Idempotency-Key"),
    ],
)
async def test_a_key_that_is_none_is_refused(
    ask: Ask, run_service: FakeRunService, key: str, body: object, says: str
) -> None:
    """Nothing is started."""
    check_refused(await ask("POST", "/run", body, {**BEARER, "Idempotency-Key": key}), 400, says)
    assert run_service.calls == []


async def test_two_keys_are_refused(ask: Ask, run_service: FakeRunService) -> None:
    """Which one is meant is not guessed."""
    headers = HTTPHeaders(BEARER)
    headers.add("Idempotency-Key", "a")
    headers.add("Idempotency-Key", "b")
    check_refused(await ask("POST", "/run", IMAGE, headers), 400, "expected one header; got 2")
    assert run_service.calls == []


async def test_two_tokens_are_refused(ask: Ask, run_service: FakeRunService) -> None:
    """Which one is meant is not guessed; the error says how many came."""
    headers = HTTPHeaders(BEARER)
    headers.add("Authorization", "Bearer another")
    check_refused(await ask("POST", "/run", IMAGE, headers), 400, "expected one header Authorization; got 2")
    assert run_service.calls == []


@pytest.mark.parametrize(
    ("method", "path", "body"), [("POST", "/stop", {"id": "one"}), ("DELETE", "/status/one", None)]
)
async def test_a_stop_is_answered_with_its_id(
    ask: Ask, run_service: FakeRunService, method: str, path: str, body: object
) -> None:
    """Also where a name was sent."""
    answer = await ask(method, path, body)
    assert (answer.code, document(answer)) == (200, {"success": True, "id": "s1"})
    assert run_service.calls == [("stop", "one")]


async def test_a_status_is_the_service_flat(ask: Ask, run_service: FakeRunService) -> None:
    """`success` beside all keys of a service."""
    run_service.views = [lifecycle.service(service(), [task("failed", code=3)], NODES, NOW)]
    shown = document(await ask("GET", "/status/one"))
    assert (shown["success"], shown["id"], shown["status"], shown["exit_code"]) == (True, "s1", "failed", 3)
    assert set(shown) == {"success", *Service.__struct_fields__}
    assert shown["replicas"] == {"desired": 1, "running": 0, "complete": 0, "failed": 1}
    assert shown["tasks"][0]["node"] == "host-1"
    assert run_service.calls == [("status", "one")]


def views() -> list[Service]:
    one = lifecycle.service(service("s1", "one", Labels={"team": "a"}), [task("running")], NODES, NOW)
    two = lifecycle.service(service("s2", "two", Labels={"team": "b", "x": "a=b"}), [task("failed")], NODES, NOW)
    return [one, two, container_status.container(container())]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["s1", "s2", CONTAINER_ID]),
        ("?status=running", ["s1", CONTAINER_ID]),
        ("?status=failed&status=complete", ["s2"]),
        ("?name=two", ["s2"]),
        ("?name=two&name=one", ["s1", "s2"]),
        ("?label=team", ["s1", "s2"]),
        ("?label=team=a", ["s1"]),
        ("?label=team=b&label=x=a%3Db", ["s2"]),
        ("?label=team=a&label=x", []),
        ("?label=team=", []),
        ("?limit=1", ["s1"]),
        ("?status=running&name=box&limit=5", [CONTAINER_ID]),
    ],
)
async def test_a_listing_is_filtered(ask: Ask, run_service: FakeRunService, query: str, ids: list[str]) -> None:
    """By status, name and label; several statuses or names widen, several labels narrow."""
    run_service.views = views()
    shown = document(await ask("GET", "/status" + query))
    assert (shown["success"], shown["cursor"]) == (True, "epoch:1")
    assert [view["id"] for view in shown["services"]] == ids


async def test_a_listing_is_built_once_while_nothing_changes(ask: Ask, run_service: FakeRunService) -> None:
    """Then it is built again; and so is another query's."""
    run_service.views, run_service.settled = views(), 1

    async def listed(query: str = "") -> tuple[int, int]:
        shown = document(await ask("GET", f"/status{query}"))["services"]
        return len(shown), len(run_service.calls)

    assert [await listed(), await listed()] == [(3, 1), (3, 1)]
    assert [await listed("?limit=1"), await listed()] == [(1, 2), (3, 3)]
    run_service.views, run_service.settled = views()[:2], 2
    assert await listed() == (2, 4)


@pytest.mark.parametrize("query", ["", "?all=1"])
async def test_a_large_listing_is_sent_in_pieces(
    ask: Ask, run_service: FakeRunService, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    """It is the same document; a HEAD of it has no body."""
    monkeypatch.setattr(runs, "MAX_WHOLE", 1000)
    monkeypatch.setattr(runs, "SLICE", 100)
    run_service.views = views()
    answer = await ask("GET", "/status" + query)
    shown = document(answer)
    assert list(shown) == ["success", "cursor", "services", "next_page"]
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert [view["id"] for view in shown["services"]] == ["s1", "s2", CONTAINER_ID]
    answer = await ask("HEAD", "/status" + query)
    assert (answer.code, answer.body, answer.headers.get("Content-Length")) == (200, b"", None)


@pytest.mark.parametrize("query", ["?limit=1", "?limit=1&all=1"])
async def test_a_page_says_where_the_next_one_begins(ask: Ask, run_service: FakeRunService, query: str) -> None:
    """As text for `page`, which is behind that run; null where there is no more."""
    run_service.views = views()
    assert document(await ask("GET", "/status" + query))["next_page"] is None
    run_service.following = ("2026-01-01T00:00:00.5Z", "s1")
    following = document(await ask("GET", "/status" + query))["next_page"]
    assert filters.read_filters({"page": [following]}).page == run_service.following


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("2026-11-22", "2026-11-22T00:00:00.000000000"),
        ("2026-11-22T20:29:03Z", "2026-11-22T20:29:03.000000000"),
        ("2026-11-22t20:29:03.5z", "2026-11-22T20:29:03.500000000"),
        ("2026-11-22T00:29:03.123456789+01:00", "2026-11-21T23:29:03.123456789"),
        ("2026-11-22T00:29:03 01:00", "2026-11-21T23:29:03.000000000"),
        ("2026-11-22T00:29:03-00:30", "2026-11-22T00:59:03.000000000"),
    ],
)
def test_a_time_is_read_in_utc(given: str, read: str) -> None:
    """With as many decimals as there are; the plus of an offset may have become a space."""
    assert filters.read_filters({"since": [given]}).since == filters.read_filters({"until": [given]}).until == read


def test_a_time_may_be_how_long_ago() -> None:
    """As Compose writes durations."""
    ago = filters.read_filters({"since": ["1h30m"]}).since
    passed = datetime.now(UTC) - datetime.fromisoformat(ago[:26] + "+00:00")
    assert timedelta(minutes=90) <= passed < timedelta(minutes=95)


async def test_a_small_listing_says_its_length(ask: Ask, run_service: FakeRunService) -> None:
    """Also of what was removed."""
    run_service.views = views()
    answer = await ask("GET", "/status?all=1")
    assert answer.headers["Content-Length"] == str(len(answer.body))


async def test_a_listing_that_breaks_off_is_not_taken_for_whole(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal fails behind the first page: the connection ends in the middle of the answer."""
    monkeypatch.setattr(runs, "SLICE", 100)
    run_service.views, run_service.breaks = views(), errors.JournalUnwritable("torn")
    async with connection(http_port) as raw:
        raw.send(head(path="/status?all=1", method="GET"))
        said = await asyncio.wait_for(raw.reader.read(), 5)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert not said.endswith(b"0\r\n\r\n")


FLAGS = [("1", True), ("true", True), ("0", False), ("false", False)]


@pytest.mark.parametrize("name", ["follow", "timestamps", "all"])
def test_every_flag_of_a_query_takes_the_same_words(name: str) -> None:
    """Whichever call it is of; what is something else, or there twice, is refused with them."""
    assert queries.flag(name, None) is False
    assert [queries.flag(name, [word]) for word, _ in FLAGS] == [on for _, on in FLAGS]
    for wrong in ([""], ["yes"], ["TRUE"], ["1", "1"]):
        with pytest.raises(errors.BadRequest, match=f"^{name}: expected 1, true, 0 or false$"):
            queries.flag(name, wrong)


@pytest.mark.parametrize(("query", "removed"), [("", False), *((f"?all={word}", on) for word, on in FLAGS)])
async def test_what_is_removed_is_listed_where_it_is_asked_for(
    ask: Ask, run_service: FakeRunService, query: str, removed: bool
) -> None:
    """`all=1`, or any other of the words of a flag."""
    await ask("GET", "/status" + query)
    assert run_service.calls == [("listing", removed)]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=done", "status"),
        ("status=", "status"),
        ("label==a", "label"),
        ("label=", "label"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("reason=late", "reason: expected one of exit, oom"),
        ("outcome=removed", "outcome: expected one of complete, failed, stopped"),
        ("name=a*?", "name: expected a name, or a pattern"),
        ("&".join(f"name=a{i}*" for i in range(11)), "name: expected at most 10 patterns; got 11"),
        ("image=", "image"),
        ("image=UPPER", "image"),
        ("image=sha256:" + "a" * 64, "image: an image ID is not supported"),
        ("image=*", "image"),
        ("&".join(["image=busybox"] * 11), "image: expected at most 10 of them; got 11"),
        ("since=", "since: expected a time such as 2026-11-22T20:29:03Z"),
        ("until=yesterday", "until: expected a time such as"),
        ("since=2026-02-30", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("since=2026-01-01&since=2026-01-01", "since"),
        ("since=0001-01-01T00:00:00%2B01:00", "since"),
        ("since=999999999999w", "since"),
        ("page=", "page: expected the next_page of an answer"),
        ("page=%C3%A9", "page"),
        ("page=AAAA", "page"),
        ("page=" + "a" * 600, "page"),
        ("page=IHM&page=IHM", "page"),
        ("all=yes", "all"),
        ("all=1&all=1", "all"),
        ("state=running", "unknown query parameter 'state'"),
        ("name=%ff", "query"),
        ("&".join(["name=a"] * 51), "query"),
    ],
)
async def test_a_wrong_filter_is_named(ask: Ask, run_service: FakeRunService, query: str, named: str) -> None:
    """400, and Docker is not asked."""
    check_refused(await ask("GET", "/status?" + query), 400, named)
    assert run_service.calls == []


# --- tokens -----------------------------------------------------------------------------------------------------------

CALLS = [("POST", "/run", IMAGE), ("POST", "/start", IMAGE), ("POST", "/stop", {"id": "s1"})]
READS = [("GET", "/status", None), ("GET", "/status/s1", None)]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_a_token_in_the_body_does(
    ask: Ask, run_service: FakeRunService, method: str, path: str, body: dict[str, str]
) -> None:
    """Alone, or the same as in the header; what goes on is without it."""
    for headers in ({}, BEARER):
        answer = await ask(method, path, {**body, "token": TOKEN}, headers)
        assert answer.code == 200, answer.body
    assert len(run_service.calls) == 2


@pytest.mark.parametrize(("method", "path", "body"), [*CALLS, *READS])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
async def test_without_the_token_nothing_is_done(
    ask: Ask, run_service: FakeRunService, method: str, path: str, body: object, headers: dict[str, str]
) -> None:
    """401, with how to authenticate."""
    answer = await ask(method, path, body, headers)
    check_refused(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert run_service.calls == []


@pytest.mark.parametrize("token", ["wrong", "", 1, True, [], {}])
async def test_two_tokens_that_differ_are_a_mistake(ask: Ask, run_service: FakeRunService, token: object) -> None:
    """400, though the header's is right."""
    check_refused(await ask("POST", "/run", {**IMAGE, "token": token}), 400, "token: ")
    assert run_service.calls == []


async def test_a_null_token_is_none(ask: Ask, run_service: FakeRunService) -> None:
    """Clients that fill in a template send null for what they do not have."""
    assert (await ask("POST", "/run", {**IMAGE, "token": None})).code == 200


async def test_two_authorization_headers_are_a_mistake(ask: Ask, run_service: FakeRunService) -> None:
    """Which one counts would be a guess."""
    headers = HTTPHeaders(BEARER)
    headers.add("Authorization", "Bearer wrong")
    check_refused(await ask("POST", "/run", IMAGE, headers), 400, "Authorization")
    assert run_service.calls == []


@pytest.mark.parametrize("name", ["token", "TOKEN", "access_token", "auth", "authorization", "%74oken"])
@pytest.mark.parametrize(
    ("method", "path", "body"), [*CALLS, *READS, ("GET", "/livez", None), ("GET", "/nothing", None)]
)
async def test_a_token_in_the_url_is_refused(
    ask: Ask, run_service: FakeRunService, method: str, path: str, body: object, name: str
) -> None:
    """400 on every path, also beside a right header, and not said back."""
    answer = await ask(method, f"{path}?x=1&{name}={TOKEN}", body)
    check_refused(answer, 400, "URL")
    assert TOKEN.encode() not in answer.body
    assert run_service.calls == []


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_a_wrong_field_is_named(ask: Ask, run_service: FakeRunService, field: str, value: object) -> None:
    """400 with the field's name, for each field in turn; nothing is run."""
    check_refused(await ask("POST", "/run", {**IMAGE, field: value}), 400, field)
    assert run_service.calls == []


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/run", {**IMAGE, "mounts": ["/:/host"]}, "unknown field 'mounts'"),
        ("/run", {}, "image: is required"),
        ("/stop", {}, "id: is required"),
        ("/stop", {"id": "a", "force": True}, "unknown field 'force'"),
        ("/stop", {"id": 7}, "id: "),
        ("/stop", {"id": ""}, "id: "),
    ],
)
async def test_a_field_too_many_or_too_few_is_named(
    ask: Ask, run_service: FakeRunService, path: str, body: object, says: str
) -> None:
    """400 that names it."""
    check_refused(await ask("POST", path, body), 400, says)
    assert run_service.calls == []


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize("path", ["/run", "/stop"])
@pytest.mark.parametrize("headers", [BEARER, {}])
async def test_what_is_no_json_object_is_refused_before_the_token(
    ask: Ask, run_service: FakeRunService, path: str, body: bytes, headers: dict[str, str]
) -> None:
    """400, with a token and without."""
    check_refused(await ask("POST", path, body, headers), 400, "the body ")
    assert run_service.calls == []


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "nonsense"])
async def test_a_body_is_json_whatever_its_type_says(ask: Ask, run_service: FakeRunService, kind: str) -> None:
    """`curl -d` calls it a form."""
    answer = await ask("POST", "/run", IMAGE, {**BEARER, "Content-Type": kind})
    assert answer.code == 200


async def test_no_body_is_an_empty_one(ask: Ask) -> None:
    """What is missing is said: first the token, then the field."""
    check_refused(await ask("POST", "/run", b"", {}), 401)
    check_refused(await ask("POST", "/run", b""), 400, "image: is required")


async def test_a_body_of_just_the_bound_is_read(ask: Ask, run_service: FakeRunService) -> None:
    """128 KiB are allowed, one byte more is not."""
    fits = json.dumps(IMAGE).encode().ljust(MAX_BODY)
    assert len(fits) == MAX_BODY
    assert (await ask("POST", "/run", fits)).code == 200
    check_refused(await ask("POST", "/run", fits + b" "), 413, str(MAX_BODY))
    assert len(run_service.calls) == 1


@pytest.mark.parametrize("size", [MAX_BODY + 1, 512 * 1024, 2 * 1024 * 1024])
@pytest.mark.parametrize("path", ["/run", "/stop"])
async def test_a_large_body_is_answered_readably(ask: Ask, run_service: FakeRunService, size: int, path: str) -> None:
    """413 to a client that sends all of it first."""
    check_refused(await ask("POST", path, b"x" * size), 413)
    assert run_service.calls == []


async def test_a_large_content_length_is_refused_before_the_body(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService
) -> None:
    """413 at once where it is over what is read at all: the client need not send what would be thrown away."""
    async with connection(http_port) as raw:
        raw.send(head(f"Content-Length: {MAX_READ + 1}"))
        status, headers, problem = await raw.answer()
    assert (status, problem["code"], headers["X-Request-Id"]) == (413, 413, problem["instance"])
    assert run_service.calls == []


@pytest.mark.parametrize("size", [MAX_BODY + 1, 900 * 1024])
async def test_a_large_chunked_body_is_refused(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService, size: int
) -> None:
    """Its length is known at its end only; the answer is the same 413."""
    async with connection(http_port) as raw:
        raw.send(head("Transfer-Encoding: chunked"))
        for begin in range(0, size, 8192):
            part = b"x" * min(8192, size - begin)
            raw.send(f"{len(part):x}\r\n", part, "\r\n")
        raw.send("0\r\n\r\n")
        status, _, problem = await raw.answer()
    assert (status, problem["success"]) == (413, False)
    assert run_service.calls == []


async def test_a_small_chunked_body_is_read(
    http_client: AsyncHTTPClient, http_port: int, run_service: FakeRunService
) -> None:
    """In however many pieces."""
    async with connection(http_port) as raw:
        raw.send(head("Transfer-Encoding: chunked"))
        for byte in json.dumps(IMAGE).encode():
            raw.send(f"1\r\n{byte:c}\r\n")
        raw.send("0\r\n\r\n")
        assert (await raw.answer())[0] == 200


async def test_a_token_may_have_any_characters_in_a_header(
    http_client: AsyncHTTPClient, state: State, http_port: int
) -> None:
    """curl sends what the terminal gave it: UTF-8."""
    state.auth.replace([grant("alice", "ключ-ä")])
    body = json.dumps(IMAGE)
    async with connection(http_port) as raw:
        raw.send(
            f"POST /run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ключ-ä\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw.send(body)
        assert (await raw.answer())[0] == 200


async def test_a_run_goes_on_without_its_client(http_client: AsyncHTTPClient, http_port: int, state: State) -> None:
    """What has begun is finished, and counted as busy until it is."""
    state.run_service.gate = asyncio.Event()
    body = json.dumps(IMAGE)
    async with connection(http_port) as raw:
        raw.send(head(f"Content-Length: {len(body)}"), body)
        await until(lambda: bool(state.run_service.calls))
    await asyncio.sleep(0)
    assert len(state.busy) == 1
    state.run_service.gate.set()
    await until(lambda: not state.busy)


async def test_a_client_that_leaves_in_the_middle_holds_nothing_up(
    http_client: AsyncHTTPClient, http_port: int, state: State
) -> None:
    """A body that never came whole is not waited for when stopping, and nothing is run."""
    async with connection(http_port) as raw:
        raw.send(head("Content-Length: 100"), '{"image": ')
        await until(lambda: bool(state.busy))
    await until(lambda: not state.busy)
    assert state.run_service.calls == []


@pytest.mark.parametrize(("method", "path", "body"), [*CALLS, *READS, ("GET", "/nothing", None), ("PUT", "/run", b"")])
async def test_an_answered_request_is_not_busy(ask: Ask, state: State, method: str, path: str, body: object) -> None:
    """Else a stop would wait for it."""
    state.run_service.views = views()
    await ask(method, path, body)
    await until(lambda: not state.busy)


# --- routes, methods, headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/static/", "/nothing", "/run/", "/status/", "/status/a/b", "/stop/s1", "//run", "/RUN"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_path_that_is_no_route_is_404(ask: Ask, method: str, path: str) -> None:
    """In the one shape, by any method, with a token and without; it says where the routes are described."""
    for headers in (BEARER, {}):
        answer = await ask(method, path, None if method == "GET" else b"", headers)
        check_refused(answer, 404, says="no such path; see GET /openapi.json")


@pytest.mark.parametrize(
    ("path", "right"),
    [("/run", "POST"), ("/start", "POST"), ("/stop", "POST"), ("/status", "GET"), ("/livez", "GET"), ("/", "GET")],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_another_method_is_405(ask: Ask, run_service: FakeRunService, method: str, path: str, right: str) -> None:
    """With the right ones in Allow (RFC 9110), and in the error."""
    if method == right:
        return
    answer = await ask(method, path, None if method == "GET" else b"")
    check_refused(answer, 405, right)
    assert right in answer.headers["Allow"].split(", ")
    assert method not in answer.headers["Allow"].split(", ")
    assert run_service.calls == []


@pytest.mark.parametrize(
    "error",
    [
        errors.BadRequest("image: no"),
        errors.Unauthorized("no"),
        errors.NotFound("no service"),
        errors.Conflict("the name is taken"),
        errors.PayloadTooLarge("large"),
        errors.EngineRefused("Docker said no"),
        errors.RegistryRefused("the registry said no"),
        errors.EngineAway("the engine is away"),
        errors.NotAManager("no swarm"),
    ],
)
@pytest.mark.parametrize(("method", "path", "body"), [CALLS[0], CALLS[2], *READS])
async def test_each_error_is_answered_with_its_status(
    ask: Ask, run_service: FakeRunService, error: errors.HttpError, method: str, path: str, body: object
) -> None:
    """And the headers that belong to it."""
    run_service.error = error
    answer = await ask(method, path, body)
    check_refused(answer, int(error.status), str(error))
    for name, value in error.headers.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize("wait", [False, 0])
@pytest.mark.parametrize(("token", "address"), [(TOKEN, "10.9.8.7"), ("alice", "…")])
async def test_a_warning_has_no_addresses_for_who_sees_only_its_own(
    ask: Ask, state: State, run_service: FakeRunService, token: str, address: str, wait: object
) -> None:
    """The engine's words are in warnings as in errors: only root reads where it asks for names."""
    state.auth.replace([grant("alice")])
    run_service.views = [OVER]
    run_service.warnings = (
        "pull_policy: the registry docker.io did not answer: lookup docker.io on 10.9.8.7:53: silent",
    )
    answer = await ask("POST", "/run", {**IMAGE, "wait": wait}, {"Authorization": f"Bearer {token}"})
    (warning,) = document(answer)["warnings"]
    assert warning == run_service.warnings[0].replace("10.9.8.7", address)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.BadRequest("wrong"), "info"),
        (errors.NotFound("no service"), "info"),
        (errors.RegistryRefused("the registry said no"), "warning"),
        (errors.EngineAway("the engine is away"), "warning"),
        (errors.JournalUnwritable("the disk is full"), "warning"),
    ],
)
async def test_the_log_has_the_reason_of_each_refusal(
    ask: Ask, run_service: FakeRunService, error: errors.HttpError, level: str
) -> None:
    """The words of the answer; where the engine, the registry or the disk fails, at level warning."""
    run_service.error = error
    with capture_logs() as logs:
        await ask(*READS[0])
        run_service.error = None
        await ask(*READS[0])
    refused, answered = [line for line in logs if line["event"] == "request"]
    assert (refused["reason"], refused["log_level"], refused["status"]) == (str(error), level, int(error.status))
    assert (answered["log_level"], "reason" in answered) == ("info", False)


@pytest.mark.parametrize(("method", "path", "body"), [CALLS[0], READS[0]])
async def test_a_mistake_of_ours_shows_nothing(
    ask: Ask, run_service: FakeRunService, method: str, path: str, body: object
) -> None:
    """500 in the one shape, without the error's own words."""
    run_service.error = RuntimeError("hunter2")
    answer = await ask(method, path, body)
    check_refused(answer, 500)
    assert b"hunter2" not in answer.body
    assert b"RuntimeError" not in answer.body


@pytest.mark.parametrize("given", ["r-1", "0af7651916cd43dd8448eb211c80319c", "a.b_c:d", "x" * 128])
@pytest.mark.parametrize(("method", "path", "body"), [CALLS[0], ("GET", "/livez", None), ("GET", "/nothing", None)])
async def test_a_requests_id_comes_back(ask: Ask, given: str, method: str, path: str, body: object) -> None:
    """In the header of every answer, and as an error's instance (check_refused)."""
    answer = await ask(method, path, body, {**BEARER, "X-Request-ID": given})
    assert answer.headers["X-Request-ID"] == given
    if answer.code != 200:
        check_refused(answer, answer.code)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [None, errors.EngineAway("the engine is away"), RuntimeError("a mistake of ours")], ids=str
)
@pytest.mark.parametrize("given", [{}, {"X-Request-ID": "r-1"}], ids=["chosen", "given"])
async def test_the_id_in_an_answer_is_the_one_in_the_log(
    ask: Ask, run_service: FakeRunService, error: Exception | None, given: dict[str, str]
) -> None:
    """A caller that was told of a failure can be helped by its id."""
    run_service.error = error
    answer = await ask("POST", "/run", IMAGE, {**BEARER, **given})
    assert run_service.logged_as == [answer.headers["X-Request-ID"]]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "<script>", "a;b", "ä"])
async def test_a_request_without_a_sane_id_gets_one(ask: Ask, given: str | None) -> None:
    """What is not of its grammar could break a log line."""
    headers = {} if given is None else {"X-Request-ID": given}
    ids = [(await ask("GET", "/livez", None, headers)).headers["X-Request-ID"] for _ in range(2)]
    assert given not in ids
    assert len(set(ids)) == 2


@pytest.mark.parametrize(("method", "path"), [("GET", "/livez"), ("GET", "/readyz"), ("GET", "/status"), ("GET", "/x")])
async def test_every_answer_has_the_safe_headers(ask: Ask, method: str, path: str) -> None:
    """Nothing is cached, no type is guessed, and the server does not tell its version."""
    answer = await ask(method, path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "tornado" not in answer.headers["Server"].lower()


# --- probes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_probe_that_is_well_is_no_line_of_the_log(ask: Ask, state: State, method: str) -> None:
    """It comes every few seconds; one that is not well is one, and all are counted."""
    with capture_logs() as logs:
        for path in ("/livez", "/readyz"):
            await ask(method, path, None, {})
        state.trouble.append(errors.EngineAway("away"))
        await ask(method, "/readyz", None, {})
        await ask(method, "/livez?token=x", None, {})
        await ask(method, "/openapi.json", None, {})
    assert [(line["event"], line["path"], line["status"]) for line in logs] == [
        ("request", "/readyz", 503),
        ("request", "/livez", 400),
        ("request", "/openapi.json", 200),
    ]
    assert len(state.counted) == 5


async def test_it_is_alive_whatever_the_engine_does(ask: Ask, state: State) -> None:
    """/livez is 200, without a token."""
    state.trouble.append(errors.EngineAway("the engine is away"))
    answer = await ask("GET", "/livez", None, {})
    assert (answer.code, document(answer)["success"]) == (200, True)


@pytest.mark.parametrize("trouble", [errors.EngineAway("the engine is away"), errors.NotAManager("no swarm here")])
async def test_it_is_ready_when_the_engine_is(ask: Ask, state: State, trouble: errors.HttpError) -> None:
    """/readyz is 503 with the reason and Retry-After until then; without a token."""
    state.trouble.append(trouble)
    answer = await ask("GET", "/readyz", None, {})
    check_refused(answer, 503, str(trouble))
    assert int(answer.headers["Retry-After"]) > 0
    state.trouble.clear()
    assert (await ask("GET", "/readyz", None, {})).code == 200
