"""The cost table: every entry is of something that is there, and says how it is known."""

import importlib
from pathlib import Path
from types import FunctionType

import pytest

import mmuwitness.model
from mmuwitness.model.host import ARCHES
from mmuwitness.process.language import qualified_name
from mmuwitness.simulate.cost import SHIPPED, CostError, Spread, load_costs, read_costs
from mmuwitness.simulate.meters import METERS, UNITS

KERNELS = sorted({arch.kernel_arch for arch in ARCHES.values()})
ENTRY = '[[cost]]\nname = "flush ipi"\nwhat = "w"\nns = [1, 2, 3]\nsource = "assumed"\n'


def has_function(name: str) -> bool:
    """Whether the model has a function of this qualified name."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        if not module.startswith(mmuwitness.__name__):
            module = f"{mmuwitness.model.__name__}.{module}"
        try:
            found: object = importlib.import_module(module)
        except ImportError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return isinstance(found, FunctionType) and qualified_name(found) == name
    return False


@pytest.mark.parametrize("arch", KERNELS)
def test_functions_of_the_table_are_in_the_model(arch: str) -> None:
    names = [name for name in load_costs(arch) if "." in name.partition(" ")[0]]
    assert len(names) > 20
    assert [name for name in names if not has_function(name)] == []


def test_functions_of_the_meters_are_in_the_model() -> None:
    names = [name for meter in METERS for name in meter.counters] + [name for _, name in UNITS]
    assert [
        name for name in names if "." in name and " " not in name and not has_function(name)
    ] == []
    assert not has_function("mm.ksm.no_such_function")


def test_counters_that_are_no_functions_are_documented() -> None:
    words = Path(SHIPPED).with_name("meters.py").read_text()
    own = [name for name in load_costs("x86") if " " in name]
    assert own
    assert [name for name in own if name not in words] == []


def test_every_figure_has_a_spread_and_a_source() -> None:
    for arch in KERNELS:
        for cost in load_costs(arch).values():
            assert 0 < cost.ns.low < cost.ns.typical < cost.ns.high, cost
            if cost.assumed:  # nobody measured it: at least a factor of 5
                assert cost.ns.high / cost.ns.low >= 5, cost
            else:
                see = ("http", "commit ", "see ")
                assert any(each in cost.source for each in see), cost


def test_an_entry_of_the_architecture_comes_first() -> None:
    name = "kvm.vcpu.handle_exit"
    assert load_costs("arm64")[name] != load_costs("x86")[name]
    assert load_costs("riscv")[name] == load_costs("x86")[name]


def test_a_users_file_replaces_entries(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(ENTRY)
    mine, shipped = load_costs("x86", path), load_costs("x86")
    assert mine["flush ipi"].ns == Spread(1, 2, 3)
    assert mine.origin == "costs.toml, mine.toml"
    assert {name for name in shipped if mine[name] != shipped[name]} == {"flush ipi"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("[1, 2, 3]", "[3, 2, 1]"), "have to rise from 0"),
        (("[1, 2, 3]", "[-1, 2, 3]"), "have to rise from 0"),
        (("[1, 2, 3]", "[1, 2]"), "three numbers"),
        (("[1, 2, 3]", "[1, 2, nan]"), "three numbers"),
        (("[1, 2, 3]", "[1, 2, true]"), "three numbers"),
        (('"assumed"', '" "'), "source is missing"),
        (('"w"', "7"), "what is missing"),
        (('what = "w"', 'what = "w"\nwhom = "me"'), "unknown whom"),
        (('what = "w"', 'what = "w"\nwho = "me"'), "who is one of vcpu, host, any"),
        (("[[cost]]", "[cost]"), r"\[\[cost\]\]"),
        (("[[cost]]", "[[cost"), "mine.toml"),
    ],
)
def test_says_what_is_wrong(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(ENTRY.replace(*change))
    with pytest.raises(CostError, match=why):
        read_costs(path, "x86")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CostError, match="No such file"):
        read_costs(tmp_path / "none.toml", "x86")
