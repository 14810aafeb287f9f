"""Versions of functions as plain data, for the tests of several modules."""

import contextlib
from typing import Any

import msgspec
from fakes import FakeConfigs, FakeSwarm

from qmaster.auth.policy import Rules
from qmaster.auth.registries import RegistryAuth
from qmaster.engine.configs import Config
from qmaster.engine.labels import FUNCTION
from qmaster.functions.versions import store
from qmaster.functions.versions.service import FunctionService
from qmaster.functions.versions.store import VersionData, VersionStore
from qmaster.models.functions import FunctionSpec

AT = "2026-11-22T20:29:03.085076Z"
RULES = Rules(frozenset(), 250)


def published(owner: str = "alice", **fields: Any) -> VersionData:
    """What a publisher has published."""
    spec = FunctionSpec(**{"image": "busybox", **fields})
    return VersionData(spec=spec, image=f"busybox@sha256:{'a' * 64}", owner=owner, published_at=AT)


def config(name: str, number: int, owner: str = "alice", **fields: Any) -> Config:
    """The config of a version."""
    data = msgspec.json.encode(published(owner, **fields))
    called = store.config_name(name, number)
    return Config(id=f"id-{called}", name=called, labels={FUNCTION: name}, data=data, index=1)


def loaded(configs: FakeConfigs) -> VersionStore:
    """A store that has listed them; without a loop, as nothing in it waits."""
    store = VersionStore(configs)
    with contextlib.suppress(StopIteration):
        store.reload().send(None)
    assert store.trouble is None
    return store


def service(*configs: Config) -> FunctionService:
    """A service of functions over plain data."""
    return FunctionService(loaded(FakeConfigs(*configs)), FakeSwarm(), RegistryAuth(), RULES)
