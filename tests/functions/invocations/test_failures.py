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


@pytest.mark.parametrize(
    ("frame", "line"),
    [
        ('{"path": "fn/main.go", "line": 32, "label": "handle"}', "handle (fn/main.go:32)"),
        (
            '{"path": "fn/main.go", "line": "x", "label": "handle"}',
            '{"path": "fn/main.go", "line": "x", "label": "handle"}',
        ),
        ('"  File x"', "  File x"),
        ("7", "7"),
        ("null", ""),
    ],
)
def test_a_frame_is_a_line(frame: str, line: str) -> None:
    """Objects with a label, a path and a line are aws-lambda-go's; what nobody is known to send is shown as it is."""
    assert failures.read(b'{"stackTrace": [' + frame.encode() + b"]}").stack == [line]
