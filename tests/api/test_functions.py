"""api.functions: publish, show, list, roll back and delete by HTTP, with the tokens of a file; no engine is needed."""

import json
from typing import Any

import contract
import pytest
from fakes import DIGEST
from in_process import ALICE, BOB, Ask, InProcess, app, ask, entry, home, options
from tornado.httpclient import HTTPResponse

from qmaster.errors import EngineAway, NotAManager
from qmaster.models.functions import FunctionError, FunctionStats, InstanceCounts

__all__ = ["app", "ask", "home", "options"]  # the fixtures

pytestmark = pytest.mark.gen_test

SPEC = {"image": "busybox:1", "env": {"PASSWORD": "hush"}}
ALL = '"run", "stop", "read", "invoke"'


@pytest.fixture(autouse=True)
def _tokens(home: InProcess) -> None:
    """`team` has functions; `alice` and `bob` have none."""
    home.write(ALICE, BOB, entry("team", 'functions = ["team-*"]', 'networks = ["blue"]', scopes=ALL))
    assert home.server.token_file
    home.server.token_file.load()


def document(answer: HTTPResponse) -> Any:
    return json.loads(answer.body)


def described(answer: HTTPResponse, method: str, path: str) -> Any:
    """The answer's document, as soon as it is one that `/openapi.json` has."""
    contract.check_answer(path, method, answer.code, answer.headers, answer.body)
    assert "hush" not in answer.body.decode()
    return document(answer)


async def test_a_function_lives(ask: Ask) -> None:
    """It is published, shown, listed, published anew, rolled back to, and deleted; each answer is as described."""
    first = await ask("root", "PUT", "/functions/resize", SPEC)
    shown = described(first, "PUT", "/functions/{name}")
    assert (first.code, shown["version"], shown["image"]) == (201, 1, f"busybox:1@{DIGEST}")
    assert shown["spec"]["env"] == ["PASSWORD"]
    again = await ask("root", "PUT", "/functions/resize", SPEC)
    assert (again.code, described(again, "PUT", "/functions/{name}")) == (200, shown)
    next_one = await ask("root", "PUT", "/functions/resize", {**SPEC, "memory": 64})
    assert (next_one.code, document(next_one)["version"]) == (201, 2)

    one = described(await ask("root", "GET", "/functions/resize"), "GET", "/functions/{name}")
    assert one == document(next_one)
    everything = described(await ask("root", "GET", "/functions"), "GET", "/functions")
    assert everything["functions"] == [{name: value for name, value in one.items() if name != "success"}]
    versions = described(await ask("root", "GET", "/functions/resize/versions"), "GET", "/functions/{name}/versions")
    assert [each["version"] for each in versions["versions"]] == [2, 1]

    back = await ask("root", "POST", "/functions/resize/rollback", {"version": 1})
    assert (back.code, described(back, "POST", "/functions/{name}/rollback")["version"]) == (201, 3)
    retry = await ask("root", "POST", "/functions/resize/rollback", {"version": 1})
    assert (retry.code, described(retry, "POST", "/functions/{name}/rollback")["version"]) == (200, 3)
    gone = await ask("root", "POST", "/functions/resize/rollback", {"version": 9})
    assert (gone.code, "has no version 9" in described(gone, "POST", "/functions/{name}/rollback")["error"]) == (
        404,
        True,
    )

    deleted = await ask("root", "DELETE", "/functions/resize")
    assert described(deleted, "DELETE", "/functions/{name}") == {"success": True, "name": "resize"}
    for method, path in (("GET", "/functions/resize"), ("DELETE", "/functions/resize")):
        assert described(await ask("root", method, path), method, "/functions/{name}")["code"] == 404
    assert document(await ask("root", "GET", "/functions"))["functions"] == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "image: is required"),
        ({**SPEC, "auth": "e30="}, "unknown field 'auth': not supported, as later instances need it too"),
        ({**SPEC, "replicas": 2}, "unknown field 'replicas': use min_instances and max_instances"),
        ({**SPEC, "runtime": "python3.11"}, "runtime: expected one of lambda, job"),
        ({**SPEC, "runtime": "job", "idle": 5}, "idle: not supported with runtime job"),
        ({**SPEC, "timeout": "30"}, "timeout: expected a number (seconds)"),
        ({**SPEC, "min_instances": 11}, "min_instances: expected at most max_instances, 10"),
        ({**SPEC, "token": "another"}, "token: the header and the body hold different tokens"),
        (b"[]", "the body is not a JSON object"),
        (b'{"image": "a", "image": "b"}', "the body has the key 'image' twice"),
    ],
)
async def test_a_wrong_spec_changes_nothing(ask: Ask, home: InProcess, body: Any, says: str) -> None:
    """The error names the field; the engine is not asked."""
    answer = await ask("root", "PUT", "/functions/resize", body)
    assert (answer.code, described(answer, "PUT", "/functions/{name}")["error"].startswith(says)) == (400, True)
    assert home.engine.asked() + home.engine.configs.names()[1:] == []


@pytest.mark.parametrize("name", ["Resize", "a.b", "-a", "a" * 49, "%20", "%24LATEST", "a%2Fb"])
async def test_a_wrong_name_is_no_functions(ask: Ask, name: str) -> None:
    """400 where it is published; else nothing has it."""
    answer = await ask("root", "PUT", f"/functions/{name}", SPEC)
    assert (answer.code, document(answer)["error"].startswith("name: expected up to 48")) == (400, True)
    for method in ("GET", "DELETE"):
        assert (await ask("root", method, f"/functions/{name}")).code == 404


async def test_a_token_has_only_its_functions(ask: Ask) -> None:
    """Others are 404 to it, as those that are not there; to publish over them is 403. By default it has none."""
    for name in ("team-a", "other"):
        assert (await ask("root", "PUT", f"/functions/{name}", SPEC)).code == 201
    assert [each["name"] for each in document(await ask("team", "GET", "/functions"))["functions"]] == ["team-a"]
    assert document(await ask("bob", "GET", "/functions"))["functions"] == []
    for who, name in (("team", "other"), ("team", "none"), ("bob", "team-a")):
        for method, path, body in (
            ("GET", "", None), ("GET", "/versions", None), ("DELETE", "", None), ("POST", "/rollback", {"version": 1}),
        ):  # fmt: skip
            answer = await ask(who, method, f"/functions/{name}{path}", body)
            assert (answer.code, document(answer)["error"]) == (404, f"no function has the name '{name}'")
        answer = await ask(who, "PUT", f"/functions/{name}", SPEC)
        assert (answer.code, document(answer)["error"]) == (403, f"functions: this token may not publish '{name}'")
    over = await ask("team", "PUT", "/functions/team-a", SPEC)
    assert (over.code, document(over)["owner"], document(over)["version"]) == (201, "team", 2)
    assert (await ask("team", "DELETE", "/functions/team-a")).code == 200
    assert (await ask("root", "GET", "/functions/other")).code == 200


async def test_a_publication_is_a_run_to_the_policy(ask: Ask) -> None:
    """The rule is named."""
    for more, says in (({"secrets": ["key"]}, "secrets: "), ({"url": "public"}, "public: ")):
        answer = await ask("team", "PUT", "/functions/team-a", {**SPEC, **more})
        assert (answer.code, document(answer)["error"].startswith(says)) == (403, True)
    assert (await ask("team", "PUT", "/functions/team-a", {**SPEC, "networks": ["blue"]})).code == 201


async def test_a_delete_takes_no_fields(ask: Ask, home: InProcess) -> None:
    """But the token."""
    await ask("root", "PUT", "/functions/resize", SPEC)
    answer = await ask("root", "DELETE", "/functions/resize", {"force": True})
    assert (answer.code, document(answer)["error"]) == (400, "unknown field 'force'; only token is known")
    answer = await ask("root", "GET", "/functions/resize?all=1")
    assert (answer.code, document(answer)["error"]) == (400, "unknown query parameter 'all'; known: none")
    assert (await ask("root", "GET", "/functions/resize")).code == 200


async def test_what_it_does_now_is_shown(ask: Ask, home: InProcess) -> None:
    """Its instances, the calls that wait, and why the last ones failed."""
    failed = FunctionError(time="2026-11-22T20:29:03Z", reason="init_error", message="no module app")
    stats = FunctionStats(instances=InstanceCounts(starting=1, busy=2), queued=3, last_errors=[failed])
    assert home.server.functions
    home.server.functions.service._stats = lambda name: stats
    await ask("root", "PUT", "/functions/resize", SPEC)
    shown = described(await ask("root", "GET", "/functions/resize"), "GET", "/functions/{name}")
    assert (shown["instances"], shown["queued"]) == ({"starting": 1, "idle": 0, "busy": 2}, 3)
    assert [each["reason"] for each in shown["last_errors"]] == ["init_error"]


UNSEEN: list[tuple[str, str, object]] = [
    ("GET", "/functions/{}", None),
    ("PUT", "/functions/{}", SPEC),
    ("DELETE", "/functions/{}", None),
    ("GET", "/functions/{}/versions", None),
    ("GET", "/functions/{}/logs", None),
    ("POST", "/functions/{}/rollback", {"version": 1}),
    ("POST", "/functions/{}/rollback", {"version": 9}),
    ("POST", "/functions/{}/invoke", {}),
    ("POST", "/2015-03-31/functions/{}/invocations", {}),
    ("POST", "/2015-03-31/functions/{}:9/invocations", {}),
    ("POST", "/2015-03-31/functions/{}/invocations?Qualifier=x", {}),
    ("POST", "/2021-11-15/functions/{}/response-streaming-invocations", {}),
    ("GET", "/fn/{}/a", None),
    ("GET", "/status?function={}", None),
]


async def test_a_function_that_a_token_does_not_see_is_like_none(ask: Ask) -> None:
    """On every route: the same status, and the same words."""
    await ask("root", "PUT", "/functions/there", {**SPEC, "url": "token"})
    for method, path, body in UNSEEN:
        said = []
        for name in ("there", "nulls"):
            answer = await ask("team", method, path.format(name), body)
            told = document(answer)
            for key in ("instance", "cursor"):
                told.pop(key, None)
            said.append((answer.code, json.dumps(told).replace(name, "NAME"), sorted(answer.headers)))
        assert said[0] == said[1], path


async def test_an_engine_s_message_is_masked(ask: Ask, home: InProcess) -> None:
    """Only the root token sees the addresses and hosts in it."""
    said = "Get http://registry.inner.example.net:5000/v2/: dial tcp 10.1.2.3:5000: connection refused"
    failed = FunctionError(time="2026-11-22T20:29:03Z", reason="image_not_found", message=said)
    assert home.server.functions
    home.server.functions.service._stats = lambda name: FunctionStats(last_errors=[failed])
    await ask("root", "PUT", "/functions/resize", SPEC)
    home.write(entry("carol", 'functions = ["*"]'))
    assert home.server.token_file
    home.server.token_file.load()
    for path in ("/functions", "/functions/resize"):
        for who, sees in (("root", True), ("carol", False)):
            answer = await ask(who, "GET", path)
            assert (answer.code, b"10.1.2.3" in answer.body) == (200, sees)


@pytest.mark.slow
async def test_a_listing_of_many_is_whole(ask: Ask) -> None:
    """In the order of their names."""
    for number in range(120):
        await ask("root", "PUT", f"/functions/f{number:03}", {"image": "busybox"})
    shown = described(await ask("root", "GET", "/functions"), "GET", "/functions")
    assert [each["name"] for each in shown["functions"]] == [f"f{number:03}" for number in range(120)]


@pytest.mark.parametrize(
    ("error", "says"), [(NotAManager("run 'docker swarm init'"), "swarm init"), (EngineAway("it is away"), "away")]
)
async def test_without_an_engine_or_a_swarm_it_is_503(ask: Ask, home: InProcess, error: Any, says: str) -> None:
    """What changes asks the engine; what is known is shown as long as there is a swarm."""
    await ask("root", "PUT", "/functions/resize", SPEC)
    home.engine.configs.fails["labelled"] = error
    assert home.server.functions
    home.server.functions.store._failed(error)
    for method, path, body in (
        ("PUT", "", SPEC), ("DELETE", "", None), ("POST", "/rollback", {"version": 1}),
    ):  # fmt: skip
        answer = await ask("root", method, f"/functions/resize{path}", body)
        assert (answer.code, says in described(answer, method, f"/functions/{{name}}{path}")["error"]) == (503, True)
        assert answer.headers["Retry-After"]
    codes = {(await ask("root", "GET", path)).code for path in ("/functions", "/functions/resize")}
    assert codes == {503 if isinstance(error, NotAManager) else 200}
