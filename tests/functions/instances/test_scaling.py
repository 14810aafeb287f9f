"""instances.scaling: when instances start and end, as tables of cases."""

import pytest

from qmaster.functions.instances import scaling
from qmaster.functions.instances.scaling import Load, Scale

PLAIN = Scale(least=0, most=10, concurrency=1, idle=300)


@pytest.mark.parametrize(
    ("load", "scale", "starts"),
    [
        (Load(0, 0, 0), PLAIN, False),  # nobody waits
        (Load(1, 0, 0), PLAIN, True),  # nothing is there
        (Load(1, 1, 1), PLAIN, False),  # one starts already
        (Load(3, 1, 1), PLAIN, True),  # durations are unknown: as many as wait
        (Load(3, 3, 3), PLAIN, False),
        (Load(5, 0, 10), PLAIN, False),  # at its most
        (Load(24, 0, 1, 0.005, 0.5), PLAIN, True),  # 24 calls of 5 ms are one cold start's worth of work
        (Load(24, 1, 2, 0.005, 0.5), PLAIN, False),
        (Load(3, 0, 5, 10.0, 0.5), PLAIN, True),  # behind five long calls each that waits gets its own
        (Load(3, 2, 7, 10.0, 0.5), PLAIN, True),
        (Load(3, 3, 8, 10.0, 0.5), PLAIN, False),
        (Load(1, 0, 0, 0.001, 5.0), PLAIN, True),
        (Load(1, 0, 1, 0.001, 5.0), PLAIN, True),
        (Load(8, 1, 1), PLAIN._replace(concurrency=8), False),  # one instance takes all eight
        (Load(9, 1, 1), PLAIN._replace(concurrency=8), True),
        (Load(1, 0, 0), PLAIN._replace(most=0), False),
        (Load(1, 0, 1, 0.005, 0.5, waited=0.001), PLAIN, False),  # the one that runs is about to ask
        (Load(1, 0, 1, 0.005, 0.5, waited=0.03), PLAIN, True),
        (Load(1, 0, 0, 0.005, 0.5, waited=0.0), PLAIN, True),  # nothing runs
        (Load(2, 1, 1, waited=0.0), PLAIN, True),  # the first burst: nothing runs yet
        (Load(4, 0, 1, 2.0, 0.0), PLAIN, True),  # a cold start of no time divides nothing
    ],
)
def test_when_calls_need_one_more(load: Load, scale: Scale, starts: bool) -> None:
    """Fewer start than wait, and fewer than there is work for while they start; but one, if nothing is there."""
    assert scaling.calls_need_one(load, scale) is starts


@pytest.mark.parametrize(
    ("alive", "least", "most", "starts"),
    [(0, 0, 10, False), (0, 1, 10, True), (1, 1, 10, False), (2, 5, 10, True), (2, 5, 2, False)],
)
def test_when_one_more_is_kept_warm(alive: int, least: int, most: int, starts: bool) -> None:
    """Up to ``min_instances``, never beyond ``max_instances``."""
    assert scaling.too_few(Load(0, 0, alive), PLAIN._replace(least=least, most=most)) is starts


@pytest.mark.parametrize(
    ("idle_since", "alive", "least", "ends"),
    [
        ([], 0, 0, 0),
        ([700.0], 1, 0, 1),  # idle for 300 s
        ([700.5], 1, 0, 0),
        ([100.0, 200.0, 900.0], 3, 0, 2),
        ([100.0, 200.0, 300.0], 3, 2, 1),  # two are kept warm
        ([100.0], 4, 2, 1),  # three that are busy count
        ([100.0, 200.0], 2, 5, 0),
    ],
)
def test_how_many_idle_ones_end(idle_since: list[float], alive: int, least: int, ends: int) -> None:
    """Those idle for ``idle`` seconds, but so many stay as are kept warm."""
    assert scaling.surplus(idle_since, alive, PLAIN._replace(least=least), 1000.0) == ends


@pytest.mark.parametrize(
    ("nodes", "begun", "left"),
    [
        (3, [], 3),
        (3, [99.9, 99.8], 1),
        (1, [99.0], 0),
        (1, [96.0], 1),  # one that pulls its image keeps no other from starting
        (0, [], 1),  # the nodes are not known yet
        (1, [99.0, 99.5], -1),
    ],
)
def test_how_many_starts_may_begin(nodes: int, begun: list[float], left: int) -> None:
    """One in flight for each ready node, each for a while."""
    assert scaling.starts_left(nodes, begun, 100.0) == left


@pytest.mark.parametrize(
    ("candidates", "ends"),
    [
        ([], None),
        ([(5.0, 1), (3.0, 1), (9.0, 2)], 1),
        ([(3.0, 0), (5.0, 1)], 1),  # the longest-idle one is kept warm
        ([(3.0, 0), (5.0, 0)], None),
    ],
)
def test_who_makes_room(candidates: list[tuple[float, int]], ends: int | None) -> None:
    """The longest idle one of those above what is kept warm."""
    assert scaling.longest_idle(candidates) == ends


def test_a_mean_follows() -> None:
    """The first value is the mean; later ones move it."""
    first = scaling.mean(None, 10.0)
    assert first == 10.0
    assert 10.0 < scaling.mean(first, 20.0) < 20.0


def test_an_instance_may_finish_its_last_call_before_anybody_ends_it() -> None:
    """What its owner retires at six hours may be busy for one more timeout."""
    assert scaling.label_lifetime(900) > scaling.LIFETIME + 900
