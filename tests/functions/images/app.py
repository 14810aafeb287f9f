"""Functions of the tests' image: each is a handler that AWS's Python client runs."""

import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

CALLS = 0
HOARD: list[bytearray] = []


def echo(event: Any, context: Any) -> Any:
    """The event, and who had it."""
    global CALLS
    CALLS += 1
    return {"event": event, "calls": CALLS, "request_id": context.aws_request_id, "host": os.uname().nodename}


def environment(event: Any, context: Any) -> dict[str, str]:
    """All that an instance has in its environment."""
    return dict(os.environ)


def sleep(event: Any, context: Any) -> Any:
    """Echo, after so many seconds."""
    time.sleep(event["seconds"])
    return event


def counted(event: Any, context: Any) -> Any:
    """Note that it ran, on the node's own disk, then sleep."""
    with Path("/seen/calls").open("a") as file:
        file.write(context.aws_request_id + "\n")
    return sleep(event, context)


def fail(event: Any, context: Any) -> NoReturn:
    """Raise."""
    raise ValueError(f"no good: {event}")


def leave(event: Any, context: Any) -> NoReturn:
    """End the process."""
    print("about to leave", flush=True)  # noqa: T201 - its last line
    os._exit(event["code"])


def crash(event: Any, context: Any) -> NoReturn:
    """A segmentation fault."""
    ctypes.string_at(0)
    raise AssertionError


def hoard(event: Any, context: Any) -> NoReturn:
    """Take memory until the kernel ends it."""
    while True:
        HOARD.append(bytearray(b"x" * (8 << 20)))


def big(event: Any, context: Any) -> str:
    """An answer of so many bytes of JSON."""
    return "x" * (int(event["bytes"]) - 2)


def any_of(event: Any, context: Any) -> Any:
    """Whichever of them the event names."""
    return globals()[event["do"]](event, context)


def raw(event: Any, context: Any) -> Any:
    """An answer for a function URL."""
    return {"statusCode": 201, "headers": {"content-type": "text/plain"}, "body": json.dumps(event)}


def tell(event: Any, context: Any) -> Any:
    """Write the id of the call, then sleep."""
    print(context.aws_request_id, flush=True)  # noqa: T201 - the tests read it in the log
    return sleep(event, context)
