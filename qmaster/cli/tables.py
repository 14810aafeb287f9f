"""Services, nodes and events as lines of text. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from .terminal import clean

Json = dict[str, Any]
Paint = Callable[[str, str], str]

COLOURS = {
    "complete": "32",
    "failed": "31",
    "running": "36",
    "pending": "33",
    "preparing": "33",
    "stopping": "2",
    "removed": "2",
    "unknown": "35",
    "queued": "33",
    "succeeded": "32",
    "dead": "31",
    "cancelled": "2",
    "ready": "32",
    "down": "31",
}
NARROWEST = 10  # columns that the widest cell keeps on a narrow terminal
SERVICES = ("NAME", "STATUS", "EXIT", "RUNNING", "AGE", "IMAGE", "COMMAND")
NODES = ("NODE", "ROLE", "STATE", "AVAILABILITY", "CPUS", "RESERVED", "MEMORY", "RESERVED", "ENGINE")
FUNCTIONS = ("NAME", "VERSION", "STARTING", "IDLE", "BUSY", "QUEUED", "AGE", "IMAGE")
VERSIONS = ("VERSION", "AGE", "OWNER", "IMAGE")
SCHEDULES = ("FUNCTION", "CRON", "TIME ZONE", "LAST", "NEXT")
INVOCATIONS = ("ID", "FUNCTION", "STATUS", "ATTEMPTS", "AGE", "ERROR")
ATTEMPTS = ("STARTED", "ENDED", "INSTANCE", "ERROR")
TASKS = ("SLOT", "NODE", "STATE", "EXIT", "AGE", "ERROR")
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def painted(word: str, text: str) -> str:
    """Return the text in the colour of a status or state."""
    return f"\x1b[{COLOURS[word]}m{text}\x1b[0m" if word in COLOURS else text


def plain(word: str, text: str) -> str:
    """Return the text without a colour."""
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int | None, paint: Paint = plain) -> list[str]:
    """Return aligned lines, with the widest cells cut to the terminal's width.

    Args:
        header: the names of the columns.
        rows: the cells of each row.
        columns: the terminal's width in characters; None: cut nothing.
        paint: colours the text of a cell.
    """
    cells = [list(header), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    if columns is not None:
        widths = _narrowed(widths, columns - 2 * (len(widths) - 1))
    return [_line(row, widths, paint if number else plain) for number, row in enumerate(cells)]


def _narrowed(widths: list[int], columns: int) -> list[int]:
    widths = list(widths)
    while sum(widths) > columns and max(widths) > NARROWEST:
        widest = max(range(len(widths)), key=lambda at: (widths[at], at))
        widths[widest] -= 1
    return widths


def _line(row: Sequence[str], widths: Sequence[int], paint: Paint) -> str:
    cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(row, widths, strict=True)]
    padded = [cell.ljust(width) for cell, width in zip(cut, widths, strict=True)]
    padded[-1] = cut[-1]
    return "  ".join(paint(cell, text) for cell, text in zip(row, padded, strict=True)).rstrip()


def age(text: str | None, now: datetime) -> str:
    """Return how long ago a time is, in its largest unit; "" if it is unknown."""
    if not text:
        return ""
    seconds = max(0, int((now - moment(text)).total_seconds()))
    return next((f"{seconds // size}{unit}" for size, unit in UNITS if seconds >= size), "0s")


def moment(text: str) -> datetime:
    """Parse a time in RFC 3339 with up to nanoseconds."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{(fraction + '000000')[:6]}").replace(tzinfo=UTC)


def services(listed: Sequence[Json], now: datetime) -> list[list[str]]:
    """Return the rows of a table with the columns ``SERVICES``."""
    return [
        [
            one["name"],
            one["status"],
            _number(one["exit_code"]),
            f"{one['replicas']['running']}/{one['replicas']['desired']}",
            age(one["created_at"], now),
            image(one["image"]),
            command(one["command"]),
        ]
        for one in listed
    ]


def tasks(listed: Sequence[Json], now: datetime) -> list[list[str]]:
    """Return the rows of a table with the columns ``TASKS``."""
    return [
        [
            _number(one["slot"]),
            one["node"] or "",
            one["state"],
            _number(one["exit_code"]),
            age(one["updated_at"], now),
            one["error"] or "",
        ]
        for one in listed
    ]


def nodes(listed: Sequence[Json]) -> list[list[str]]:
    """Return the rows of a table with the columns ``NODES``."""
    return [
        [
            one["hostname"] + ("*" if one["leader"] else ""),
            one["role"],
            one["state"],
            one["availability"],
            f"{one['cpus']:g}",
            f"{one['reserved']['cpus']:g}",
            f"{one['memory']} MiB",
            f"{one['reserved']['memory']} MiB",
            one["engine"] or "",
        ]
        for one in listed
    ]


def functions(listed: Sequence[Json], now: datetime) -> list[list[str]]:
    """Return the rows of a table with the columns ``FUNCTIONS``; the age is that of the newest version."""
    return [
        [
            one["name"],
            str(one["version"]),
            *(str(one["instances"][state]) for state in ("starting", "idle", "busy")),
            str(one["queued"]),
            age(one["published_at"], now),
            image(one["image"]),
        ]
        for one in listed
    ]


def versions(listed: Sequence[Json], now: datetime) -> list[list[str]]:
    """Return the rows of a table with the columns ``VERSIONS``."""
    return [[str(one["version"]), age(one["published_at"], now), one["owner"], one["image"]] for one in listed]


def schedules(listed: Sequence[Json]) -> list[list[str]]:
    """Return the rows of a table with the columns ``SCHEDULES``, of these functions."""
    return [
        [
            one["name"],
            each["cron"],
            each["time_zone"],
            _second(each["last"]).strip(),
            "suspended" if each["suspend"] else _second(each["next"]).strip(),
        ]
        for one in listed
        for each in one.get("schedules", ())
    ]


def invocations(listed: Sequence[Json], now: datetime) -> list[list[str]]:
    """Return the rows of a table with the columns ``INVOCATIONS``."""
    return [
        [
            one["id"],
            one["function"],
            one["status"],
            str(len(one["attempts"])),
            age(one["created_at"], now),
            _failure(one["error"] or (one["attempts"][-1]["error"] if one["attempts"] else None)),
        ]
        for one in listed
    ]


def attempts(listed: Sequence[Json]) -> list[list[str]]:
    """Return the rows of a table with the columns ``ATTEMPTS``."""
    return [
        [
            _second(each["started_at"]),
            _second(each["ended_at"]).strip(),
            each["instance"] or "",
            _failure(each["error"]),
        ]
        for each in listed
    ]


def invocation(one: Json) -> list[str]:
    """Return the details of an asynchronous call, a line for each field that is set; without its attempts."""
    shown = {key: value for key, value in one.items() if key not in ("success", "attempts", "callbacks", "error")}
    shown["error"] = _failure(one["error"]) or None
    if "output" in one and not isinstance(one["output"], str):
        shown["output"] = json.dumps(one["output"], ensure_ascii=False)
    lines = [(key, value) for key, value in shown.items() if value is not None]
    lines += [("callback", _delivery(each)) for each in one["callbacks"]]
    return [f"{key + ':':<14} {clean(str(value))}" for key, value in lines]


def _failure(error: Json | None) -> str:
    return f"{error['type']}: {error['message']}" if error else ""


def _delivery(callback: Json) -> str:
    tries = f"{callback['attempts']} tries" if callback["attempts"] != 1 else "1 try"
    how = f"delivered {callback['delivered_at']}" if callback["delivered_at"] else callback["last_error"] or "waits"
    return f"{callback['url']} {how} ({tries})"


def function(one: Json) -> list[str]:
    """Return the details of a function, a line for each field that is set, and for each of its last errors."""
    spec = {key: value for key, value in one["spec"].items() if key not in ("image", "command", "schedules")}
    spec["env"] = " ".join(one["spec"].get("env") or ())
    spec["labels"] = " ".join(f"{key}={value}" for key, value in (one["spec"].get("labels") or {}).items())
    words = one["spec"].get("command")
    shown = {
        **{key: one[key] for key in ("name", "version", "image", "owner", "published_at")},
        "command": words if isinstance(words, str) else command(words),
        **spec,
        "instances": ", ".join(f"{count} {state}" for state, count in one["instances"].items()),
        "queued": one["queued"],
    }
    lines = [(key, value) for key, value in shown.items() if value not in (None, "", [])]
    lines += [("schedule", _schedule(each)) for each in one.get("schedules", ())]
    lines += [("error", f"{each['time']} {each['reason']}: {each['message']}") for each in one["last_errors"]]
    return [f"{key + ':':<18} {clean(_listed(value))}" for key, value in lines]


def _schedule(one: Json) -> str:
    state = "suspended" if one["suspend"] else f"last {one['last'] or 'never'}, next {one['next'] or 'never'}"
    return f"{one['cron']} ({one['time_zone']}, {one['concurrency']}): {state}"


def _listed(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def details(one: Json) -> list[str]:
    """Return the details of a service, a line for each field; without its tasks and output."""
    shown = {**one, "command": command(one["command"]) or None, "image": image(one["image"])}
    for key in ("success", "tasks", "result"):
        shown.pop(key, None)
    shown["labels"] = " ".join(f"{key}={value}" for key, value in one["labels"].items()) or None
    shown["replicas"] = ", ".join(f"{count} {word}" for word, count in one["replicas"].items())
    shown["memory"] = None if one["memory"] is None else f"{one['memory']} MiB"
    last = shown.pop("last_exit", None)
    if last:
        shown["last exit"] = _ended(last)
    attempts = shown.pop("attempts", None) or []
    told = shown.pop("callbacks", None) or []
    for key in ("timeout", "ttl"):
        if shown.get(key) is not None:
            shown[key] = f"{shown[key]:g} s"
    asked = shown.pop("spec", None) or {}
    lines = [(key, value) for key, value in shown.items() if value is not None]
    lines += [(key, _asked(value)) for key, value in asked.items() if key not in one]
    lines += [("attempt", _ended(attempt)) for attempt in attempts]
    lines += [("told", _told(callback)) for callback in told]
    return [f"{key + ':':<13} {clean(str(value))}" for key, value in lines]


def _asked(value: Any) -> str:
    """Return the value of a field that a run was started with."""
    if isinstance(value, str):
        return value
    return ", ".join(value) if value and isinstance(value, list) and all(map(_is_text, value)) else json.dumps(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def spec(fields: Json) -> list[str]:
    """Return the fields of a run that would be started, a line for each."""
    words = fields.get("command")
    shown = {**fields, "command": words if isinstance(words, str) else command(words)}
    return [f"{key + ':':<18} {clean(_asked(value))}" for key, value in shown.items() if value not in (None, "", [])]


def event(one: Json) -> str:
    """Return a CloudEvent as a line: its time, type, name and main details."""
    data, kind = one["data"], one["type"].removeprefix("io.qmaster.")
    name = data.get("name") or data.get("hostname") or one["subject"]
    return clean(f"{_second(one.get('time'))}  {kind:<18}  {name}  {_said(kind, data)}".rstrip())[:1000]


def _second(time: str | None) -> str:
    return f"{time[:19]}Z" if time else " " * 20


def _said(kind: str, data: Json) -> str:
    if kind.startswith("node."):
        return f"{data['state']} {data['availability']} {data['role']}"
    if kind.startswith("function."):
        return f"version {data['version']}  {image(data['image'])}"
    if kind.startswith("invocation."):
        return "  ".join(filter(None, [data["function"], _failure(data["error"])]))
    task = data.get("task")
    if kind.startswith("task.") and task:
        place = "  ".join(filter(None, [f"slot {task['slot']}" if task["slot"] else "", task["node"]]))
        return "  ".join(filter(None, [place, _end(None, task["exit_code"], task["error"])]))
    words = data["status"] if kind == "service.updated" else ""
    return "  ".join(filter(None, [words, _end(data["reason"], data["exit_code"], data["error"])]))


def _ended(attempt: Json) -> str:
    return f"{_end(None, attempt['exit_code'], attempt['error'])} at {attempt['finished_at']}".strip()


def _told(callback: Json) -> str:
    """Return what became of a callback."""
    if callback["delivered_at"]:
        return f"at {callback['delivered_at']}"
    return (
        f"not yet, {callback['attempts']} tries{': ' if callback['last_error'] else ''}{callback['last_error'] or ''}"
    )


def _end(reason: str | None, code: int | None, error: str | None) -> str:
    ended = f"{reason or 'exit'} {code}" if code is not None else reason or ""
    return f"{ended}: {error}" if error and ended else error or ended


def progress(one: Json) -> str:
    """Return the spinner's text for a service without output yet."""
    desired, status = one["replicas"]["desired"], one["status"]
    where = ", ".join(sorted({task["node"] for task in one["tasks"] if task["node"]})[:3])
    if status == "pending":
        return f"waiting for a node: {one['error']}" if one["error"] else "waiting for a node"
    if status == "running" and desired > 1:
        return f"running {one['replicas']['running']} of {desired}" + (f" on {where}" if where else "")
    return f"{status} on {where}" if where and status in ("preparing", "running", "unknown") else str(status)


def command(words: Sequence[str] | None) -> str:
    """Return a command as text to read; almost as a shell would take it."""
    return " ".join(word if word and " " not in word else repr(word) for word in words or ())


def image(reference: str) -> str:
    """Return an image reference without its digest."""
    return reference.partition("@")[0] or reference


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
