"""Pure: takes other people's things out of the engine's words, for who sees only their own.

A published port that is taken is, to Docker, ``already in use by service 'victim' (rm81…)``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

import msgspec

from .responses import Service

MASKED = "…"
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - nobody's
_HOLDER = re.compile(r"\b((?:in use|used|held|owned|allocated|reserved) by) .*", re.DOTALL | re.IGNORECASE)
# A name has no spaces: what has is a hint of ours, or a sentence.
_QUOTED = re.compile(r"(?P<open>[\"'`])(?P<name>[^\s\"'`]+)(?P=open)")
_NAMED = re.compile(r"\b(with name|with id|named|endpoint(?! with)) (?P<name>[\"'`]?[\w./:@-]+[\"'`]?)", re.IGNORECASE)
_IDS = re.compile(r"\b(?P<name>[0-9a-f]{12,64}|(?=[a-z]*[0-9])[0-9a-z]{25})\b")
_ADDRESSES = re.compile(
    r"(?<![\w.:])(?P<name>\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*[.]\d)|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?![\w:]))"
)
_FOLDERS = re.compile(r"(?P<name>/(?:var/lib|var/run|run|root|home|etc/docker)/[^\s\"'`:;,)]+)")


def mask(text: str, own: object, quoted: bool = True) -> str:
    """The engine's words without the names, ids, addresses and folders that the caller did not send.

    Args:
        own: what it sent, or what is its own: strings, and lists and objects of them.
        quoted: whether quoted names count too.
    """
    sent = "\0".join(_strings(own))

    def hide(found: re.Match[str]) -> str:
        name = found["name"].strip("\"'`")
        known = name in ANY_ADDRESS or name.removeprefix("/") in sent
        return found[0] if known else found[0].replace(name, MASKED)

    def hide_address(found: re.Match[str]) -> str:
        return hide(found) if _is_address(found["name"]) else found[0]

    text = _HOLDER.sub(r"\1 another", text)
    for pattern in (*([_QUOTED] if quoted else []), _NAMED, _IDS, _FOLDERS):
        text = pattern.sub(hide, text)
    return _ADDRESSES.sub(hide_address, text)


def masked(view: Service) -> Service:
    """A run whose errors are masked. Quoted there are the command, the entrypoint and the like: its own."""
    last = view.last_exit
    if not any((view.error, last and last.error, *(task.error for task in view.tasks))):
        return view
    own = [view.id, view.name, view.image, view.command or [], view.labels]
    own += [[task.id, task.container_id or "", task.node_id or ""] for task in view.tasks]

    def hide(error: str | None) -> str | None:
        return None if error is None else mask(error, own, quoted=False)

    return msgspec.structs.replace(
        view,
        error=hide(view.error),
        last_exit=last and msgspec.structs.replace(last, error=hide(last.error)),
        tasks=[
            task if task.error is None else msgspec.structs.replace(task, error=hide(task.error)) for task in view.tasks
        ],
    )


def _is_address(text: str) -> bool:
    """A time of day has colons too."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *_strings(each))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
    elif value is not None:
        yield str(value)
