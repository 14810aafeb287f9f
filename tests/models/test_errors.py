"""errors: each has the HTTP status of the contract, and one shape in every answer."""

from collections.abc import Iterator

import pytest

from qmaster import errors


def _all(kind: type[errors.QmasterError]) -> Iterator[type[errors.QmasterError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _all(below)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.BadRequest, 400),
        (errors.Unauthorized, 401),
        (errors.NotFound, 404),
        (errors.Conflict, 409),
        (errors.PayloadTooLarge, 413),
        (errors.EngineRefused, 502),
        (errors.RegistryRefused, 502),
        (errors.EngineAway, 503),
        (errors.NodeUnreachable, 503),
        (errors.NotAManager, 503),
    ],
)
def test_an_error_has_the_status_of_the_contract(kind: type[errors.HttpError], status: int) -> None:
    """Each named error has the HTTP status that the API documents, and its own words."""
    assert kind("why").status == status
    assert str(kind("why")) == "why"


@pytest.mark.parametrize("kind", [errors.EngineAway, errors.NodeUnreachable, errors.NotAManager])
def test_what_is_worth_another_try_says_when(kind: type[errors.HttpError]) -> None:
    """503 carries Retry-After, in seconds."""
    assert int(kind.headers["Retry-After"]) > 0


def test_401_says_how_to_authenticate() -> None:
    """RFC 9110 wants WWW-Authenticate with a 401."""
    assert errors.Unauthorized.headers["WWW-Authenticate"].startswith("Bearer ")


def test_the_docstring_is_the_tree() -> None:
    """Every error of the module is drawn in its docstring, with its status."""
    lines = (errors.__doc__ or "").splitlines()
    for kind in _all(errors.QmasterError):
        if kind.__module__ != errors.__name__:
            continue
        drawn = [line for line in lines if f"─ {kind.__name__} " in f"{line} "]
        assert len(drawn) == 1, kind.__name__
        if issubclass(kind, errors.HttpError) and "status" in vars(kind) and kind is not errors.HttpError:
            assert str(int(kind.status)) in drawn[0]


def test_a_problem_has_both_shapes() -> None:
    """quartermaster's own keys and RFC 9457's, which agree."""
    assert errors.problem(409, "taken", "r-1") == {
        "success": False,
        "error": "taken",
        "code": 409,
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "taken",
        "instance": "r-1",
    }
