"""schedules.scheduler: each tick once, with several quartermasters on one swarm of plain data."""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from fakes import FakeConfigs, until
from schedule_cases import BEGIN, EVERY_MINUTE, MINUTE, Lossy, Member, Site, at, scheduled, site
from version_cases import loaded, published

from qmaster.engine.labels import CRON, CRON_CLAIMS
from qmaster.errors import EngineAway, PayloadTooLarge, QueueFull
from qmaster.functions.asynchronous.invoker import Accepted, Order
from qmaster.functions.schedules import scheduler
from qmaster.functions.schedules.claims import MAX_CLAIMS, Claim, Ticks, plan
from qmaster.models.functions import Version
from qmaster.models.schedules import Schedule
from qmaster.models.units import rfc3339

Also = Callable[[sqlite3.Connection], object] | None

pytestmark = pytest.mark.gen_test

FORBID = Schedule(cron="* * * * *", concurrency="forbid")
THREE = (0.0, 2.0, -3.0)  # seconds by which three clocks differ


def minutes(*numbers: int) -> list[str]:
    """The ticks of these minutes."""
    return [rfc3339(BEGIN + number * MINUTE) for number in numbers]


async def test_a_tick_is_a_call(tmp_path: Path) -> None:
    """With the input, for the publisher, of the newest version; ``views`` shows the last and the next."""
    schedule = Schedule(cron="*/5 * * * *", time_zone="Europe/Berlin", input={"all": True})
    async with site(tmp_path, FakeConfigs(scheduled("f", schedule))) as here:
        member = here.members[0]
        (view,) = member.scheduler.views("f")
        assert (view.cron, view.time_zone, view.last, view.next) == (
            "*/5 * * * *",
            "Europe/Berlin",
            None,
            "2026-12-01T00:00:00Z",
        )
        await here.pass_time()
        (order,) = member.orders
        assert order[1:5] == ("f", None, "alice", b'{"all":true}')
        assert order.tick == "2026-12-01T00:00:00Z"
        (view,) = member.scheduler.views("f")
        assert (view.last, view.next) == ("2026-12-01T00:00:00Z", "2026-12-01T00:05:00Z")
        await here.pass_time(4 * MINUTE)
        assert here.ticks() == ["2026-12-01T00:00:00Z"]
        await here.pass_time(MINUTE)
        assert here.ticks() == ["2026-12-01T00:00:00Z", "2026-12-01T00:05:00Z"]


async def test_a_schedule_is_shown_as_soon_as_it_is_published(tmp_path: Path) -> None:
    """In the answer of the publication."""
    async with site(tmp_path, FakeConfigs()) as here:
        member = here.members[0]
        await member.store.add("f", 1, at(published(schedules=[EVERY_MINUTE]), here.clock.time))
        (view,) = member.scheduler.views("f")
        assert (view.last, view.next) == (None, *minutes(0))
        await here.pass_time()
        assert here.ticks() == minutes(0)


async def test_the_claims_are_labels_of_one_config(tmp_path: Path) -> None:
    """Which Swarm keeps, and which no listing of versions shows."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE, FORBID))) as here:
        await here.pass_time()
        (config,) = [each for each in here.configs.there.values() if CRON in each.labels]
        assert (config.name, config.labels[CRON]) == ("qm-cron-f", "f")
        assert len(msgspec.json.decode(config.labels[CRON_CLAIMS])) == 2
        assert [claim.by for claim in here.claims()] == [here.members[0].journal.id] * 2
        assert here.members[0].store.names() == ["f"]


@pytest.mark.slow
async def test_1000_ticks_of_three_quartermasters_are_1000_calls(tmp_path: Path) -> None:
    """Whose clocks differ by seconds."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        for _ in range(1000):
            await here.pass_time()
        assert here.ticks() == minutes(*range(1000))
        assert all(member.orders for member in here.members)


@pytest.mark.slow
async def test_each_tick_is_called_once_when_answers_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three in ten calls to the engine, before or after they are carried out."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(scheduler, "LAST_PAUSE", 0.001)
    function = scheduled("f", EVERY_MINUTE, Schedule(cron="*/2 * * * *", input=2))
    configs = Lossy(function, loses=0.0)
    async with site(tmp_path, configs, THREE) as here:
        configs.loses = 0.3
        for _ in range(60):
            here.clock.time += MINUTE - 0.3
            for _ in range(30):
                here.clock.time += 0.01
                await here.settled()
        configs.loses = 0.0
        await here.pass_time(1)
        told = here.calls()
        assert max(told.values()) == 1
        one = sorted(tick or "" for _, tick, payload in told if payload == b"{}")
        other = sorted(tick or "" for _, tick, payload in told if payload == b"2")
        assert one == minutes(*range(60))
        assert other == minutes(*range(0, 60, 2))


class Ambiguous(FakeConfigs):
    """The answer of each claim is lost, after it was carried out."""

    async def relabel(self, config, labels) -> None:  # type: ignore[no-untyped-def]
        await super().relabel(config, labels)
        raise EngineAway("the answer was lost")

    async def create(self, name, labels, data) -> str:  # type: ignore[no-untyped-def]
        await super().create(name, labels, data)
        raise EngineAway("the answer was lost")


async def test_the_nonce_tells_whose_a_claim_is(tmp_path: Path) -> None:
    """The claimant reads it again after any error."""
    configs = Ambiguous()
    configs.there = {(function := scheduled("f", EVERY_MINUTE)).id: function}
    async with site(tmp_path, configs, THREE) as here:
        for _ in range(10):
            await here.pass_time()
        assert here.ticks() == minutes(*range(10))


async def test_clocks_that_jump(tmp_path: Path) -> None:
    """Forwards only the newest missed tick is called, backwards none twice; then each again."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        await here.pass_time()
        await here.pass_time(10 * MINUTE)
        assert here.ticks() == minutes(0, 10)
        await here.pass_time(-7 * MINUTE)
        for _ in range(7):
            await here.pass_time()
        assert here.ticks() == minutes(0, 10)
        await here.pass_time()
        assert here.ticks() == minutes(0, 10, 11)


async def test_one_clock_that_jumps_stops_no_other(tmp_path: Path) -> None:
    """Nor is a tick called twice while it is some minutes ahead."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        await here.pass_time()
        here.members[1].ahead = 5 * MINUTE
        for _ in range(10):
            await here.pass_time()
        here.members[1].ahead = -5 * MINUTE
        for _ in range(10):
            await here.pass_time()
        assert sorted(set(here.ticks())) == here.ticks()
        assert here.ticks()[-1] == minutes(20)[0]


async def test_a_clock_that_is_a_year_ahead_does_not_end_a_schedule(tmp_path: Path) -> None:
    """What it claimed is not believed."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID)), (0.0, 0.0)) as here:
        here.members[1].ahead = 365 * 86_400.0
        await here.members[1].settled()
        assert len(here.members[1].orders) == 1
        await here.members[1].stop()
        del here.members[1:]
        await here.pass_time()
        here.members[0].invoker.end(here.members[0].orders[-1])
        await here.pass_time()
        assert here.ticks() == minutes(0, 1)


async def test_of_missed_ticks_only_the_newest_is_called(tmp_path: Path) -> None:
    """And only within ``starting_deadline``."""
    often = Schedule(cron="* * * * *", starting_deadline=150)
    seldom = Schedule(cron="0 * * * *", starting_deadline=1200, input="seldom")
    gone = Schedule(cron="0 * * * *", starting_deadline=900, input="gone")
    configs = FakeConfigs(scheduled("f", often, seldom, gone))
    async with site(tmp_path, configs) as here:
        member = here.members[0]
        await member.stop()
        here.clock.time = BEGIN + 17 * MINUTE + 10
        here.members[0] = await member.again()
        assert here.calls() == {("f", minutes(17)[0], b"{}"): 1, ("f", minutes(0)[0], b'"seldom"'): 1}


async def test_no_tick_from_before_it_was_published(tmp_path: Path) -> None:
    """However long the deadline; nor of a time in which it was suspended."""
    schedule = Schedule(cron="* * * * *", starting_deadline=3600)
    suspended = msgspec.structs.replace(schedule, suspend=True)
    async with site(tmp_path, FakeConfigs(), THREE) as here:
        await here.publish("f", 1, [schedule])
        assert here.ticks() == []
        await here.pass_time()
        await here.publish("f", 2, [suspended])
        for _ in range(5):
            await here.pass_time()
        assert [view.next for view in here.members[0].scheduler.views("f")] == [None]
        await here.publish("f", 3, [schedule])
        assert here.ticks() == minutes(0)
        await here.pass_time()
        assert here.ticks() == minutes(0, 6)


async def test_a_new_version_keeps_the_schedules_that_it_does_not_change(tmp_path: Path) -> None:
    """A tick is due at its moment of publication too, once."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        await here.pass_time()
        here.clock.time = BEGIN + MINUTE
        await here.publish("f", 2, [msgspec.structs.replace(EVERY_MINUTE, starting_deadline=200)], memory=64)
        await here.settled()
        await here.pass_time(10)
        assert here.ticks() == minutes(0, 1)


async def test_a_schedule_that_is_changed_at_its_tick(tmp_path: Path) -> None:
    """Those who have not heard of it yet call the old one, and nobody calls the new one for a tick before it."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), (0.0, 0.0)) as here:
        await here.pass_time(30)
        await here.members[0].settled()
        here.clock.time = BEGIN + MINUTE + 0.5
        new = msgspec.structs.replace(EVERY_MINUTE, input=2)
        slow = here.members[1]
        store, slow.scheduler._versions = slow.store, slow.store
        await here.members[0].store.add("f", 2, _published(here, new))
        await here.members[0].settled()
        assert here.ticks() == minutes(0)  # the first knows the new one alone
        await slow.settled()
        assert here.ticks() == minutes(0, 1)  # the second does not
        await store.refresh("f")
        await here.settled()
        await here.pass_time()
        assert here.calls() == {
            ("f", minutes(0)[0], b"{}"): 1,
            ("f", minutes(1)[0], b"{}"): 1,
            ("f", minutes(2)[0], b"2"): 1,
        }


def _published(here: Site, schedule: Schedule):  # type: ignore[no-untyped-def]
    return at(published(schedules=[schedule]), here.clock.time)


async def test_forbid_waits_for_the_end(tmp_path: Path) -> None:
    """Of the call that another quartermaster makes too; a missed tick within the deadline follows the end."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID)), (0.0, 0.0, 0.0)) as here:
        for _ in range(4):
            await here.pass_time()
        assert here.ticks() == minutes(0)
        (caller,) = [member for member in here.members if member.orders]
        caller.invoker.end(caller.orders[0])
        await here.settled()
        assert here.ticks() == minutes(0, 3)
        assert sum(claim.busy_until is not None for claim in here.claims()) == 1


async def test_forbid_is_for_one_schedule(tmp_path: Path) -> None:
    """``allow`` calls at each tick."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID, EVERY_MINUTE)), THREE) as here:
        for _ in range(3):
            await here.pass_time()
        assert here.ticks() == sorted([*minutes(0), *minutes(0, 1, 2)])


async def test_forbid_ends_with_a_call_that_ended_while_nobody_looked(tmp_path: Path) -> None:
    """The claimant finds out at its next start; one whose call still waits goes on to forbid others."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID), scheduled("g", FORBID))) as here:
        await here.pass_time()
        member = here.members[0]
        await member.stop()
        (order,) = [order for order in member.orders if order.function == "f"]
        member.invoker.status[order.id] = "dead"
        here.members[0] = await member.again()
        await here.pass_time()
        assert here.calls() == {
            ("f", minutes(0)[0], b"{}"): 1,
            ("f", minutes(1)[0], b"{}"): 1,
            ("g", minutes(0)[0], b"{}"): 1,
        }


async def test_forbid_ends_where_its_quartermaster_is_lost_for_good(tmp_path: Path) -> None:
    """After ``max_age`` and ``timeout``."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID, max_age=600, timeout=30)), (0.0, 0.0)) as here:
        await here.pass_time()
        (caller,) = [member for member in here.members if member.orders]
        await caller.stop()
        here.members.remove(caller)
        for _ in range(10):
            await here.pass_time()
        assert here.ticks() == []  # of the other
        await here.pass_time()
        assert here.ticks() == minutes(11)


async def test_claims_may_be_removed_by_hand(tmp_path: Path) -> None:
    """That ends what they forbid; the next tick is called."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID)), (0.0, 0.0)) as here:
        await here.pass_time()
        (caller,) = [member for member in here.members if member.orders]
        await caller.stop()
        here.members.remove(caller)
        await here.pass_time()
        assert here.ticks() == []
        (config,) = [each for each in here.configs.there.values() if CRON in each.labels]
        del here.configs.there[config.id]
        await here.pass_time()
        assert here.ticks() == minutes(2)


async def test_a_claim_without_its_call_is_called_at_the_next_start(tmp_path: Path) -> None:
    """Where the process died between the two; once, also over several starts."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), (0.0, 0.0)) as here:
        await here.members[1].stop()
        member = here.members[0]
        member.invoker.fails["accept"] = RuntimeError("the process died here")
        await here_pass(here, member)
        assert len(here.claims()) == 1
        assert here.ticks() == []
        here.clock.time += 10 * MINUTE
        here.members[0] = member = await member.again()
        assert here.ticks() == minutes(0, 10)
        for _ in range(2):
            here.members[0] = member = await member.again()
        assert here.ticks() == minutes(0, 10)


async def here_pass(here: Site, member: Member) -> None:
    here.clock.time += MINUTE
    member.scheduler._wake.set()
    await until(lambda: member.invoker.calls)


async def test_a_claim_that_is_too_old_is_not_called(tmp_path: Path) -> None:
    """After ``max_age`` nobody waits for it."""
    seldom = Schedule(cron="0 * * * *", starting_deadline=40)
    async with site(tmp_path, FakeConfigs(scheduled("f", seldom, max_age=60))) as here:
        member = here.members[0]
        member.invoker.fails["accept"] = RuntimeError("the process died here")
        await here_pass(here, member)
        here.clock.time += 2 * MINUTE
        here.members[0] = await member.again()
        assert here.ticks() == []


async def test_another_claim_is_left_to_its_claimant(tmp_path: Path) -> None:
    """A quartermaster that is lost for good loses that tick; the next one is called."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), (0.0,)) as here:
        await here.pass_time()
        (config,) = [each for each in here.configs.there.values() if CRON in each.labels]
        ((key, claim),) = msgspec.json.decode(config.labels[CRON_CLAIMS], type=dict[str, Claim]).items()
        other = msgspec.structs.replace(claim, by="another", nonce="lost", tick=claim.tick + 60)
        told = {**config.labels, CRON_CLAIMS: msgspec.json.encode({key: other}).decode()}
        await here.configs.relabel(config, told)
        here.members[0] = await here.members[0].again()
        await here.pass_time()
        assert here.ticks() == minutes(0)
        await here.pass_time()
        assert here.ticks() == minutes(0, 2)


async def test_a_full_queue_delays_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is claimed already, so it is accepted as soon as there is room; no further tick is claimed meanwhile."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 5.0)
    monkeypatch.setattr(scheduler, "LAST_PAUSE", 5.0)
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE))) as here:
        invoker = here.members[0].invoker
        invoker.fails["accept"] = QueueFull("full")
        await here.pass_time()
        here.configs.calls.clear()
        await here.pass_time()
        assert here.configs.calls == []
        del invoker.fails["accept"]
        await here.pass_time(10)
        assert here.ticks() == minutes(0, 1)


async def test_a_call_that_is_owed_is_made_soon_after_the_clock_was_set_back(tmp_path: Path) -> None:
    """Not when the clock is there again."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE))) as here:
        invoker = here.members[0].invoker
        invoker.fails["accept"] = QueueFull("full")
        await here.pass_time()
        await here.pass_time(-3600)
        del invoker.fails["accept"]
        await here.pass_time(20)
        assert here.ticks() == minutes(0)


async def test_of_a_schedule_whose_call_is_owed_others_make_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the other schedules of the function go on."""
    other = Schedule(cron="* * * * *", input="other")
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE, other))) as here:
        invoker = here.members[0].invoker
        accept, full = invoker.accept, True

        async def accept_some(version: Version, order: Order, also: Also = None) -> Accepted:
            if full and order.payload == b"{}":
                raise QueueFull("full")
            return await accept(version, order, also)

        monkeypatch.setattr(invoker, "accept", accept_some)
        await here.pass_time()
        await here.pass_time()
        assert here.calls() == {("f", minute, b'"other"'): 1 for minute in minutes(0, 1)}
        assert sorted(claim.tick for claim in here.claims()) == [BEGIN, BEGIN + MINUTE]
        full = False
        await here.pass_time(20)
        assert sorted(order.tick or "" for order in here.orders if order.payload == b"{}") == minutes(0, 1)


async def test_a_call_that_is_refused_for_good_is_dropped(tmp_path: Path) -> None:
    """As one whose input is too large; the next tick is called."""
    async with site(tmp_path, FakeConfigs(scheduled("f", FORBID))) as here:
        invoker = here.members[0].invoker
        invoker.fails["accept"] = PayloadTooLarge("too large")
        await here.pass_time()
        del invoker.fails["accept"]
        await here.pass_time()
        assert here.ticks() == minutes(1)


async def test_a_quartermaster_that_stops_claims_nothing(tmp_path: Path) -> None:
    """So the call does not wait for its next start."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), (0.0, 0.0)) as here:
        one, other = here.members
        one.scheduler.stop()
        here.clock.time += MINUTE
        one.scheduler._wake.set()
        await until(lambda: one.scheduler._looked == one.now())
        assert here.ticks() == []
        await other.settled()
        assert (one.orders, len(other.orders)) == ([], 1)


async def test_a_time_zone_that_a_machine_does_not_know(tmp_path: Path) -> None:
    """Its function is there all the same; others make the calls."""
    unknown = Schedule(cron="* * * * *", time_zone="Mars/Olympus")
    async with site(tmp_path, FakeConfigs(scheduled("f", unknown, EVERY_MINUTE))) as here:
        assert here.members[0].store.latest("f") is not None
        await here.pass_time()
        assert here.ticks() == minutes(0)


async def test_who_cannot_write_claims_nothing(tmp_path: Path) -> None:
    """So another quartermaster makes the call."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), (0.0, 0.0)) as here:
        here.members[0].journal.trouble = "no space left on device"
        await here.pass_time()
        assert [len(member.orders) for member in here.members] == [0, 1]


async def test_a_function_that_is_deleted_at_its_tick(tmp_path: Path) -> None:
    """It is called once at most, although some have not heard of it yet; its claims go with it."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        await here.pass_time()
        one, *others = here.members
        here.clock.time += MINUTE
        await one.store.remove("f", 1)
        await here.settled()  # the others do not know yet
        assert here.ticks() in (minutes(0), minutes(0, 1))
        for each in others:
            await each.store.refresh("f")
        await here.settled()
        await here.pass_time()
        assert here.ticks() in (minutes(0), minutes(0, 1))
        assert here.configs.there == {}


async def test_a_function_without_schedules_has_no_claims(tmp_path: Path) -> None:
    """Its config goes with the last schedule; it comes again with the next."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE)), THREE) as here:
        await here.pass_time()
        await here.publish("f", 2, [])
        assert [each.name for each in here.configs.there.values()] == ["qm-fn-f-1", "qm-fn-f-2"]
        assert here.members[0].scheduler.views("f") == []
        await here.publish("f", 3, [EVERY_MINUTE])
        await here.pass_time()
        assert here.ticks() == minutes(0, 1)


async def test_schedules_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """Also where each version of a function has others: what was called is known as long as the swarm has a claim."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE))) as here:
        for number in range(2, MAX_CLAIMS + 10):
            await here.publish("f", number, [Schedule(cron="* * * * *", input=number)])
            await here.pass_time()
        member = here.members[0]
        assert len(here.ticks()) == MAX_CLAIMS + 8
        assert len(here.claims()) == len(await Ticks(here.configs, member.journal).made()) == MAX_CLAIMS
        assert len(member.scheduler._claimant._made) == MAX_CLAIMS


async def test_leftovers_go_at_the_start(tmp_path: Path) -> None:
    """Claims of a function that was deleted while no quartermaster ran; others stay."""
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE), scheduled("g", EVERY_MINUTE))) as here:
        await here.pass_time()
        await here.members[0].stop()
        here.configs.there = {
            config_id: each for config_id, each in here.configs.there.items() if each.name != "qm-fn-f-1"
        }
        here.members[0] = await here.members[0].again()
        assert sorted(each.name for each in here.configs.there.values()) == ["qm-cron-g", "qm-fn-g-1"]
        assert await here.members[0].scheduler._claimant._ticks.made() == {
            key: made for key, made in here.members[0].scheduler._claimant._made.items() if key[0] == "g"
        }


async def test_500_schedules_cost_nothing_but_at_their_ticks(tmp_path: Path) -> None:
    """No call to the engine, and no wake-up."""
    functions = [scheduled(f"f{number}", Schedule(cron=f"{number % 60} * * * *")) for number in range(250)]
    functions += [scheduled(f"g{number}", Schedule(cron="30 3 * * *")) for number in range(250)]
    async with site(tmp_path, FakeConfigs(*functions)) as here:
        member = here.members[0]
        looks, real = 0, member.scheduler._look

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await real()

        member.scheduler._look = counted  # type: ignore[method-assign]
        here.configs.calls.clear()
        await here.pass_time(10)
        looks = 0
        here.clock.time += 15
        assert member.scheduler._timers.first == BEGIN == member.now() + 5
        await here.settled()
        assert (looks, here.configs.calls) == (1, [])  # the test's own
        await here.pass_time(10)
        assert len(here.orders) == 5
        names = here.configs.names()
        assert (names.count("config"), names.count("labelled"), names.count("create"), len(names)) == (5, 5, 5, 15)


@pytest.mark.slow
async def test_500_functions_at_one_minute(tmp_path: Path) -> None:
    """All are called, by one of three each."""
    functions = [scheduled(f"f{number}", Schedule(cron="0 * * * *")) for number in range(500)]
    async with site(tmp_path, FakeConfigs(*functions), (0.0, 0.0, 0.0)) as here:
        await here.pass_time()
        assert here.calls() == {(f"f{number}", minutes(0)[0], b"{}"): 1 for number in range(500)}


async def test_the_engine_is_away_at_a_tick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is made once it is back, within the deadline."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 5.0)
    async with site(tmp_path, FakeConfigs(scheduled("f", EVERY_MINUTE))) as here:
        here.configs.fails["config"] = EngineAway("gone")
        await here.pass_time()
        await here.pass_time(6)
        del here.configs.fails["config"]
        assert here.ticks() == []
        await here.pass_time(12)
        assert here.ticks() == minutes(0)


@pytest.mark.slow
async def test_random_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that die at any moment, lost answers, clocks that jump by seconds: no tick is called twice."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(scheduler, "LAST_PAUSE", 0.001)
    configs = Lossy(scheduled("f", EVERY_MINUTE), loses=0.0)
    chance = random.Random(7)
    async with site(tmp_path, configs, THREE) as here:
        for _ in range(60):
            here.clock.time += MINUTE
            configs.loses = 0.2
            place = chance.randrange(3)
            here.members[place].ahead = chance.uniform(-5, 5)
            here.members[place].scheduler._wake.set()
            for _ in range(chance.randrange(8)):
                await until(lambda: True)
            configs.loses = 0.0
            here.members[place] = await here.members[place].again()
            await here.pass_time(1)
        here.clock.time += MINUTE
        await here.settled()
        assert max(here.calls().values()) == 1
        assert set(minutes(*range(1, 59))) <= set(here.ticks())


async def test_since_when_a_schedule_is_there() -> None:
    """From the oldest of the newest versions that have it, one after the other."""
    versions = [scheduled("f", EVERY_MINUTE, number=number) for number in (1, 3, 4)]
    versions.append(scheduled("f", number=2))
    store = loaded(FakeConfigs(*versions))
    there = [msgspec.structs.replace(each, published_at=rfc3339(BEGIN + each.number)) for each in store.versions("f")]
    assert [each.since for each in plan(there)] == [BEGIN + 3]
    assert plan(there[2:]) == []
