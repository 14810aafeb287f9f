"""The versions of functions: Swarm configs, listed at the start and on reconnection, else followed by their events.

Swarm's refusal of a second equal name is the only lock between quartermasters. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog
from msgspec.structs import force_setattr

from ...engine import configs
from ...engine.configs import Config, Configs
from ...engine.labels import FUNCTION
from ...engine.watcher import Change
from ...errors import EngineUnavailable, HttpError, NotAManager
from ...models.functions import FunctionSpec, Version

CONFIG_PREFIX = "qm-fn-"
READ_AT_ONCE = 50  # versions decoded in one turn of the loop
FIRST_PAUSE, LAST_PAUSE = 0.5, 5.0  # seconds before a retry, doubled each time

_DEFAULTS = FunctionSpec(image="default")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

log = structlog.get_logger(__name__)


class VersionData(msgspec.Struct, frozen=True, kw_only=True):
    """The data of a version's config."""

    spec: FunctionSpec
    image: str
    owner: str
    published_at: str


class _Unknown(NamedTuple):
    """A version that a newer quartermaster wrote."""

    id: str
    function: str
    number: int


class VersionStore:
    """The versions that the swarm has.

    Attributes:
        listeners: called with the name of a function whose versions have changed.
        trouble: why the versions are not known, or None.
        listed: set once all versions have been listed.
    """

    def __init__(self, configs: Configs) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self.trouble: HttpError | None = EngineUnavailable("the functions are not listed yet; try again")
        self.listed = asyncio.Event()
        self._configs = configs
        self._kept: dict[str, Version | _Unknown] = {}  # by the config's id
        self._functions: dict[str, tuple[Version | _Unknown, ...]] = {}  # by number
        self._listed_at = 0.0  # when the last listing of all was taken (monotonic)
        self._added: dict[str, float] = {}  # id → when it was added (monotonic), if since then
        self._gone: set[str] = set()  # ids that were removed; an older listing may still have them
        self._hints: set[str] = set()
        self._relist = True
        self._wake = asyncio.Event()

    # -- queries ---------------------------------------------------------------------------------------------------

    def latest(self, name: str) -> Version | None:
        """Return the newest version; None if there is none, or if it needs a newer quartermaster."""
        there = self._functions.get(name)
        return _understood(there[-1]) if there else None

    def find(self, name: str, number: int) -> Version | None:
        there = self._functions.get(name, ())
        return next((_understood(each) for each in there if each.number == number), None)

    def by_id(self, version_id: str) -> Version | None:
        return _understood(self._kept.get(version_id))

    def names(self) -> list[str]:
        return list(self._functions)

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a function, the newest first."""
        there = map(_understood, reversed(self._functions.get(name, ())))
        return [version for version in there if version is not None]

    def numbers(self, name: str) -> list[int]:
        """Return the numbers that are taken, also those of versions that need a newer quartermaster."""
        return [each.number for each in self._functions.get(name, ())]

    def require(self) -> None:
        """Require that the versions are known.

        Raises:
            EngineUnavailable: they are not.
        """
        if self.trouble is not None:
            raise self.trouble.with_traceback(None)

    # -- changes ---------------------------------------------------------------------------------------------------

    async def add(self, name: str, number: int, published: VersionData) -> Version:
        """Create a version.

        Raises:
            Conflict: this number is taken.
        """
        data = msgspec.json.encode(published)
        made = await self._configs.create(config_name(name, number), {FUNCTION: name}, data)
        self._keep(Config(id=made, name=config_name(name, number), labels={FUNCTION: name}, data=data, index=0))
        self._call_listeners({name})
        version = self.by_id(made)
        assert version is not None  # noqa: S101 - it was encoded above
        return version

    async def remove(self, name: str, number: int) -> None:
        """Remove a version; if it does not exist, that is success."""
        there = next((each for each in self._functions.get(name, ()) if each.number == number), None)
        if there is not None:
            await self._configs.remove(there.id)
            self._drop(there.id)
            self._call_listeners({name})

    async def refresh(self, name: str) -> None:
        """List the versions of one function now."""
        began = time.monotonic()
        await self._take(await self._configs.labelled(f"{FUNCTION}={name}"), began, name)

    async def reload(self) -> None:
        """List all versions now."""
        began = time.monotonic()
        await self._take(await self._configs.labelled(FUNCTION), began)
        self.trouble = None
        self.listed.set()

    def hint(self, change: Change) -> None:
        """Schedule a look at what may have changed."""
        if change.kind == "config":
            self._hints.add(change.id)
        elif change.kind == "relist":
            self._relist = True
        else:
            return
        self._wake.set()

    async def run(self) -> None:
        """Follow the swarm's configs until cancelled."""
        pause = FIRST_PAUSE
        while True:
            self._wake.clear()
            if not (self._relist or self._hints):
                await self._wake.wait()
            try:
                await self._turn()
                pause = FIRST_PAUSE
                continue
            except HttpError as error:
                self._failed(error)
            except Exception:  # the top of the task; the next turn lists everything
                log.exception("versions_failed")
                self._relist = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def _turn(self) -> None:
        if self._relist:
            self._relist = False
            self._hints.clear()
            await self.reload()
        hints, self._hints = self._hints, set()
        for config_id in sorted(hints):
            await self._look_at(config_id)

    async def _look_at(self, config_id: str) -> None:
        found = await self._configs.config(config_id)
        before = self._kept.get(config_id)
        if found is None:
            self._drop(config_id)
        elif FUNCTION in found.labels:
            self._keep(found)
        after = self._kept.get(config_id)
        self._call_listeners({each.function for each in (before, after) if each and (before is None or after is None)})

    def _failed(self, error: HttpError) -> None:
        """Note why the versions could not be read; those that are known stay, unless there is no swarm."""
        self._relist = True
        if self.trouble is not None or isinstance(error, NotAManager):
            if str(error) != str(self.trouble):
                log.info("versions_not_listed", reason=str(error))
            self.trouble = error

    # -- the cache -------------------------------------------------------------------------------------------------

    async def _take(self, listed: Sequence[msgspec.Raw], began: float, name: str | None = None) -> None:
        """Take a listing, of one function or of all, that began then; a known version is not decoded again."""
        there: set[str] = set()
        changed: set[str] = set()
        for place, raw in enumerate(listed, 1):
            config_id = configs.id_of(raw)
            there.add(config_id)
            if config_id not in self._kept:
                changed |= self._keep(configs.read(raw))
            if place % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        for config_id, kept in list(self._kept.items()):
            is_older = self._added.get(config_id, self._listed_at) < began  # than the listing, which would have it
            if config_id not in there and is_older and name in (None, kept.function):
                changed |= self._drop(config_id)
        if name is None:
            self._gone &= there
            self._added.clear()
            self._listed_at = time.monotonic()
        self._call_listeners(changed)

    def _keep(self, config: Config) -> set[str]:
        """Add a version; return the names of the functions that have changed."""
        name, number = config.labels.get(FUNCTION, ""), number_of(config)
        if number is None or config.id in self._gone or config.id in self._kept:
            return set()
        kept = self._kept[config.id] = _version(config, name, number)
        self._added[config.id] = time.monotonic()
        others = [each for each in self._functions.get(name, ()) if each.number != number]
        self._functions[name] = tuple(sorted([*others, kept], key=lambda each: each.number))
        return {name}

    def _drop(self, config_id: str) -> set[str]:
        self._gone.add(config_id)
        self._added.pop(config_id, None)
        kept = self._kept.pop(config_id, None)
        if kept is None:
            return set()
        # A version with its number may have been published again meanwhile, and has another id.
        there = tuple(each for each in self._functions[kept.function] if each.id != config_id)
        if there:
            self._functions[kept.function] = there
        else:
            del self._functions[kept.function]
        return {kept.function}

    def _call_listeners(self, names: set[str]) -> None:
        for name in sorted(names):
            for listener in self.listeners:
                try:
                    listener(name)
                except Exception:  # one failed listener must not stop the others
                    log.exception("listener_failed", function=name)


def config_name(name: str, number: int) -> str:
    """Return the name of a version's config."""
    return f"{CONFIG_PREFIX}{name}-{number}"


def number_of(config: Config) -> int | None:
    """Return the number of the version that a config is; None if it is none."""
    name, _, number = config.name.removeprefix(CONFIG_PREFIX).rpartition("-")
    mine = config.name.startswith(CONFIG_PREFIX) and name == config.labels.get(FUNCTION)
    return int(number) if mine and _NUMBER.fullmatch(number) else None


def _understood(kept: Version | _Unknown | None) -> Version | None:
    return kept if isinstance(kept, Version) else None


def _version(config: Config, name: str, number: int) -> Version | _Unknown:
    """Decode a version; a newer quartermaster may have written fields that this one does not know."""
    try:
        data = msgspec.json.decode(config.data, type=VersionData)
    except (msgspec.MsgspecError, ValueError) as error:
        log.warning("version_not_understood", function=name, number=number, reason=str(error))
        return _Unknown(config.id, name, number)
    return Version(
        id=config.id,
        function=name,
        number=number,
        spec=_compact(data.spec),
        image=sys.intern(data.image),
        owner=sys.intern(data.owner),
        published_at=data.published_at,
    )


def _compact(spec: FunctionSpec) -> FunctionSpec:
    """Share the image's name, and the values of fields left at their default, which take 1 KB in each spec."""
    force_setattr(spec, "image", sys.intern(spec.image))  # it was decoded just now, and nobody else has it yet
    for field in spec.__struct_fields__:
        default = getattr(_DEFAULTS, field)
        if getattr(spec, field) == default:
            force_setattr(spec, field, default)
    return spec
