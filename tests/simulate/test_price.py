"""Prices by hand arithmetic: break-even, intervals, what can turn an answer round."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuwitness.simulate.meters import DO_NOTHING, EXITS, METERS, quantile, stall, stalls
from mmuwitness.simulate.paired import interval, t_quantile
from mmuwitness.simulate.price import BreakEven, Pays, Study, cpu_ns, solve, stall_ns
from tests.simulate.made_runs import COPY, COSTS, SWAP, WALK, run, table

# From printed tables of Student's t, two-sided 95 %.
PRINTED = {
    1: 12.706,
    2: 4.303,
    4: 2.776,
    9: 2.262,
    12: 2.179,
    20: 2.086,
    30: 2.042,
    60: 2.000,
    120: 1.980,
}
amounts = st.integers(-10_000, 10_000)
counts = st.integers(0, 5_000)


@pytest.mark.parametrize("freedom", PRINTED)
def test_quantiles_of_t(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(PRINTED[freedom], abs=6e-4)


def test_interval_of_three_values() -> None:
    found = interval([1.0, 2.0, 6.0])
    # Mean 3, variance ((-2)^2 + (-1)^2 + 3^2) / 2 = 7, half = 4.3027 * sqrt(7 / 3).
    assert found.mean == 3
    assert found.half == pytest.approx(4.3027 * math.sqrt(7 / 3))
    assert not found.sign_is_sure
    assert interval([5.0, 5.1, 4.9]).sign_is_sure


def test_one_seed_has_no_interval() -> None:
    found = interval([7.0])
    assert (found.mean, found.half, found.sign_is_sure) == (7, None, False)
    with pytest.raises(ValueError, match="two values"):
        t_quantile(0)


def test_break_even_by_hand() -> None:
    # 100 exits saved, paid for with 400 walks of 100 ns: 40,000 ns, so 400 ns an exit.
    study = Study([run("old", exit=300, walk=0), run("new", exit=200, walk=400)], COSTS)
    found = study.compare("new")
    assert found.break_even == BreakEven(Pays.ABOVE, 400.0)
    assert found.cpu_seconds.mean == pytest.approx((40_000 - 100_000) / 1e9)
    assert found.cpu_share == pytest.approx(-60_000 / 1e9 / 100)


@pytest.mark.parametrize(
    ("fixed", "exits", "expected"),
    [
        (40_000, -100, BreakEven(Pays.ABOVE, 400)),
        (-40_000, 100, BreakEven(Pays.BELOW, 400)),
        (40_000, 100, BreakEven(Pays.NEVER)),
        (-40_000, -100, BreakEven(Pays.ALWAYS)),
        (0, -100, BreakEven(Pays.ALWAYS)),
        (0, 100, BreakEven(Pays.NEVER)),
        (1, 0, BreakEven(Pays.NEVER)),
        (-1, 0, BreakEven(Pays.ALWAYS)),
        (0, 0, BreakEven(Pays.EQUAL)),
    ],
)
def test_every_case_of_break_even(fixed: float, exits: float, expected: BreakEven) -> None:
    assert solve(fixed, exits) == expected


@given(amounts, amounts, st.floats(1e-3, 1e6))
def test_break_even_is_where_the_sign_turns(fixed: int, exits: int, ns: float) -> None:
    found, difference = solve(fixed, exits), fixed + exits * ns
    if abs(difference) > 1e-6:
        assert found.pays_at(ns) == (difference < 0)


@given(counts, counts, counts, counts, st.floats(1, 1e5))
def test_break_even_agrees_with_pricing_anew(a: int, b: int, c: int, d: int, ns: float) -> None:
    old, new = run("old", exit=a, walk=b), run("new", exit=c, walk=d)
    difference = cpu_ns(new, COSTS, {EXITS: ns}) - cpu_ns(old, COSTS, {EXITS: ns})
    if abs(difference) > 1e-3:
        found = Study([old, new], COSTS).compare("new").break_even
        assert found.pays_at(ns) == (difference < 0)


def test_break_even_of_each_seed() -> None:
    runs = [
        *(run("old", seed, exit=300) for seed in (1, 2)),
        run("new", 1, exit=200, walk=400),
        run("new", 2, exit=250, walk=300),
    ]
    found = Study(runs, COSTS).compare("new")
    assert [each.ns for each in found.break_even_by_seed] == [400, 600]
    # Together: 150 exits saved for 700 walks.
    assert found.break_even.ns == pytest.approx(70_000 / 150)


def test_pairs_by_seed() -> None:
    # Between the seeds exits vary by hundreds, between the designs by 10 or 12.
    old = [run("old", seed, exit=count) for seed, count in ((1, 100), (2, 500), (3, 900))]
    new = [run("new", seed, exit=count) for seed, count in ((3, 888), (1, 90), (2, 490))]
    found = Study([*old, *new], COSTS).compare("new")
    assert found.exits.mean == pytest.approx(-32 / 3)
    assert found.exits.half == pytest.approx(4.3027 * math.sqrt((4 / 3) / 3))
    assert found.exits.sign_is_sure


def test_prices_at_low_typical_and_high_costs() -> None:
    study = Study([run("old", exit=10, copy=100, walk=7)], COSTS)
    expected = [
        10 * a + 100 * b + 7 * c
        for a, b, c in ((500, 100, 10), (1000, 300, 100), (2000, 900, 1000))
    ]
    assert study.cpu_seconds("old") == pytest.approx([each / 1e9 for each in expected])
    # Only an exit always stalls a guest: what a copy does to one, costs do not tell.
    assert study.stall_seconds("old") == pytest.approx([5_000 / 1e9, 10_000 / 1e9, 20_000 / 1e9])


def test_waits_stay_as_simulated() -> None:
    waiting = run("old", exit=10)
    spinning = {**waiting.cpu_ns, "vcpu exits": waiting.cpu_ns["vcpu exits"] + 12_345}
    found = type(waiting)(**{**vars(waiting), "cpu_ns": spinning})
    assert cpu_ns(found, COSTS, {EXITS: 0.0}) == 12_345


def test_what_sleeps_takes_no_cpu() -> None:
    costs = table(exit=(500, 1000, 2000), swap=(1000, 2000, 90_000))
    swapping = run("old", costs=costs, exit=1, swap=1000)
    assert cpu_ns(swapping, costs, {SWAP: 90_000}) == cpu_ns(swapping, costs) == 1000
    assert stall_ns(swapping, costs, {SWAP: 90_000}) == 1000


@given(counts, counts, counts, counts, counts, counts, st.tuples(*[st.floats(0, 1)] * 3))
def test_no_choice_of_costs_leaves_the_range(
    a: int, b: int, c: int, d: int, e: int, f: int, where: tuple[float, float, float]
) -> None:
    old, new = run("old", exit=a, copy=b, walk=c), run("new", exit=d, copy=e, walk=f)
    found = Study([old, new], COSTS).compare("new").cpu_seconds_by_costs
    at = {
        name: COSTS[name].ns.low + share * (COSTS[name].ns.high - COSTS[name].ns.low)
        for name, share in zip((EXITS, COPY, WALK), where, strict=True)
    }
    seconds = (cpu_ns(new, COSTS, at) - cpu_ns(old, COSTS, at)) / 1e9
    assert found.low - 1e-12 <= seconds <= found.high + 1e-12


def test_the_range_is_reached() -> None:
    # Saves 100 exits, costs 400 walks: cheapest with dear exits and cheap walks.
    study = Study([run("old", exit=300), run("new", exit=200, walk=400)], COSTS)
    found = study.compare("new").cpu_seconds_by_costs
    assert found.low == pytest.approx((-100 * 2000 + 400 * 10) / 1e9)
    assert found.high == pytest.approx((-100 * 500 + 400 * 1000) / 1e9)


def test_sensitivity_finds_what_turns_the_answer() -> None:
    study = Study([run("old", exit=300, copy=50), run("new", exit=200, copy=50, walk=400)], COSTS)
    walk, exits = study.compare("new").sensitivities
    # -100,000 ns of exits and 400 walks: even at 250 ns a walk. Copies are the same in both.
    assert (walk.name, walk.flips) == (WALK, True)
    assert walk.turns_at == pytest.approx(250)
    assert walk.high == pytest.approx(-100_000 + 400_000)
    # 40,000 ns of walks: even at 400 ns an exit, which is below the spread.
    assert (exits.name, exits.flips, exits.turns_at) == (EXITS, False, None)


@given(counts, counts, counts, counts)
def test_sensitivity_agrees_with_pricing_anew(a: int, b: int, c: int, d: int) -> None:
    old, new = run("old", exit=a, walk=b), run("new", exit=c, walk=d)
    for each in Study([old, new], COSTS).compare("new").sensitivities:
        spread = COSTS[each.name].ns
        for ns, said in ((spread.low, each.low), (spread.high, each.high)):
            anew = cpu_ns(new, COSTS, {each.name: ns}) - cpu_ns(old, COSTS, {each.name: ns})
            assert said == pytest.approx(anew, abs=1e-3)
        if each.turns_at is not None:
            assert spread.low < each.turns_at < spread.high


def test_exits_in_the_most_telling_unit() -> None:
    old, new = run("old", exit=500, ksm_read_again=100), run("new", exit=398, ksm_read_again=100)
    words, count = Study([old, new], COSTS).compare("new").exits_per_unit or ("", 0)
    assert words == "merged page that is read again"
    assert count == pytest.approx(-1.02)
    words, count = Study([run("a", copy=10), run("b", copy=12, exit=5)], COSTS).compare(
        "b"
    ).exits_per_unit or ("", 0)
    assert words == "page copied"
    assert count == pytest.approx(5 / 12), "of the design that copies more"
    assert Study([run("a"), run("b")], COSTS).compare("b").exits_per_unit is None


def test_doing_nothing_comes_first_and_is_no_baseline() -> None:
    study = Study([run("old", exit=9), run("new"), run(DO_NOTHING)], COSTS)
    assert study.designs == [DO_NOTHING, "old", "new"]
    assert study.baseline == "old"
    assert [each.design for each in study.comparisons] == ["new"]
    assert study.compare("old", DO_NOTHING).exits.mean == 9
    assert Study([run(DO_NOTHING)], COSTS).baseline == DO_NOTHING


def test_means_over_seeds() -> None:
    study = Study([run("old", 1, exit=10), run("old", 2, exit=20)], COSTS)
    assert study.mean("old", METERS[0]) == 15
    assert study.task_seconds("old") == {"vcpu exits": 15_000 / 1e9, "ksmd": 0}
    assert study.seeds == [1, 2]


def test_refuses_what_does_not_compare() -> None:
    with pytest.raises(ValueError, match="no runs"):
        Study([], COSTS)
    with pytest.raises(ValueError, match="other parameters"):
        Study([run("a"), run("b", parameters={"guests": 3})], COSTS)
    with pytest.raises(ValueError, match="twice with the seed 1"):
        Study([run("a"), run("a")], COSTS)
    with pytest.raises(ValueError, match="no run of the baseline c"):
        Study([run("a")], COSTS, "c")
    with pytest.raises(ValueError, match="no seed in common"):
        Study([run("a", 1), run("b", 2)], COSTS).compare("b")


def test_quantiles_of_stalls() -> None:
    """Ten below 1,024 ns, one below 4,096: of nine in ten the first is true, of all the second."""
    counters = {stall(10): 10, stall(12): 1}
    found = stalls([replace(run("a"), counters=counters)])
    assert found == [(1024, 10), (4096, 1)]
    assert [quantile(found, share) for share in (0.5, 0.9, 0.99, 1.0)] == [1024, 1024, 4096, 4096]
    assert quantile([], 0.5) == 0
