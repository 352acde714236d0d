"""KSM on few pages: what each design does where change_pte is called."""

import pytest

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.simulate.designs import find_design
from mmuwitness.simulate.meters import Run
from mmuwitness.simulate.simulator import resolved, simulate

COSTS = {
    "kvm.vcpu.handle_exit": 1500,
    "kvm.kvm_main.kvm_flush_remote_tlbs": 3000,
    "kvm.kvm_main.__kvm_handle_hva_range": 300,
    "mm.memory.wp_page_copy": 1000,
}
SMALL = {"guests": 2, "memory": 1 / 64, "hours": 0.005, "pages_to_scan": 2000}


def run(design: str, arch: str = "x86-tdp", seed: int = 1, **more: float) -> Run:
    found = find_design(design)
    kernel = found.kernel(Era("v6.1"), find_arch(arch))
    parameters = resolved("ksm-density", SMALL | more)
    return simulate("ksm-density", found, kernel, seed, parameters, COSTS)


def marks(made: Run) -> set[str]:
    return {name for name, count in made.counters.items() if name.startswith("mark ") and count}


def test_on_x86_a_wrapped_change_pte_does_nothing() -> None:
    made = run("wrapped")
    assert made.counters["kvm.kvm_main.kvm_mmu_notifier_change_pte"] > 1000
    assert marks(made) == set()


def test_without_a_window_it_changes_sptes_and_saves_the_exits_of_readers() -> None:
    wrapped, alone = run("wrapped"), run("unwrapped-2009")
    assert "mark change_pte changes a present SPTE" in marks(alone)
    assert alone.counters["fault refault"] < 0.9 * wrapped.counters["fault refault"]


def test_on_arm64_it_acts_inside_its_window() -> None:
    assert "mark change_pte installs a read-only SPTE" in marks(run("wrapped", "arm64"))


@pytest.mark.parametrize("design", ["wrapped", "removed"])
def test_every_call_is_one_of_ksm_or_a_copy(design: str) -> None:
    """One for each page that is write-protected, replaced or copied; none once it is removed."""
    made = run(design)
    installed = ("mm.ksm.write_protect_page", "mm.ksm.replace_page", "mm.memory.wp_page_copy")
    calls = made.counters.get("mm.mmu_notifier.mmu_notifier_change_pte", 0)
    assert calls <= sum(made.counters[name] for name in installed)
    assert (calls == 0) == (design == "removed")


def test_a_write_to_a_merged_page_exits_twice() -> None:
    """The first breaks COW in a window of its own, and so has to be retried."""
    made = run("wrapped", stray=0.5)
    copies = made.counters["mm.memory.wp_page_copy"]
    assert copies > 1000
    assert 0.95 * copies < made.counters["fault retry"] < 1.1 * copies


def test_same_seed_same_counters() -> None:
    assert run("wrapped").counters == run("wrapped").counters
    assert run("wrapped").counters != run("wrapped", seed=2).counters


@pytest.mark.parametrize(("said", "gib"), [("4G", 4), ("512M", 0.5), ("512MiB", 0.5), (2, 2)])
def test_memory_is_said_as_people_do(said: object, gib: float) -> None:
    assert resolved("ksm-density", {"memory": said})["memory"] == gib


@pytest.mark.parametrize("said", ["4X", "", "many", 0, -1, "0G"])
def test_what_is_no_size_is_refused(said: object) -> None:
    with pytest.raises(ValueError, match="memory is"):
        resolved("ksm-density", {"memory": said})
