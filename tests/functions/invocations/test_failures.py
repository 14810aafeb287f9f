"""invocations.failures: what a runtime says of an error is read as far as it can be."""

import pytest

from qmaster.functions.invocations import failures


@pytest.mark.parametrize(
    ("document", "kind", "message"),
    [
        (b'{"errorType": "A", "errorMessage": "b"}', "A", "b"),
        (b"{}", "Unhandled", ""),
        (b"", "Unhandled", ""),
        (b"plain", "Unhandled", "plain"),
        (b"[1]", "Unhandled", "[1]"),
        (b'{"errorType": 1, "errorMessage": null}', "1", ""),
        (b"\xff", "Unhandled", "\ufffd"),
        (b"[" * 100_000, "Unhandled", "[" * 100_000),
    ],
)
def test_whatever_it_is_it_is_an_error(document: bytes, kind: str, message: str) -> None:
    """A body that is none of JSON's is the message."""
    failure = failures.read(document)
    assert (failure.error_type, failure.error_message) == (kind, message)
    assert failure.document == document


def test_a_long_stack_is_cut() -> None:
    """It is shown in an answer."""
    document = b'{"stackTrace": [' + b",".join([b'"x"'] * 1000) + b"]}"
    assert len(failures.read(document).stack) == failures.MAX_STACK
