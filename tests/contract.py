"""What `/openapi.json` says, as a check of answers: of what is described nothing may be missing, and nothing added."""

import json
from typing import Any

import jsonschema

from qmaster.api.openapi import document as openapi

Json = dict[str, Any]
# Headers that not every described answer has: of a replay, and of a run that was made and not only checked.
SOMETIMES = {"Idempotency-Replayed", "Location"}


def closed(value: Any) -> Any:
    """A schema whose objects have no other keys: clients are to live with new ones, the tests are to name them."""
    if isinstance(value, list):
        return [closed(each) for each in value]
    if not isinstance(value, dict):
        return value
    told = {key: closed(each) for key, each in value.items()}
    if value.get("type") == "object" and isinstance(value.get("properties"), dict):
        told.setdefault("additionalProperties", False)
    return told


DOCUMENT: Json = closed(openapi.document())


def resolved(value: Json) -> Json:
    """What a reference of the document's stands for."""
    while "$ref" in value:
        found: Json = DOCUMENT
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        value = found
    return value


def check_value(schema: Json, value: object) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def check_answer(path: str, method: str, status: int, headers: Any, body: bytes) -> None:
    """An answer is one that the document has."""
    answers = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert str(status) in answers, f"{method} {path} is answered with {status}"
    answer = resolved(answers[str(status)])
    for name, header in answer["headers"].items():
        assert name in headers or name in SOMETIMES, name
        if name in headers and "const" in resolved(header)["schema"]:
            assert headers[name] == resolved(header)["schema"]["const"]
    kind = headers["Content-Type"].partition(";")[0]
    assert kind in answer["content"], f"{method} {path} is answered in {kind}"
    if kind.endswith("json"):
        check_value(answer["content"][kind]["schema"], json.loads(body))
