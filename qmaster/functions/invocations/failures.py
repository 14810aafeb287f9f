"""Pure: what a function's runtime says of an error."""

from __future__ import annotations

import json
from typing import Any

from ...errors import FunctionFailed

MAX_STACK = 200  # lines or frames
UNKNOWN = "Unhandled"


def read(document: bytes, error_type: str | None = None) -> FunctionFailed:
    """Return the error of a call or of an init, as far as it can be read.

    Args:
        document: the body, which is JSON in all known clients.
        error_type: the header ``Lambda-Runtime-Function-Error-Type``, for a body without a type.
    """
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError):
        fields = {"errorMessage": document.decode(errors="replace")}
    if not isinstance(fields, dict):
        fields = {"errorMessage": document.decode(errors="replace")}
    kind = _text(fields.get("errorType")) or error_type or UNKNOWN
    stack = fields.get("stackTrace") or fields.get("trace") or []
    lines = [_frame(each) for each in stack[:MAX_STACK]] if isinstance(stack, list) else [_text(stack)]
    return FunctionFailed(kind, _text(fields.get("errorMessage")), lines, document)


def _frame(value: Any) -> str:
    """Return a line of a stack: a frame of aws-lambda-go has ``label``, ``path`` and ``line``, others are text."""
    match value:
        case {"label": str(label), "path": str(path), "line": int(line)}:
            return f"{label} ({path}:{line})"
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
