"""The cost table: what entering a function, or taking a lock, takes in ns, and how one knows.

    table = load_costs("arm64")
    table["kvm.vcpu.handle_exit"].ns.typical

`costs.toml` comes with it; a user's file of the same form replaces entries by name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED = Path(__file__).with_name("costs.toml")
KEYS = {"name", "what", "ns", "source", "arches", "who", "sleeps"}
WHO = ("vcpu", "host", "any")
ASSUMED = "assumed"


class Spread(NamedTuple):
    """ns. Not a bound: what one has to reckon with."""

    low: float
    typical: float
    high: float


class CostError(ValueError):
    """A cost table that cannot be read; says which entry, and why."""


@dataclass(frozen=True)
class Cost:
    """An entry of the table."""

    name: str  # a counter: a model function, or one of the simulator's own
    what: str
    ns: Spread
    source: str
    who: str = "any"  # who pays: "vcpu" stalls a guest, "host" does not, "any" may do either
    sleeps: bool = False  # time passes, and no CPU is used

    @property
    def assumed(self) -> bool:
        """Nobody has published a figure that was found."""
        return self.source.startswith(ASSUMED)


class CostTable(Mapping[str, Cost]):
    """Costs by name. Two tables are the same if their entries are."""

    def __init__(self, costs: Mapping[str, Cost], origin: str) -> None:
        self._costs, self.origin = dict(costs), origin

    def __getitem__(self, name: str) -> Cost:
        return self._costs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._costs)

    def __len__(self) -> int:
        return len(self._costs)

    def typical(self, name: str) -> float:
        """ns that an entry takes; what has none takes no time."""
        return self._costs[name].ns.typical if name in self._costs else 0.0

    def with_costs(self, costs: Mapping[str, Cost], origin: str) -> CostTable:
        """These in place of those of the same names."""
        return CostTable({**self._costs, **costs}, f"{self.origin}, {origin}")

    def with_typical(self, name: str, ns: float) -> CostTable:
        """The same with another typical cost, for a what-if."""
        cost = self._costs[name]
        spread = Spread(min(cost.ns.low, ns), ns, max(cost.ns.high, ns))
        return CostTable({**self._costs, name: replace(cost, ns=spread)}, self.origin)


def load_costs(kernel_arch: str, path: Path | None = None) -> CostTable:
    """The shipped table for an architecture, with a user's file on top of it."""
    table = CostTable(read_costs(SHIPPED, kernel_arch), "costs.toml")
    if path is None:
        return table
    return table.with_costs(read_costs(path, kernel_arch), path.name)


def read_costs(path: Path, kernel_arch: str) -> dict[str, Cost]:
    """The entries of a file that hold for an architecture: one that names it comes first."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CostError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CostError(f"{path}: {error}") from error
    if set(content) - {"cost"} or not isinstance(content.get("cost"), list):
        raise CostError(f"{path}: write entries as [[cost]] tables, and nothing else")
    general: dict[str, Cost] = {}
    special: dict[str, Cost] = {}
    for number, entry in enumerate(content["cost"], 1):
        cost = cost_of(entry, f"{path}: entry {number}")
        arches = entry.get("arches", [])
        if not arches:
            general[cost.name] = cost
        elif kernel_arch in arches:
            special[cost.name] = cost
    return {**general, **special}


def cost_of(entry: Any, where: str) -> Cost:
    """One [[cost]]. CostError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise CostError(f"{where}: is no table")
    if isinstance(entry.get("name"), str):
        where += f", {entry['name']}"
    for key in ("name", "what", "source"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise CostError(f"{where}: {key} is missing: each entry says {key}")
    if unknown := set(entry) - KEYS:
        raise CostError(f"{where}: unknown {', '.join(sorted(unknown))} (there are {keys_text()})")
    ns = entry.get("ns")
    if not isinstance(ns, list) or len(ns) != 3 or not all(is_number(each) for each in ns):
        raise CostError(f"{where}: ns is three numbers: low, typical, high")
    if not 0 <= ns[0] <= ns[1] <= ns[2]:
        raise CostError(f"{where}: ns = {ns}: low, typical and high have to rise from 0")
    who = entry.get("who", "any")
    if who not in WHO:
        raise CostError(f"{where}: who is one of {', '.join(WHO)}, not {who!r}")
    source = " ".join(entry["source"].split())
    return Cost(entry["name"], entry["what"], Spread(*ns), source, who, bool(entry.get("sleeps")))


def is_number(value: object) -> bool:
    """A number of TOML that is none of its truth values, nor nan or inf."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(float(str(value))) < float("inf")


def keys_text() -> str:
    """All keys of an entry."""
    return ", ".join(sorted(KEYS))
