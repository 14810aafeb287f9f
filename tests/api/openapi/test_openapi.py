"""openapi: the document is valid, says what the code does, and its examples work."""

import re
from collections.abc import Iterator
from typing import Any

import contract
import jsonschema
import msgspec
import openapi_spec_validator
import pytest
from api_cases import BEARER, GOING_ON, IMAGE, OVER, TOKEN, Ask, FakeRunService, State, app, ask, run_service, state
from fakes import grant

from docs import as_pattern, routes, statuses
from qmaster import errors
from qmaster.api import events, filters, logs, queries
from qmaster.api.calls import invocations
from qmaster.api.openapi import document as openapi
from qmaster.api.openapi import examples, schemas
from qmaster.api.openapi import functions as openapi_functions
from qmaster.auth.authenticator import BURST
from qmaster.auth.tokens import SCOPES
from qmaster.events import cloudevents, frames
from qmaster.models import requests, responses
from qmaster.models.functions import FunctionVersion
from qmaster.models.invocations import InvocationError, InvocationView

__all__ = ["app", "ask", "run_service", "state"]  # the fixtures

Json = dict[str, Any]

DOCUMENT = openapi.document()
OPERATIONS = [
    (path, method, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in ("get", "post", "put", "delete")
    if method in item
]


STREAMS = {"/events", "/logs/{id}", "/functions/{name}/logs"}  # come from parts that the handlers' tests do not have
BODIES: dict[tuple[str, str], Json] = {
    ("/run", "post"): IMAGE,
    ("/stop", "post"): {"id": "nap"},
    ("/functions/{name}", "put"): IMAGE,
    ("/functions/{name}/rollback", "post"): {"version": 1},
}
WITH_BODY = [(path, method) for path, method, _ in OPERATIONS if (path, method) in BODIES]
READS = sorted({path for path, method, _ in OPERATIONS if method == "get"} - STREAMS)


def placed(path: str) -> str:
    """A path of the API with the names that the parts have."""
    return path.replace("{id}", "nap").replace("{file}", "style.css").replace("{name}", "resize")


def nested(value: Any) -> Iterator[Json]:
    """Every object in it."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nested(each)


def names(path: str, where: str = "query") -> list[str]:
    parameters = [contract.resolved(each) for each in DOCUMENT["paths"][path]["get"].get("parameters", ())]
    return [each["name"] for each in parameters if each["in"] == where]


# --- it says what the code does ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_openapi_3_1() -> None:
    """By a validator of others."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(DOCUMENT)


def test_every_route_is_described() -> None:
    """Each path of the application with GET or POST, and nothing else: no HEAD and no /start, which are the same."""
    described = [
        (method.upper(), as_pattern(path))
        for path, item in DOCUMENT["paths"].items()
        for method in item.keys() - {"parameters"}
    ]
    assert sorted(described) == sorted(each for each in routes() if each[0] != "HEAD" and each[1] != "/start")


def test_the_query_parameters_are_those_of_the_handlers() -> None:
    """Of the listing, of one, and of the stream."""
    assert sorted(names("/status")) == sorted(filters.FILTERS)
    assert names("/status/{id}") == ["wait"]
    assert sorted(names("/logs/{id}")) == sorted(names("/functions/{name}/logs")) == sorted(logs.PARAMETERS)
    assert sorted(names("/events")) == sorted(events.PARAMETERS)
    assert sorted(names("/invocations")) == sorted(invocations.FILTERS)
    assert names("/invocations/{id}") == ["wait"]


def test_each_field_of_a_run_is_told() -> None:
    """Those of the request, in words; and the token beside them, which the request type does not have."""
    fields = [field.name for field in msgspec.structs.fields(requests.RunRequest)]
    assert sorted(schemas.FIELDS) == sorted(fields)
    properties = DOCUMENT["components"]["schemas"]["RunRequest"]["properties"]
    assert list(properties) == [*fields, "token"]
    assert all(properties[name]["description"] for name in properties)
    assert DOCUMENT["components"]["schemas"]["RunRequest"]["additionalProperties"] is False


def test_the_errors_are_those_of_the_code() -> None:
    """Each status but 405, which no described call is answered with; in the one shape."""
    assert set(openapi.ERRORS) == {int(status) for status in statuses(errors.HttpError)} - {405}
    assert set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]) == set(errors.problem(400, "", ""))


def test_only_the_page_the_probes_and_the_document_are_open() -> None:
    """All else wants the token: in the header, or where there is a body in it."""
    open_ = {path for path, _, operation in OPERATIONS if operation.get("security") == []}
    assert open_ == {"/", "/static/{file}", "/livez", "/readyz", "/openapi.json"}
    body = {(path, method) for path, method, operation in OPERATIONS if {} in operation.get("security", ())}
    assert body == BODIES.keys()
    for path, _, operation in OPERATIONS:
        assert all((str(status) in operation["responses"]) == (path not in open_) for status in (401, 429))


@pytest.mark.gen_test
async def test_the_scopes_are_those_of_the_handlers(ask: Ask, run_service: FakeRunService, state: State) -> None:
    """Beside each call stands what its token needs."""
    needs = {
        (path, method): operation["security"][0]["bearer"][0]
        for path, method, operation in OPERATIONS
        if operation["security"]
    }
    assert {path for (path, _), scope in needs.items() if scope == "root"} == {"/nodes", "/metrics"}
    state.auth.replace([grant(scope, scopes=frozenset({scope}), functions=("*",)) for scope in SCOPES])
    run_service.views = [OVER]
    for (path, method), needed in needs.items():
        for scope in SCOPES:
            if path in STREAMS and scope == needed:
                continue
            body, place = BODIES.get((path, method)), path.replace("{name}", "resize")
            answer = await ask(method.upper(), place, body, {"Authorization": f"Bearer {scope}"})
            assert (answer.code == 403) == (scope != needed), (path, scope)
            contract.check_answer(path, method, answer.code, answer.headers, answer.body)
            if answer.code == 403:
                said = msgspec.json.decode(answer.body)
                assert said.get("error", said.get("message")).startswith("scopes: ")  # Lambda's API has another form


def test_what_a_caller_may_leave_out_is_not_required() -> None:
    """Neither as required, nor as a default, which generators take for the same: that is told in words."""
    schema = DOCUMENT["components"]["schemas"]["RunRequest"]
    assert schema["required"] == ["image"]
    assert not [name for name, each in schema["properties"].items() if "default" in each]
    told = {name: each["description"].partition(" Default: ")[2] for name, each in schema["properties"].items()}
    expected = {"type": "`service`.", "replicas": "`1`.", "restart": "`none`.", "no_new_privileges": "`true`."}
    expected["mode"] = "`replicated`."
    assert {name: text for name, text in told.items() if text} == expected


def test_the_answer_of_a_run_is_one_schema() -> None:
    """Whether it was waited for or not: what is there with ``wait`` alone is optional, and there as a whole."""
    responses = DOCUMENT["paths"]["/run"]["post"]["responses"]
    answers = [responses[status]["content"]["application/json"]["schema"] for status in ("200", "202")]
    assert answers == [{"$ref": "#/components/schemas/RunAnswer"}] * 2
    assert contract.resolved(answers[0])["required"] == ["success", "id"]
    contract.check_value(answers[0], {"success": True, "id": examples.ID})
    with pytest.raises(jsonschema.ValidationError):
        contract.check_value(answers[0], {"success": True, "id": examples.ID, "status": "running"})


def test_each_time_is_a_date_and_time() -> None:
    """Wherever a field is one."""
    times = [
        value
        for each in nested(DOCUMENT["components"]["schemas"])
        for name, value in each.items()
        if (name in ("time", "stale_since") or name.endswith("_at")) and isinstance(value, dict)
    ]
    assert len(times) > 10
    assert all({"type": "string", "format": "date-time"} in (each, *each.get("anyOf", ())) for each in times)


# --- what a subscriber reads ------------------------------------------------------------------------------------------

TIME = "2026-11-22T20:29:03.085076548Z"
VIEW = msgspec.json.decode(msgspec.json.encode(examples.SERVICE), type=responses.Service)
NODE = msgspec.convert(examples.NODE, responses.Node)
FAULT = InvocationError(type="ValueError", message="no", stack=["line 1"])
INVOCATIONS = [
    InvocationView(id="i", function="f", version=1, status="succeeded", owner="a", created_at=TIME, ended_at=TIME),
    InvocationView(id="j", function="f", version=1, status="dead", owner="a", created_at=TIME, error=FAULT),
]
FUNCTION = msgspec.convert(openapi_functions.VERSION, FunctionVersion)
FRAMES = [
    frames.hello("1", examples.CURSOR),
    frames.snapshot(examples.CURSOR, [VIEW], [NODE]),
    frames.snapshot(examples.CURSOR, [], [], [FUNCTION]),
    frames.gap("epoch_changed", examples.CURSOR, examples.CURSOR),
    frames.heartbeat(examples.CURSOR, TIME, None),
    frames.heartbeat(examples.CURSOR, TIME, TIME),
    frames.error(4401, "why"),
]


@pytest.mark.parametrize("frame", FRAMES)
def test_each_frame_is_described(frame: frames.Frame) -> None:
    """As one that a subscriber of ``/events`` reads."""
    contract.check_value({"$ref": "#/components/schemas/Frame"}, msgspec.json.decode(frame.payload))


def test_each_event_is_described() -> None:
    """Of services, tasks, nodes, functions and invocations; in its frame, and alone."""
    told = [
        *cloudevents.of_service(None, VIEW, TIME),
        *(each for before, after in ((None, NODE), (NODE, None)) for each in cloudevents.of_node(before, after, TIME)),
        *cloudevents.of_function(None, FUNCTION, TIME),
        *cloudevents.of_function(FUNCTION, None, TIME),
        *map(cloudevents.of_invocation, INVOCATIONS),
    ]
    assert {event.topic for event in told} == events.TOPICS
    for event in told:
        cloud_event = cloudevents.encode(event, "5f3a9c1e", 1)
        contract.check_value({"$ref": "#/components/schemas/CloudEvent"}, msgspec.json.decode(cloud_event))
        frame = frames.event(examples.CURSOR, event.type, cloud_event)
        contract.check_value({"$ref": "#/components/schemas/Frame"}, msgspec.json.decode(frame.payload))


def test_its_patterns_are_anybody_s() -> None:
    """No lookahead, which Go and Rust do not have."""
    patterns = [each["pattern"] for each in nested(DOCUMENT) if isinstance(each.get("pattern"), str)]
    assert len(patterns) > 5
    assert not [pattern for pattern in patterns if "(?" in pattern or not re.compile(pattern)]


# --- its examples work ------------------------------------------------------------------------------------------------


def test_each_example_is_of_its_schema() -> None:
    """Of parameters, headers, bodies and answers."""
    found = [each for each in nested(contract.DOCUMENT) if "schema" in each and {"example", "examples"} & each.keys()]
    assert len(found) > 20
    for each in found:
        values = [one["value"] for one in each["examples"].values()] if "examples" in each else [each["example"]]
        for value in values:
            as_sent = int(value) if each["schema"].get("type") == "integer" else value
            contract.check_value(each["schema"], as_sent)


@pytest.mark.gen_test
@pytest.mark.parametrize(("path", "method"), [*WITH_BODY, ("/start", "post")])
async def test_each_body_is_taken(ask: Ask, run_service: FakeRunService, path: str, method: str) -> None:
    """By the real handlers; with the token in the header, and in the body. The answers are described."""
    run_service.views = [OVER]
    described = path.replace("/start", "/run")
    examples = DOCUMENT["paths"][described][method]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        for body, headers in ((example["value"], BEARER), ({**example["value"], "token": TOKEN}, {})):
            answer = await ask(method.upper(), placed(path), body, headers)
            assert answer.code in (200, 201), answer.body
            contract.check_answer(described, method, answer.code, answer.headers, answer.body)


@pytest.mark.gen_test
@pytest.mark.parametrize("path", READS)
async def test_each_query_is_taken(ask: Ask, run_service: FakeRunService, path: str) -> None:
    """With the examples of all its parameters; the answers are described."""
    run_service.views = [OVER]
    query = []
    for parameter in map(contract.resolved, DOCUMENT["paths"][path]["get"].get("parameters", ())):
        if parameter["in"] == "query" and "example" in parameter:
            values = parameter["example"] if isinstance(parameter["example"], list) else [parameter["example"]]
            query += [f"{parameter['name']}={value}" for value in values]
    answer = await ask("GET", placed(path) + "?" + "&".join(query))
    assert answer.code == 200, answer.body
    contract.check_answer(path, "get", 200, answer.headers, answer.body)


@pytest.mark.gen_test
@pytest.mark.parametrize("path", READS)
async def test_head_is_answered_as_get(ask: Ask, run_service: FakeRunService, path: str) -> None:
    """The same status and headers, and no body, as what watches a page or a probe asks (RFC 9110, 9.3.2)."""
    run_service.views = [OVER]
    place = placed(path)
    get, head = await ask("GET", place), await ask("HEAD", place)
    varying = ("X-Request-Id", "Date")
    for answer in (get, head):
        for name in varying:
            del answer.headers[name]
    assert (head.code, dict(head.headers), head.body) == (200, dict(get.headers), b"")


def test_each_flag_is_described_with_all_of_its_words() -> None:
    """Those that are taken, wherever one is."""
    described = {
        (path, each["name"]): each["schema"].get("enum")
        for path, method, operation in OPERATIONS
        for each in operation.get("parameters", [])
        if method == "get" and each.get("name") in ("all", "follow", "timestamps")
    }
    outputs = [(path, name) for path in ("/logs/{id}", "/functions/{name}/logs") for name in ("follow", "timestamps")]
    flags = (("/status", "all"), ("/events", "all"), *outputs)
    assert described == {flag: list(queries.FLAGS) for flag in flags}


@pytest.mark.gen_test
async def test_other_answers_are_described_too(ask: Ask, run_service: FakeRunService, state: State) -> None:
    """202 and a replayed one; every error of a run, with its headers; a probe that is not well; changes of a call."""
    run_service.views, run_service.replays = [GOING_ON], True
    answer = await ask("POST", "/run", {**IMAGE, "wait": 0}, {**BEARER, "Idempotency-Key": "one"})
    assert (answer.code, answer.headers["Idempotency-Replayed"]) == (202, "true")
    contract.check_answer("/run", "post", answer.code, answer.headers, answer.body)
    for kind in (errors.Conflict, errors.KeyReused, errors.EngineRefused, errors.EngineAway, errors.JournalUnwritable):
        run_service.error = kind("why")
        answer = await ask("POST", "/run", IMAGE)
        assert answer.code == kind.status
        contract.check_answer("/run", "post", answer.code, answer.headers, answer.body)
    wrong = [("/run", {"Authorization": "Bearer wrong"}, 401)] * BURST + [("/run", {"Authorization": "Bearer x"}, 429)]
    for path, headers, code in (("/run", {}, 401), ("/run?token=x", BEARER, 400), *wrong):
        answer = await ask("POST", path, IMAGE, headers)
        assert answer.code == code
        contract.check_answer("/run", "post", answer.code, answer.headers, answer.body)
    state.trouble.append(errors.EngineAway("why"))
    answer = await ask("GET", "/readyz")
    contract.check_answer("/readyz", "get", 503, answer.headers, answer.body)
    for path, method, code in (("/invocations/{id}", "DELETE", 200), ("/invocations/{id}/redrive", "POST", 409)):
        answer = await ask(method, placed(path))
        assert answer.code == code
        contract.check_answer(path, method, answer.code, answer.headers, answer.body)


# --- it is served -----------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_it_is_served_to_everyone(ask: Ask) -> None:
    """Without a token: it holds no secret."""
    answer = await ask("GET", "/openapi.json", headers={})
    assert (answer.code, answer.headers["Content-Type"]) == (200, "application/json")
    assert msgspec.json.decode(answer.body) == DOCUMENT
