"""A user's own file changes functions, hooks and features, and nothing else."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest

from mmuwitness import check, check_variant
from mmuwitness.explore.asking import Asking
from mmuwitness.explore.compare import Comparer, Comparison
from mmuwitness.explore.explorer import explore
from mmuwitness.explore.programs import fold_scenario, is_shipped
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import BadSchedule, format_schedule, parse_schedule
from mmuwitness.explore.variant import Variant, changed_schedule, load_variant
from mmuwitness.model.claims import CLAIMS
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.kvm import kvm_main
from mmuwitness.model.scenarios import find_scenario
from mmuwitness.process.errors import ProcessError
from mmuwitness.report.variant_table import bounds, exit_code
from mmuwitness.report.witness import steps_of

ERA = Era("v6.1")
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "variants"

NEVER_RETRIES = """
    def mmu_invalidate_retry(kvm, mmu_seq):
        return False
"""
NEVER_STALE = """
    class {}:
        def is_stale(self, kvm, fault):
            return False
"""


def write(directory: Path, text: str, name: str = "mine.py") -> str:
    path = directory / name
    path.write_text(dedent(text))
    return str(path)


def compare(
    path: str, scenario: str = "dontneed_one", arch: str = "arm64", era: Era = ERA
) -> Comparison:
    asked = Comparer(load_variant(path), Asking(era, arch))
    return asked.compare(find_scenario(scenario))[0]


def touched(variant: Variant, scenario: str, arch: str = "arm64") -> set[str]:
    asked = Comparer(variant, Asking(ERA, arch))
    return set(asked.touched(find_scenario(scenario)))


# -- what a file may change ------------------------------------------------------------------


def test_a_function_is_overridden_and_what_breaks_is_found(tmp_path: Path) -> None:
    found = compare(write(tmp_path, NEVER_RETRIES))
    assert found.touched == {"kvm.kvm_main.mmu_invalidate_retry"}
    assert found.unchanged.violated == []
    assert "coherent" in found.changed.violated
    assert ("coherent", "holds", "violated") in found.differences


@pytest.mark.parametrize("cls", ["Arm64", "Arch"])
def test_a_hook_is_overridden_where_the_architecture_has_that_class(
    tmp_path: Path, cls: str
) -> None:
    found = compare(write(tmp_path, NEVER_STALE.format(cls)))
    assert "coherent" in found.changed.violated


def test_a_hook_of_one_architecture_leaves_the_others_alone(tmp_path: Path) -> None:
    """is_stale() is inherited by both: to override it for one is not to override it for all."""
    found = compare(write(tmp_path, NEVER_STALE.format("Arm64")), arch="riscv")
    assert (found.touched, found.same_program) == (frozenset(), True)


def test_of_two_hooks_the_more_special_one_counts(tmp_path: Path) -> None:
    always = NEVER_STALE.format("Arm64").replace("False", "True")
    found = compare(write(tmp_path, always + NEVER_STALE.format("Arch")))
    assert (found.changed.violated, found.same_program) == ([], False)


def test_a_feature_is_changed_as_by_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'FEATURES = ("-change_pte_bracketed",)')
    found = compare(path, "uprobe_one")
    asked = Era("v6.1", ("-change_pte_bracketed",))
    by_feature = explore(find_scenario("uprobe_one"), asked, "arm64")
    assert found.changed.digest == by_feature.compiled.digest
    assert found.changed.digest != found.unchanged.digest
    assert found.touched == {"change_pte_bracketed"}
    assert "warns" in found.changed.violated


def test_an_equal_function_changes_nothing(tmp_path: Path) -> None:
    text = "from mmuwitness.model.kvm.kvm_main import *\n\n\n"
    found = compare(write(tmp_path, text + inspect.getsource(kvm_main.mmu_invalidate_retry)))
    assert found.touched and found.same_program
    assert found.differences == []
    sizes = {(o.states, o.edges, o.depth) for o in (found.unchanged, found.changed)}
    assert len(sizes) == 1


def test_helpers_and_constants_are_the_files_own(tmp_path: Path) -> None:
    text = """
        NEVER = False

        def answer():
            return NEVER

        def mmu_invalidate_retry(kvm, mmu_seq):
            return answer()
    """
    variant = load_variant(write(tmp_path, text))
    assert list(variant.overrides) == ["kvm.kvm_main.mmu_invalidate_retry"]
    assert "coherent" in compare(variant.path).changed.violated


def test_only_scenarios_that_run_it_are_touched(tmp_path: Path) -> None:
    text = """
        def pages_identical(page, kpage):
            return True
    """
    variant = load_variant(write(tmp_path, text))
    assert touched(variant, "ksm") == {"mm.ksm.pages_identical"}
    assert touched(variant, "dontneed_one") == set()


def test_a_feature_that_is_so_already_touches_nothing(tmp_path: Path) -> None:
    variant = load_variant(write(tmp_path, 'FEATURES = ("+change_pte_bracketed",)'))
    assert touched(variant, "uprobe_one") == set()


def test_an_override_that_no_longer_observes_is_said_to_be_blind(tmp_path: Path) -> None:
    text = """
        def kvm_change_spte_gfn(kvm, range):
            return kvm.arch.kvm_set_spte_gfn(kvm, range)
    """
    found = compare(write(tmp_path, text), "uprobe_one")
    assert {f'"{kvm_main.INSTALLS_READ_ONLY}"', "KVM.crowded"} <= found.gone
    assert compare(write(tmp_path, NEVER_RETRIES), "uprobe_one").gone <= {"KVM.mmu_invalidate_seq"}


# -- caches ----------------------------------------------------------------------------------


def test_no_cache_takes_a_variant_for_the_model(tmp_path: Path) -> None:
    shipped = find_scenario("dontneed_one")
    variant = load_variant(write(tmp_path, NEVER_RETRIES))
    mine = variant.scenario(shipped, "arm64")
    assert is_shipped(shipped) and not is_shipped(mine)
    for _ in range(2):
        assert "coherent" in explore(mine, ERA, "arm64").violated()
        assert explore(shipped, ERA, "arm64").violated() == {}


def test_features_alone_make_a_scenario_that_is_not_shipped(tmp_path: Path) -> None:
    variant = load_variant(write(tmp_path, 'FEATURES = ("-change_pte_bracketed",)'))
    assert not is_shipped(variant.scenario(find_scenario("uprobe_one"), "arm64"))


def test_a_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    broken = load_variant(write(tmp_path, NEVER_RETRIES))
    assert "coherent" in compare(broken.path).changed.violated
    always = load_variant(write(tmp_path, NEVER_RETRIES.replace("False", "True ")))
    assert always.tag != broken.tag
    assert compare(always.path).changed.violated == []


# -- schedules -------------------------------------------------------------------------------


def test_a_schedule_replays_with_the_file_that_it_was_found_with(tmp_path: Path) -> None:
    path = write(tmp_path, NEVER_RETRIES)
    schedule = parse_schedule(format_schedule(compare(path).changed.schedules["coherent"]))
    _, scenario = changed_schedule(schedule, path)
    assert scenario is not None
    _, steps = steps_of(schedule, scenario)
    assert len(steps) == len(schedule.steps)
    with pytest.raises(BadSchedule, match=r"add --variant FILE \(mine.py\)"):
        changed_schedule(schedule, None)
    write(tmp_path, NEVER_RETRIES + "\n    # edited")
    with pytest.raises(BadSchedule, match="is of another text"):
        changed_schedule(schedule, path)
    plain = parse_schedule("dontneed_one/v6.1/arm64/0")
    assert changed_schedule(plain, None) == (plain, None)
    with pytest.raises(BadSchedule, match="of the model without a variant"):
        changed_schedule(plain, path)


def test_replay_runs_the_files_own_lines(tmp_path: Path) -> None:
    text = """
        from mmuwitness.model.primitives import write_lock
        from mmuwitness.model.kvm.kvm_main import hva_to_pfn
        from mmuwitness.model.mm.mm_types import put_page

        class Arm64:
            def page_fault(self, vcpu, fault):
                kvm = vcpu.kvm
                hva_to_pfn(kvm, fault, True)
                if fault.page is not None:
                    with write_lock(kvm.mmu_lock):
                        self.install(kvm, fault)
                    put_page(fault.page)
    """
    path = write(tmp_path, text)
    scenario = load_variant(path).scenario(find_scenario("dontneed_one"), "arm64")
    found = explore(scenario, ERA, "arm64")
    schedule = found.schedule_of(CLAIMS["coherent"])
    program = fold_scenario(scenario, ERA, "arm64")
    replay = Replay(program, lambda: scenario.host(ERA, find_arch("arm64")))
    for pid, choice in schedule.steps:
        assert replay.step(pid, choice)
    states = found.result.path(found.violated()["coherent"])
    assert replay.words() == tuple(states[-1])
    _, steps = steps_of(schedule, scenario)
    assert "mine.py" in {step.where.file for step in steps}


# -- scenarios of one's own ------------------------------------------------------------------

OWN = """\
from mmuwitness.model.mm.memory import madvise_dontneed as dontneed
from mmuwitness.model.scenarios.scenario import *
def at_once(host): return mm_actor("vmm", dontneed)(host)
SCENARIO = Scenario("{name}", "Text.", "1 vCPU", two_private_pages, at_once{more})
"""


def asked_of(path: str, arch: str = "x86-tdp") -> Comparer:
    variant = load_variant(path)
    return Comparer(variant, Asking(Era("v6.12"), arch))


def test_a_scenario_of_ones_own_is_explored_and_replayed(tmp_path: Path) -> None:
    sizes = ', {"addresses": 1, "slot_pages": 1, "pages": 2}'
    path = write(tmp_path, OWN.format(name="mine", more=sizes))
    asked = asked_of(path)
    own, found = asked.compare(asked.variant.find_scenario("mine"))
    assert own.own and own.changed.complete and not own.changed.violated
    assert not own.same_program and own.touched == frozenset()
    model = explore(find_scenario("dontneed_one"), Era("v6.12"), "x86-tdp")
    assert own.changed.states == model.result.states
    schedule = parse_schedule(format_schedule(found.schedule_to_state(found.result.states - 1)))
    _, scenario = changed_schedule(schedule, path)
    assert scenario is not None and len(steps_of(schedule, scenario)[1]) == len(schedule.steps)


def test_what_else_is_in_the_file_holds_in_its_scenario(tmp_path: Path) -> None:
    path = write(tmp_path, OWN.format(name="mine", more="") + dedent(NEVER_RETRIES))
    asked = asked_of(path, "arm64")
    own, _ = asked.compare(asked.variant.find_scenario("mine"))
    assert "coherent" in own.changed.violated
    assert own.touched == {"kvm.kvm_main.mmu_invalidate_retry"}


def test_wiring_that_goes_wrong_is_shown_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, OWN.format(name="mine", more="").replace("mm_actor", "missing"))
    with pytest.raises(ProcessError) as caught:
        asked_of(path).compare(asked_of(path).variant.find_scenario("mine"))
    assert str(caught.value).startswith("mine.py:3: NameError: name 'missing' is not defined")


def test_a_driver_has_to_ask_under_its_lock() -> None:
    asked = asked_of(str(EXAMPLES / "gpu_svm.py"))
    own = {s.name: asked.compare(s)[0].changed for s in asked.variant.scenarios.values()}
    assert own["gpu_svm"].complete and not own["gpu_svm"].violated
    assert {"device_coherent", "no_lost_write"} <= set(own["gpu_hasty"].violated)


# -- mistakes --------------------------------------------------------------------------------

MISTAKES = [
    (
        "def kvm_change_spte_gfm(kvm, range):\n    return False",
        1,
        "did you mean kvm_change_spte_gfn",
    ),
    ("class Arm46:\n    pass", 1, "did you mean Arm64"),
    (
        "class Arm64:\n    def is_stal(self, kvm, fault):\n        return False",
        2,
        "mean is_stale or",
    ),
    ("class Arm64:\n    maps_reads_writable = False", 2, "only methods of Arm64"),
    ("def put_page(p):\n    pass", 1, "write def put_page(page):"),
    ('FEATURE = ("-ksm",)', 1, "did you mean FEATURES?"),
    ('X = 1\nY = X\nprint(Y)\nFEATURES = ("-kms",)', 4, "unknown feature 'kms': did you mean ksm?"),
    ('FEATURES = "-ksm"', 1, "not a tuple of texts"),
    ("import os\n\ndef put_page(page:\n    pass", 3, "was never closed"),
    ("X = 1\nY = X / 0\nprint(Y)", 2, "ZeroDivisionError"),
    ("X = 1\nexit(X)", 2, "SystemExit"),
    ("from mmuwitness.model.kvm.kvm_main import nothing", 1, "cannot import name 'nothing'"),
    ("if True:\n    def put_page(page):\n        pass", 1, "without running it"),
    ("SCENARIO = 1", 1, "1 is not a Scenario"),
    (OWN.format(name="Mine", more=""), 4, "cannot be called 'Mine'"),
    (OWN.format(name="ksm", more=""), 4, "there is a scenario ksm already"),
    (OWN.format(name="mine", more=", {'page': 2}"), 4, "a host has no size 'page'"),
    (OWN.format(name="mine", more=", page=2"), 4, "unexpected keyword argument 'page'"),
    ("SCENARIOS = ()", None, "changes nothing of the model"),
    ("SCENARIA = ()", 1, "did you mean SCENARIO"),
    ("put_page = 1\nprint(put_page)\n", None, "changes nothing of the model"),
]


@pytest.mark.parametrize(("text", "line", "said"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_points_to_its_line(
    tmp_path: Path, text: str, line: int | None, said: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ProcessError) as caught:
        load_variant(path)
    shown = str(caught.value)
    assert said in shown
    assert shown.startswith("mine.py changes" if line is None else f"mine.py:{line}: ")
    if line is not None:
        assert text.splitlines()[line - 1] in shown and "^" in shown


def test_code_that_the_language_lacks_is_shown_in_the_users_file(tmp_path: Path) -> None:
    text = """
        def mmu_invalidate_retry(kvm, mmu_seq):
            return any(gfn for gfn in kvm.gfns)
    """
    with pytest.raises(ProcessError) as caught:
        compare(write(tmp_path, text))
    shown = str(caught.value)
    assert shown.startswith("mine.py:3: in mmu_invalidate_retry(): a generator expression cannot")
    assert "return any(gfn" in shown and "^" in shown


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="cannot be read"):
        load_variant(str(tmp_path / "absent.py"))


# -- larger bounds, and what has to happen in the end --------------------------------------------


def test_both_are_explored_up_to_symmetry(tmp_path: Path) -> None:
    path = write(tmp_path, NEVER_RETRIES)
    names = ("coherent", "freed_page_unmapped", "windows_balanced")
    whole, part = (
        check_variant(path, "cow_smp", era="v6.1", arch="arm64", claims=names, reduce=reduce)
        for reduce in ("none", "all")
    )
    (all_of_it,), (reduced,) = whole.compared, part.compared
    for before, after in (
        (all_of_it.unchanged, reduced.unchanged),
        (all_of_it.changed, reduced.changed),
    ):
        assert before.verdicts == after.verdicts and before.complete and after.complete
        assert after.states < 0.6 * before.states
        assert (before.symmetric, after.symmetric) == ((), ("vcpus", "pages"))
    assert part.exit_code == whole.exit_code == 1
    assert "up to symmetry of vcpus and pages" in part.text()
    shown = json.loads(part.to_json())["scenarios"][0]
    assert shown["changed"]["symmetric"] == ["vcpus", "pages"]
    schedule, scenario = changed_schedule(
        parse_schedule(shown["changed"]["witnesses"]["coherent"]), path
    )
    assert scenario is not None and len(steps_of(schedule, scenario)[1]) == len(schedule.steps)


def test_a_large_scenario_is_reduced_by_itself(tmp_path: Path) -> None:
    asked = Asking(ERA, "arm64")
    large = find_scenario("dontneed_2vcpus")
    variant = load_variant(write(tmp_path, NEVER_RETRIES))
    assert variant.find_scenario(large.name) is large
    assert asked.folding(large).reduce == ("vcpus", "pages")
    assert asked.folding(find_scenario("dontneed")).reduce == ()
    assert Asking(ERA, "arm64", liveness=True).folding(large).reduce == ()


def test_a_fault_that_always_retries_maps_nothing_in_the_end(tmp_path: Path) -> None:
    path = write(tmp_path, NEVER_RETRIES.replace("False", "True"))
    safe = check_variant(path, "fault_once", era="v6.1", arch="arm64")
    assert safe.holds and "fault_maps" not in safe.compared[0].changed.verdicts
    found = check_variant(path, "fault_once", era="v6.1", arch="arm64", liveness=True)
    (both,) = found.compared
    assert ("fault_maps", "holds", "violated") in both.differences
    assert both.changed.schedules["fault_maps"].loop > 0
    assert found.exit_code == 1 and "who waits for a lock" in " ".join(found.text().split())
    alone = check_variant(path, "fault_once", era="v6.1", arch="arm64", claims="I10")
    assert alone.compared[0].changed.violated == ["fault_maps"]


def test_liveness_that_was_not_decided_is_not_said_to_hold(tmp_path: Path) -> None:
    path = write(tmp_path, NEVER_RETRIES.replace("False", "True"))
    asked = Asking(ERA, "arm64", liveness=True)
    comparison, _ = Comparer(load_variant(path), asked).compare(find_scenario("fault_once"))
    undecided = replace(comparison.unchanged, no_lassos="it takes too much")
    assert comparison.unchanged.decided and not undecided.decided
    shown = replace(comparison, unchanged=undecided, changed=undecided)
    assert exit_code([shown]) == 3
    assert "liveness: it takes too much" in " ".join(
        bounds(Comparer(load_variant(path), asked), [shown])
    )


def test_what_is_asked_is_checked_as_without_a_variant(tmp_path: Path) -> None:
    path = write(tmp_path, NEVER_RETRIES)
    for wrong, says in (
        ({"steps": "some"}, "unknown way to step"),
        ({"reduce": "gfns"}, "unknown reduction"),
        ({"claims": "I99"}, "unknown claim"),
        ({"arch": "arm"}, "unknown arch"),
        ({"era": "v6.1", "arch": "s390"}, "s390 has no MMU notifier"),
    ):
        for asks in (partial(check, "ksm"), partial(check_variant, path, "ksm")):
            with pytest.raises(ValueError, match=says):
                asks(**wrong)


# -- the worked examples -----------------------------------------------------------------------


def test_prefetch_is_safe_only_in_a_window_of_its_own() -> None:
    """Compaction unmaps the new page under the other window, and change_pte maps it again."""
    era = Era("v6.9")
    free = compare(str(EXAMPLES / "x86_prefetch.py"), "cow_migrate", "x86-tdp", era)
    guarded = compare(str(EXAMPLES / "x86_prefetch_guarded.py"), "cow_migrate", "x86-tdp", era)
    assert free.unchanged.violated == guarded.changed.violated == []
    assert {"coherent", "freed_page_unmapped"} <= set(free.changed.violated)
    for each in (free, guarded):
        assert ("installs_read_only", "never reached", "reached") in each.differences
        assert each.changed.complete


def test_a_guest_reads_a_merged_page_without_an_exit() -> None:
    """change_pte without a window: no SPTE is ever absent under one, and none is stale."""
    path = str(EXAMPLES / "ksm_only_change_pte.py")
    found = compare(path, "ksm_first", "x86-tdp", Era("v6.9"))
    assert (found.changed.violated, found.changed.complete) == ([], True)
    assert ("changes", "never reached", "reached") in found.differences
    mips = compare(path, "ksm_first", "mips", Era("v6.9"))
    assert "no_stale_tlb_entry" in mips.changed.violated


def test_ranged_retry_holds_on_arm64() -> None:
    found = compare(str(EXAMPLES / "arm64_ranged_retry.py"), "dontneed", "arm64", Era("v7.3"))
    assert (found.changed.violated, found.same_program) == ([], False)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_is_loaded_and_shown(path: Path) -> None:
    assert load_variant(str(path)).path == str(path)
    assert path.name in (EXAMPLES / "README.md").read_text()
