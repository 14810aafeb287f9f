"""versions.service: publish, list, roll back and delete; over plain data, and on a real swarm where it decides."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fakes import DIGEST, FakeConfigs, FakeSwarm, grant
from testbed import Engine, Proxy, Registry, sdk
from testbed.faults import cut, forward_then
from version_cases import RULES, loaded
from version_cases import config as version_config

from qmaster.auth.authenticator import Identity
from qmaster.auth.registries import RegistryAuth
from qmaster.engine import Endpoint
from qmaster.engine import Engine as OurEngine
from qmaster.engine.configs import Config
from qmaster.errors import (
    BadRequest,
    Conflict,
    EngineAway,
    EngineUnavailable,
    Forbidden,
    NotAManager,
    NotFound,
    RegistryRefused,
)
from qmaster.functions.versions.service import KEPT, FunctionService, Published
from qmaster.functions.versions.store import VersionStore
from qmaster.models.credentials import Credentials
from qmaster.models.functions import FunctionSpec, FunctionStats, InstanceCounts
from qmaster.models.images import Pattern
from qmaster.models.requests import PullPolicy
from qmaster.models.schedules import Schedule

ROOT = Identity("root")
ALICE = Identity("alice", grant(functions=("team-*",), secrets=frozenset({"key"})))
BOB = Identity("bob", grant("bob", functions=("team-*",)))


def spec(**fields: Any) -> FunctionSpec:
    return FunctionSpec(**{"image": "busybox:1", **fields})


class Silent(FakeSwarm):
    """A swarm that may get no digest."""

    digest = f"@{DIGEST}"
    warns = ""

    async def pin(self, image: str, credentials: Credentials | None, pull: PullPolicy, warnings: list[str]) -> str:
        self.noted("pin", image, credentials, pull)
        warnings += [self.warns] if self.warns else []
        return f"{image}{self.digest}"


class Parts:
    """A service over plain data; another one of the same swarm is made with its configs."""

    def __init__(self, configs: FakeConfigs | None = None, stats: FunctionStats | None = None) -> None:
        self.configs = configs or FakeConfigs()
        self.swarm = Silent()
        self.store = VersionStore(self.configs)
        self.service = FunctionService(
            self.store, self.swarm, RegistryAuth(), RULES, lambda name: stats or FunctionStats()
        )

    def names(self) -> list[str]:
        return sorted(config.name for config in self.configs.there.values())


@pytest.fixture
def parts() -> Parts:
    return Parts()


# --- over plain data --------------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_function_is_published(parts: Parts) -> None:
    """Version 1, then 2; the image is pinned; the environment's values are kept and not shown."""
    await parts.store.reload()
    first = await parts.service.publish("resize", spec(env={"A": "{{hush}}"}), ROOT)
    assert first.changed
    assert first.warnings == ()
    assert (first.function.name, first.function.version, first.function.owner) == ("resize", 1, "root")
    assert first.function.image == f"busybox:1@{DIGEST}"
    assert first.function.spec["env"] == ["A"]
    second = await parts.service.publish("resize", spec(memory=64), ROOT)
    assert (second.changed, second.function.version) == (True, 2)
    assert parts.service.get("resize", ROOT) == second.function
    assert [each.version for each in parts.service.versions("resize", ROOT)] == [2, 1]
    kept = parts.store.find("resize", 1)
    assert kept is not None
    assert kept.spec.env == {"A": "{{hush}}"}
    assert parts.names() == ["qm-fn-resize-1", "qm-fn-resize-2"]


@pytest.mark.gen_test
@pytest.mark.parametrize(("policy", "asks"), [(None, "always"), ("missing", "always"), ("never", "never")])
async def test_the_digest_is_that_of_now(parts: Parts, policy: PullPolicy | None, asks: str) -> None:
    """Not one that the registry told a minute ago: somebody pushes an image, and publishes it at once."""
    await parts.service.publish("f", spec(pull_policy=policy), ROOT)
    assert [call[3] for call in parts.swarm.calls if call[0] == "pin"] == [asks]


@pytest.mark.gen_test
async def test_the_same_again_changes_nothing(parts: Parts) -> None:
    """The same spec, digest and publisher; another digest, or another publisher, is a new version."""
    await parts.service.publish("team-a", spec(), ALICE)
    again = await parts.service.publish("team-a", spec(), ALICE)
    assert (again.changed, again.function.version, len(parts.names())) == (False, 1, 1)
    parts.swarm.digest = "@sha256:" + "b" * 64
    assert (await parts.service.publish("team-a", spec(), ALICE)).function.version == 2
    assert (await parts.service.publish("team-a", spec(), BOB)).function.version == 3
    assert (await parts.service.publish("team-a", spec(), BOB)).function.version == 3


@pytest.mark.gen_test
async def test_another_input_of_a_schedule_is_another_version(parts: Parts) -> None:
    """Also where Python takes the two for equal; the same input in another order is none."""
    for number, value in enumerate([1, True, {"a": 1, "b": 2}, {"b": 2, "a": 1}]):
        schedules = [Schedule(cron="@daily", input=value)]
        published = await parts.service.publish("f", spec(schedules=schedules), ROOT)
        assert published.function.version == min(number + 1, 3)


@pytest.mark.gen_test
async def test_a_digest_that_nobody_tells_is_warned_of(parts: Parts) -> None:
    """It is published as it is; and while nobody tells the digest, the same spec is no new version."""
    await parts.service.publish("f", spec(), ROOT)
    parts.swarm.digest = ""
    again = await parts.service.publish("f", spec(), ROOT)
    assert not again.changed
    assert again.warnings[0].startswith("image: nobody told a digest of busybox:1, so each node runs")
    parts.swarm.warns = "pull_policy: the registry docker.io did not answer"
    other = await parts.service.publish("g", spec(), ROOT)
    assert (other.function.image, other.warnings) == ("busybox:1", (other.warnings[0], parts.swarm.warns))
    assert "--registry-auth-file" in other.warnings[0]
    parts.swarm.digest = f"@{DIGEST}"
    assert (await parts.service.publish("g", spec(), ROOT)).function.version == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a" * 49])
async def test_a_wrong_name_is_refused_before_anything_is_asked(parts: Parts, name: str) -> None:
    """Also to the root token."""
    with pytest.raises(BadRequest, match=r"^name: "):
        await parts.service.publish(name, spec(), ROOT)
    assert parts.configs.calls + parts.swarm.calls == []


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("name", "fields", "says"),
    [
        ("other", {}, "functions: this token may not publish 'other'"),
        ("team-a", {"url": "public"}, "public: "),
        ("team-a", {"networks": ["blue"]}, "networks: "),
        ("team-a", {"no_new_privileges": False}, "allow_relaxed: "),
    ],
)
async def test_the_policy_of_the_publisher_holds(parts: Parts, name: str, fields: Any, says: str) -> None:
    """Its error begins with the rule, and nothing is asked of the engine."""
    with pytest.raises(Forbidden, match=f"^{says}"):
        await parts.service.publish(name, spec(**fields), ALICE)
    assert parts.configs.calls + parts.swarm.calls == []


class Missing(FakeSwarm):
    async def secret_ids(self, names: list[str]) -> list[str]:
        raise BadRequest(f"secrets: the swarm has no secret {names[0]!r}")


@pytest.mark.gen_test
async def test_a_secret_that_is_missing_is_told_at_publication() -> None:
    """Not when the first call comes."""
    configs = FakeConfigs()
    service = FunctionService(VersionStore(configs), Missing(), RegistryAuth(), RULES)
    with pytest.raises(BadRequest, match=r"^secrets: the swarm has no secret 'key'"):
        await service.publish("team-a", spec(secrets=["key"]), ALICE)
    assert configs.there == {}


@pytest.mark.gen_test
async def test_the_newest_ten_stay(parts: Parts) -> None:
    """The others go, the oldest first; numbers are not used again. One that cannot go now goes next time."""
    for number in range(KEPT + 2):
        await parts.service.publish("f", spec(memory=10 + number), ROOT)
    assert parts.store.numbers("f") == list(range(3, KEPT + 3))
    parts.configs.fails["remove"] = EngineAway("gone")
    assert (await parts.service.publish("f", spec(memory=100), ROOT)).function.version == KEPT + 3
    assert len(parts.names()) == KEPT + 1
    del parts.configs.fails["remove"]
    await parts.service.publish("f", spec(memory=101), ROOT)
    assert parts.store.numbers("f") == list(range(5, KEPT + 5))


@pytest.mark.gen_test
async def test_a_rollback_is_the_newest_version(parts: Parts) -> None:
    """With the image that it had, of whom rolls back; to the newest itself it changes nothing; 404 if it is gone."""
    await parts.store.reload()
    for number in range(KEPT + 1):
        parts.swarm.digest = f"@sha256:{number:064x}"
        await parts.service.publish("team-a", spec(memory=10 + number), ALICE)
    parts.swarm.calls.clear()
    back = await parts.service.rollback("team-a", 3, BOB)
    assert (back.changed, back.function.version, back.function.owner) == (True, KEPT + 2, "bob")
    assert back.function.image == f"docker.io/library/busybox:1@sha256:{2:064x}"
    assert back.function.spec["memory"] == 12
    assert "pin" not in parts.swarm.names()
    assert (await parts.service.rollback("team-a", KEPT + 2, BOB)).changed is False
    for number in (1, 99):
        with pytest.raises(NotFound, match=rf"has no version {number}; the newest {KEPT} are kept"):
            await parts.service.rollback("team-a", number, BOB)


@pytest.mark.gen_test
async def test_a_rollback_is_a_publication_to_the_policy(parts: Parts) -> None:
    """Who may not run that version now may not bring it back."""
    await parts.service.publish("team-a", spec(networks=["blue"]), ROOT)
    await parts.service.publish("team-a", spec(), ROOT)
    with pytest.raises(Forbidden, match=r"^networks: "):
        await parts.service.rollback("team-a", 1, ALICE)


@pytest.mark.gen_test
async def test_a_delete_removes_the_oldest_first(parts: Parts) -> None:
    """A failure on the way leaves the newest the newest; again is fine, and once more is a 404."""
    await parts.store.reload()
    for number in range(3):
        await parts.service.publish("f", spec(memory=10 + number), ROOT)
    real, removed = parts.configs.remove, 0

    async def fails(config_id: str) -> None:
        nonlocal removed
        removed += 1
        if removed == 2:
            raise EngineAway("gone")
        await real(config_id)

    parts.configs.remove = fails  # type: ignore[method-assign]
    with pytest.raises(EngineAway):
        await parts.service.delete("f", ROOT)
    assert (parts.store.numbers("f"), parts.service.get("f", ROOT).version) == ([2, 3], 3)
    await parts.service.delete("f", ROOT)
    assert parts.names() == []
    for ask in (parts.service.delete("f", ROOT), parts.service.rollback("f", 1, ROOT)):
        with pytest.raises(NotFound):
            await ask
    with pytest.raises(NotFound):
        parts.service.get("f", ROOT)


@pytest.mark.gen_test
async def test_a_token_has_so_many_functions_of_its_own(parts: Parts) -> None:
    """Those of others do not count, nor do new versions; one that is deleted makes room."""
    await parts.store.reload()
    may_two = Identity("alice", grant(functions=("*",), max_functions=2))
    for name, by in (("of-root", ROOT), ("a", may_two), ("b", may_two)):
        await parts.service.publish(name, spec(), by)
    await parts.service.publish("a", spec(memory=20), may_two)
    with pytest.raises(Forbidden, match=r"^max_functions: this token may have at most 2 functions; it has 2"):
        await parts.service.publish("c", spec(), may_two)
    assert parts.store.numbers("c") == []
    await parts.service.delete("b", may_two)
    await parts.service.publish("c", spec(), may_two)


@pytest.mark.gen_test
async def test_a_token_sees_its_functions_alone(parts: Parts) -> None:
    """By their names, whoever published them; the others are as if they were not."""
    await parts.store.reload()
    for name in ("team-b", "team-a", "other"):
        await parts.service.publish(name, spec(), ROOT)
    assert [each.name for each in parts.service.listing(ROOT)] == ["other", "team-a", "team-b"]
    assert [each.name for each in parts.service.listing(ALICE)] == ["team-a", "team-b"]
    assert list(parts.service.listing(Identity("carol", grant("carol")))) == []
    for ask in (parts.service.get, parts.service.versions, lambda name, by: parts.service.resolve(name, "1", by)):
        ask("team-a", ALICE)
        for name in ("other", "none"):
            with pytest.raises(NotFound, match=f"^no function has the name '{name}'$"):
                ask(name, ALICE)
    for call in (parts.service.delete("other", ALICE), parts.service.rollback("other", 1, ALICE)):
        with pytest.raises(NotFound, match=r"^no function has the name 'other'$"):
            await call


@pytest.mark.gen_test
async def test_a_call_is_for_a_version(parts: Parts) -> None:
    """A number or $LATEST, which is the default; another one is not found."""
    await parts.store.reload()
    await parts.service.publish("f", spec(), ROOT)
    await parts.service.publish("f", spec(memory=64), ROOT)
    numbers = {word: parts.service.resolve("f", word, ROOT).number for word in (None, "", "$LATEST", "1", "2")}
    assert numbers == {None: 2, "": 2, "$LATEST": 2, "1": 1, "2": 2}
    for word in ("3", "0", "live"):
        with pytest.raises(NotFound, match="has no version"):
            parts.service.resolve("f", word, ROOT)


@pytest.mark.gen_test
async def test_without_a_token_only_public_functions_are_there() -> None:
    """As long as the token of the publisher may have such a URL: not once it is gone, or its table says otherwise."""
    may = grant(functions=("team-*",), public=True)
    holders: dict[str, Identity] = {"root": ROOT, "alice": Identity("alice", may)}
    configs = FakeConfigs(
        version_config("team-a", 1, url="public"),
        version_config("team-b", 1, url="token"),
        version_config("team-c", 1, owner="root", url="public"),
    )
    store = loaded(configs)
    service = FunctionService(store, FakeSwarm(), RegistryAuth(), RULES, holder=holders.get)

    def seen() -> list[str]:
        found = []
        for name in ("team-a", "team-b", "team-c", "none"):
            with contextlib.suppress(NotFound):
                found.append(service.resolve(name, None, None).function)
        return found

    assert seen() == ["team-a", "team-c"]
    for less in (grant(functions=("team-*",)), grant(functions=("other",), public=True)):
        holders["alice"] = Identity("alice", less)
        assert seen() == ["team-c"]
    del holders["alice"]
    assert seen() == ["team-c"]


@pytest.mark.gen_test
async def test_what_it_does_now_is_shown() -> None:
    """Its instances, calls that wait, and last errors, of this quartermaster."""
    stats = FunctionStats(instances=InstanceCounts(idle=2, busy=1), queued=3)
    parts = Parts(stats=stats)
    await parts.store.reload()
    await parts.service.publish("f", spec(), ROOT)
    shown = parts.service.get("f", ROOT)
    assert (shown.instances, shown.queued, shown.last_errors) == (InstanceCounts(idle=2, busy=1), 3, [])


@pytest.mark.gen_test
async def test_before_the_first_listing_nothing_is_said_to_be_missing(parts: Parts) -> None:
    """503, not 404: it may well be there."""
    for ask in (parts.service.get, parts.service.versions):
        with pytest.raises(EngineUnavailable, match="not listed yet"):
            ask("f", ROOT)
    with pytest.raises(EngineUnavailable, match="not listed yet"):
        parts.service.listing(ROOT)


@pytest.mark.gen_test
async def test_of_two_publishers_each_gets_a_number() -> None:
    """Who comes second reads again: the same is no new version, another one is the next."""
    one = Parts()
    other = Parts(one.configs)
    await other.store.reload()
    first = await one.service.publish("f", spec(), ROOT)

    async def blind(name: str) -> None:  # the other's listing is from before
        other.store.refresh = real  # type: ignore[method-assign]

    real, other.store.refresh = other.store.refresh, blind  # type: ignore[method-assign]
    same = await other.service.publish("f", spec(), ROOT)
    assert (first.function.version, same.function.version, same.changed) == (1, 1, False)
    assert (await other.service.publish("f", spec(memory=64), ROOT)).function.version == 2
    assert (await one.service.publish("f", spec(memory=65), ROOT)).function.version == 3


@pytest.mark.gen_test
async def test_a_name_that_something_else_has_is_passed_over() -> None:
    """A config of somebody's that is no version; a function whose names are all taken is a conflict, not a hang."""
    there = [Config(id=str(n), name=f"qm-fn-f-{n}", labels={}, data=b"", index=1) for n in range(1, 3)]
    parts = Parts(FakeConfigs(*there))
    assert (await parts.service.publish("f", spec(), ROOT)).function.version == 3
    there = [Config(id=str(n), name=f"qm-fn-f-{n}", labels={}, data=b"", index=1) for n in range(1, 99)]
    with pytest.raises(Conflict, match="too many others"):
        await Parts(FakeConfigs(*there)).service.publish("f", spec(), ROOT)


# --- on a real engine -------------------------------------------------------------------------------------------------

Work = Callable[[FunctionService, FunctionService], Coroutine[Any, Any, None]]


def on_two(engine: Engine, work: Work, registry_auth: RegistryAuth | None = None) -> None:
    """Run it with two services of one swarm, each with an engine of its own."""

    async def run() -> None:
        engines = [OurEngine(Endpoint.read(engine.host, {})) for _ in range(2)]
        stores = [VersionStore(each.configs) for each in engines]
        one, other = (
            FunctionService(store, each.swarm, registry_auth or RegistryAuth(), RULES)
            for store, each in zip(stores, engines, strict=True)
        )
        try:
            await work(one, other)
        finally:
            for each in engines:
                await each.close()

    asyncio.run(run())


def test_eight_publishers_at_once_get_eight_versions(engine: Engine) -> None:
    """Of eight specs, each once and in a row; of one spec, one version, and one of the eight has made it."""

    async def work(one: FunctionService, other: FunctionService) -> None:
        def publish(n: int, **fields: Any) -> Coroutine[Any, Any, Published]:
            return (one, other)[n % 2].publish("race", spec(image="busybox:local", pull_policy="never", **fields), ROOT)

        done = await asyncio.gather(*(publish(n, memory=64 + n) for n in range(8)))
        assert sorted(each.function.version for each in done) == list(range(1, 9))
        assert all(each.changed for each in done)
        assert len({each.function.spec["memory"] for each in done}) == 8
        same = await asyncio.gather(*(publish(n, memory=100) for n in range(8)))
        assert {each.function.version for each in same} == {9}
        assert sum(each.changed for each in same) == 1
        await other.delete("race", ROOT)
        with pytest.raises(NotFound):
            await one.rollback("race", 9, ROOT)

    on_two(engine, work)
    assert sdk(engine).configs() == []


def test_a_publication_whose_answer_was_lost_is_made_once(engine: Engine, proxy: Proxy) -> None:
    """The version is found by its name, and is the publisher's own."""

    async def work() -> None:
        ours = OurEngine(Endpoint.read(proxy.host, {}))
        service = FunctionService(VersionStore(ours.configs), ours.swarm, RegistryAuth(), RULES)
        proxy.on("/configs/create", forward_then(cut()), times=1)
        first = await service.publish("f", spec(image="busybox:local", pull_policy="never"), ROOT)
        assert (first.changed, first.function.version) == (True, 1)
        again = await service.publish("f", spec(image="busybox:local", pull_policy="never"), ROOT)
        assert (again.changed, again.function.version) == (False, 1)
        await ours.close()

    asyncio.run(work())
    assert len(sdk(engine).configs()) == 1


def test_without_a_swarm_it_is_said_as_to_a_run(plain_engine: Engine) -> None:
    """Each change is a 503 with what to do."""

    async def work(one: FunctionService, other: FunctionService) -> None:
        for ask in (one.publish("f", spec(), ROOT), one.rollback("f", 1, ROOT), one.delete("f", ROOT)):
            with pytest.raises(NotAManager, match="run 'docker swarm init' on it"):
                await ask

    on_two(plain_engine, work)


def write(path: Path, registry: Registry, user: Any) -> RegistryAuth:
    """The file that `docker login` would make."""
    path.write_text(json.dumps({"auths": {registry.address: {**user.auth_config}}}))
    path.chmod(0o600)
    auth = RegistryAuth(path)
    auth.load()
    return auth


def test_a_private_image_is_pinned_with_the_credentials_of_the_file(
    engine: Engine, registry: Registry, tmp_path: Path
) -> None:
    """For the root token and a token whose images name the repository, and for no other; wrong ones are refused."""
    image = registry.push(engine)
    named = Identity("alice", grant(functions=("*",), images=(Pattern.parse(f"{registry.address}/private/*"),)))
    unnamed = Identity("bob", grant("bob", functions=("*",)))
    private = FunctionSpec(image=image, pull_policy="always")

    async def right(one: FunctionService, other: FunctionService) -> None:
        for number, by in enumerate((ROOT, named), 1):
            published = await one.publish("f", private, by)
            assert published.function.image == f"{image}@{registry.digest(image)}"
            assert (published.function.version, published.warnings) == (number, ())
        published = await other.publish("g", private, unnamed)
        assert published.function.image == image
        assert published.warnings

    on_two(engine, right, write(tmp_path / "config.json", registry, registry.alice))

    async def wrong(one: FunctionService, other: FunctionService) -> None:
        with pytest.raises(RegistryRefused, match="refused the credentials in --registry-auth-file"):
            await one.publish("h", private, ROOT)

    nobody = type(registry.alice)("alice", "not-hers")
    on_two(engine, wrong, write(tmp_path / "wrong.json", registry, nobody))
