"""What `simulate` prints, against what can be computed on paper from runs made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmuwitness.report.simulate_json import SCHEMA, simulate_json
from mmuwitness.report.simulate_plot import break_even, make_directory, over_time, plot_study
from mmuwitness.report.simulate_report import WIDTH, simulate_text
from mmuwitness.report.simulate_words import answer, ns, ns_range, number, signed
from mmuwitness.simulate.cost import load_costs
from mmuwitness.simulate.meters import DO_NOTHING
from mmuwitness.simulate.price import Study
from tests.simulate.made_runner import DESIGNS, MadeRunner
from tests.simulate.made_runs import COSTS, run

TABLE = load_costs("x86")
RUNNER = MadeRunner("v6.9", (), "x86-tdp", {name: round(TABLE.typical(name)) for name in TABLE})


def made_study(seeds: int) -> Study:
    """Per design 2,000 merged pages that are read again; ksm-only has 2,040 exits less than
    wrapped, and 40,000 walks of 100 ns more: 4 ms, so 1,961 ns an exit."""
    runs = [
        RUNNER("made", design, seed, {}, lambda _: None)
        for design in DESIGNS
        for seed in range(1, seeds + 1)
    ]
    return Study(runs, TABLE)


def test_the_answer_comes_first() -> None:
    # Saved 2,040 x 700 ns = 1.428 ms, spent 4 ms, in 100 s: 0.00257 % of one CPU.
    lines = simulate_text(made_study(3)).splitlines()
    assert " ".join(lines[:6]).startswith(
        "ksm-only saves 1.02 exits per merged page that is read again (95 %: 1.02 to 1.02), but "
        "takes 0.00257 % more of one CPU here (-0.00248 to 0.0191 by the costs). It pays only "
        "where an exit costs more than 1,961 ns (by seed: 1,961 to 1,961 ns); the table says 450 "
        "to 2,000 ns, so it may or may not."
    )


def test_one_seed_has_no_interval() -> None:
    text = " ".join(simulate_text(made_study(1)).split())
    assert "(one seed, no interval)" in text
    assert "by seed:" not in text
    assert "±" not in text


def test_fits_into_a_mail() -> None:
    for seeds in (1, 4):
        lines = simulate_text(made_study(seeds)).splitlines()
        assert max(map(len, lines)) <= WIDTH
        assert all(line == line.rstrip() for line in lines)


def test_many_designs_fit_as_well() -> None:
    names = [f"design-{n}" for n in range(7)]
    runs = [
        run(name, seed, exit=10**9 * (n + seed)) for n, name in enumerate(names) for seed in (1, 2)
    ]
    text = simulate_text(Study(runs, COSTS))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(name in text for name in names)


def test_says_what_it_rests_on() -> None:
    text = " ".join(simulate_text(made_study(2), ["one note more"]).split())
    for said in (
        "Virtual time, costs from a table: no measurement.",
        "made: guests 2.",
        "100 s of guest time; seeds 1, 2.",
        "3 entries matter here, 2 of them assumed",
        "one note more",
    ):
        assert said in text


def test_doing_nothing_is_beside_it() -> None:
    # 4,000 exits more at 700 ns, 2,000 merges at 700 ns, 2,000 walks at 100 ns: 4.4 ms in 100 s.
    said = answer(made_study(2))[-1]
    assert said == (
        "Beside doing nothing, wrapped takes +0.0044 % of one CPU, has +4,000 exits, and saves "
        "7.81 MiB."
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"exit": 100}, {"exit": 90}, "It always pays, whatever an exit costs."),
        ({"exit": 90}, {"exit": 100}, "It never pays, whatever an exit costs."),
        ({"exit": 90}, {"exit": 90}, "It makes no difference, whatever an exit costs."),
        ({"exit": 90, "walk": 100}, {"exit": 100}, "costs less than 1,000 ns; the table says 500"),
        (
            {"exit": 100},
            {"exit": 90, "walk": 10},
            "more than 100 ns; the table says 500 to 2,000 ns, so it does.",
        ),
        (
            {"exit": 100},
            {"exit": 90, "walk": 900},
            "more than 9,000 ns; the table says 500 to 2,000 ns, so it does not.",
        ),
    ],
)
def test_where_it_pays(old: dict[str, int], new: dict[str, int], said: str) -> None:
    assert said in answer(Study([run("old", **old), run("new", **new)], COSTS))[0]


def test_seeds_that_disagree_are_not_hidden() -> None:
    runs = [run("old", seed, exit=100) for seed in (1, 2)]
    runs += [run("new", 1, exit=90), run("new", 2, exit=105)]
    said = answer(Study(runs, COSTS))[0]
    assert "makes no sure difference in exits" in said
    assert "Whether it pays, its seeds do not tell." in said


def test_what_pays_for_other_reasons_than_exits() -> None:
    counts = [(1, 99, 8), (2, 101, 9), (3, 100, 10)]
    runs = [run("old", seed, exit=100, copy=100) for seed, *_ in counts]
    runs += [run("new", seed, exit=exits, copy=copies) for seed, exits, copies in counts]
    assert "It pays, for other reasons than exits." in answer(Study(runs, COSTS))[0]


def test_break_even_of_seeds_that_disagree() -> None:
    runs = [run("old", seed, exit=100) for seed in (1, 2)]
    runs += [run("new", 1, exit=90), run("new", 2, exit=90, walk=10)]
    said = answer(Study(runs, COSTS))[0]
    assert "by the means; single seeds say otherwise (always pays, pays above)" in said


def test_one_design_alone() -> None:
    (said,) = answer(Study([run("old", exit=5)], COSTS))
    assert said.startswith("old: 5 exits in 100 s")


def test_costs_that_turn_it_round_are_named() -> None:
    text = " ".join(simulate_text(made_study(2)).split())
    # 4 ms are spent: exits save them from 1,961 ns on. 40,000 walks at 40 ns still take 1.6 ms.
    assert "can turn the answer round: handle_exit (at 1,961 ns)." in text


def test_json_has_the_same(tmp_path: Path) -> None:
    found = json.loads(json.dumps(simulate_json(made_study(3), ["a note"])))
    assert (found["schema"], found["seeds"], found["baseline"]) == (SCHEMA, [1, 2, 3], "wrapped")
    assert found["designs"]["wrapped"]["meters"]["exits"]["mean"] == 14_002
    assert found["designs"]["wrapped"]["meters"]["exits"]["per_second"] == pytest.approx(140.02)
    (only,) = found["comparisons"]
    assert only["break_even"] == {"pays": "pays above", "exit_ns": pytest.approx(4e6 / 2040)}
    assert only["exits_per"]["exits"] == pytest.approx(-1.02)
    assert found["bounds"][-1] == "a note"
    alone = simulate_json(made_study(1))["comparisons"][0]
    assert "low" not in alone["cpu_seconds"]


def test_pictures_show_what_is_computed(tmp_path: Path) -> None:
    study = made_study(2)
    (axis,) = break_even(study).axes
    line = next(each for each in axis.lines if each.get_label() == "ksm-only")
    at, seconds = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert np.interp(0, seconds[::-1], at[::-1]) == pytest.approx(4e6 / 2040)
    saved, exits = over_time(study).axes
    assert [each.get_label() for each in saved.lines] == [DO_NOTHING, "wrapped", "ksm-only"]
    assert np.asarray(exits.lines[1].get_ydata())[0] == pytest.approx(140.015)
    make_directory(tmp_path / "deep" / "er")
    written = plot_study(study, tmp_path / "deep" / "er")
    assert [path.name for path in written] == ["time.png", "break-even.png", "sensitivity.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_pictures_of_one_design() -> None:
    only = Study([run("old", exit=5)], COSTS)
    assert len(over_time(only).axes) == 2
    assert only.comparisons == []


def test_says_where_pictures_cannot_go(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="--plot"):
        make_directory(tmp_path / "file" / "deep")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (0.012345, "0.0123"),
        (12.345, "12.3"),
        (0.00001234, "1.2e-05"),
        (-1234.5, "-1,234"),
        (99.95, "100"),
        (1e-3, "0.001"),
    ],
)
def test_numbers(value: float, said: str) -> None:
    assert number(value) == said


def test_signs_and_units() -> None:
    assert [signed(each) for each in (-2.5, 0, 2.5)] == ["-2.5", "0", "+2.5"]
    assert [ns_range(*each) for each in ((5, 70), (9_000, 20_000))] == [
        "5 to 70 ns",
        "9,000 ns to 20 us",
    ]
    assert [ns(each) for each in (9_999, 10_000, 2e6, 3e9)] == ["9,999 ns", "10 us", "2 ms", "3 s"]
