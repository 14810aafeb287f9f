"""Fields of a run that are shaped as in Compose: mounts, hosts, ulimits. Each is read into one plain form. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct

from . import units
from .paths import KERNELS, MAX_PATH, folder, is_below, plain
from .validation import quote

MAX_SIZE = 16 * 1024 * 1024  # MiB
MAX_ULIMIT = 2**63 - 1
UNLIMITED = -1
MAX_OPTIONS = 4  # of a tmpfs; 32 with a hundred each hold the event loop for 80 ms
REALTIME = "rtprio"  # a process with a real-time priority takes processors beyond the limit of its container
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - in the container
ULIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()  # noqa: SIM905
)
RESERVED_VOLUME = "qm-bind-"  # the beginning of the names of volumes that are host folders (``engine/subfolders.py``)
VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_HOST = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,252}[a-zA-Z0-9])?")
_MODE = re.compile(r"[0-7]{3,4}")

MountKind = Literal["volume", "bind", "tmpfs"]


class MountField(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An entry of ``volumes`` in Compose's long form."""

    type: MountKind = "volume"
    source: Annotated[str, Meta(max_length=MAX_PATH)] | None = None
    target: Annotated[str, Meta(max_length=MAX_PATH)]
    read_only: bool = False


Limit = Annotated[int, Meta(ge=UNLIMITED, le=MAX_ULIMIT)]


class UlimitField(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A ulimit with two values; -1: no limit."""

    soft: Limit
    hard: Limit


class Mount(NamedTuple):
    """A mount.

    Attributes:
        kind: what is mounted.
        source: the name of a volume, or a folder of the host; "" for a tmpfs.
        target: the absolute path in the container.
        read_only: whether the run may not write to it.
        size: MiB of a tmpfs; None: as much as the run's memory.
        mode: permissions of a tmpfs; None: 1777.
    """

    kind: MountKind
    source: str
    target: str
    read_only: bool = False
    size: int | None = None
    mode: int | None = None


class Ulimit(NamedTuple):
    """A ulimit, as ``setrlimit`` has it; -1: no limit."""

    name: str
    soft: int
    hard: int


def mounts(volumes: Sequence[str | MountField], tmpfs: str | Sequence[str]) -> list[Mount]:
    """Return the mounts of a run.

    Raises:
        ValueError: an entry is wrong, or two have one target.
    """
    found = [_volume(each) for each in volumes]
    found += [_tmpfs(each) for each in ([tmpfs] if isinstance(tmpfs, str) else tmpfs)]
    targets: set[str] = set()
    for mount in found:
        if mount.target in targets:
            raise ValueError(f"{_field(mount)}: two mounts have the target {quote(mount.target)}")
        targets.add(mount.target)
    return found


def hosts(entries: Sequence[str] | Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the host names of ``extra_hosts`` with their addresses.

    Raises:
        ValueError: an entry is wrong.
    """
    pairs = entries.items() if isinstance(entries, Mapping) else map(_pair, entries)
    return [(_host_name(name), _address("extra_hosts", address)) for name, address in pairs]


def servers(dns: str | Sequence[str]) -> list[str]:
    """Return the addresses of ``dns``.

    Raises:
        ValueError: one is no address.
    """
    return [_address("dns", each) for each in ([dns] if isinstance(dns, str) else dns)]


def limits(ulimits: Mapping[str, int | UlimitField]) -> list[Ulimit]:
    """Return the ulimits.

    Raises:
        ValueError: Linux has no such limit, or the soft one is over the hard one.
    """
    return list(_limits(ulimits))


def _volume(entry: str | MountField) -> Mount:
    if isinstance(entry, str):
        entry = _long_form(entry)
    target = _target("volumes", entry.target)
    if entry.type == "tmpfs":
        if entry.source is not None:
            raise ValueError("volumes: a tmpfs has no source")
        return Mount("tmpfs", "", target, entry.read_only)
    if not entry.source:
        raise ValueError(f"volumes: expected NAME:{entry.target}; for files that end with the run, use tmpfs")
    if entry.type == "bind":
        return Mount("bind", folder(entry.source), target, entry.read_only)
    if not VOLUME.fullmatch(entry.source):
        raise ValueError(f"volumes: expected the name of a volume; got {quote(entry.source)}")
    if entry.source.startswith(RESERVED_VOLUME):
        raise ValueError(f"volumes: the prefix {RESERVED_VOLUME} is reserved; to mount a host folder, write its path")
    return Mount("volume", entry.source, target, entry.read_only)


def _long_form(text: str) -> MountField:
    """Read ``NAME:/path``, ``/folder:/path``, each with ``:ro`` or ``:rw``."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target or mode not in ("", "ro", "rw"):
        raise ValueError(f"volumes: expected NAME:/path or NAME:/path:ro; got {quote(text)}")
    kind: MountKind = "bind" if source.startswith(("/", ".", "~")) else "volume"
    return MountField(type=kind, source=source, target=target, read_only=mode == "ro")


def _tmpfs(text: str) -> Mount:
    """Read ``/path`` or ``/path:size=64m,mode=1777``."""
    path, _, rest = text.partition(":")
    mount = Mount("tmpfs", "", _target("tmpfs", path, shared_memory=True))
    options = [option for option in rest.split(",") if option]
    if len(options) > MAX_OPTIONS:
        raise ValueError(f"tmpfs: expected at most {MAX_OPTIONS} options after the path; got {len(options)}")
    for option in options:
        name, _, value = option.partition("=")
        if name == "size" and 0 < (size := units.mebibytes(f"{value}b" if value.isdigit() else value) or 0) <= MAX_SIZE:
            mount = mount._replace(size=size)
        elif name == "mode" and _MODE.fullmatch(value):
            mount = mount._replace(mode=int(value, 8))
        elif option == "ro":
            mount = mount._replace(read_only=True)
        elif option != "rw":
            raise ValueError(f"tmpfs: expected size=64m, mode=1777 or ro after the path; got {quote(option)}")
    return mount


def _target(field: str, path: str, shared_memory: bool = False) -> str:
    """Return a path in the container as it is mounted.

    Raises:
        ValueError: nothing can be mounted there.
    """
    target = plain(field, path)
    if shared_memory and target == SHARED_MEMORY:
        return target
    if target == "/" or any(is_below(target, each) for each in KERNELS):
        raise ValueError(f"{field}: nothing can be mounted at {quote(path)}")
    return target


def _pair(entry: str) -> tuple[str, str]:
    name, separator, address = entry.replace("=", ":", 1).partition(":") if "=" in entry else entry.partition(":")
    if not separator:
        raise ValueError(f"extra_hosts: expected NAME:ADDRESS; got {quote(entry)}")
    return name, address


def _host_name(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError(f"extra_hosts: expected the name of a host; got {quote(name)}")
    return name


def _address(field: str, text: str) -> str:
    """Return an address without the brackets that Compose allows around an IPv6 one.

    A zone (``fe80::1%eth0``) is refused: Python takes any text for one, also lines of their own.
    """
    try:
        if "%" in text:
            raise ValueError(text)
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError(f"{field}: expected an IP address; got {quote(text)}") from None


def _limits(ulimits: Mapping[str, int | UlimitField]) -> Iterator[Ulimit]:
    for name, given in ulimits.items():
        if name not in ULIMITS:
            raise ValueError(f"ulimits: expected names such as nofile or nproc; got {quote(name)}")
        both = UlimitField(soft=given, hard=given) if isinstance(given, int) else given
        if both.hard != UNLIMITED and (both.soft == UNLIMITED or both.soft > both.hard):
            raise ValueError(f"ulimits: the soft limit of {name} is over its hard one")
        yield Ulimit(name, both.soft, both.hard)


def _field(mount: Mount) -> str:
    return "tmpfs" if mount.kind == "tmpfs" else "volumes"
