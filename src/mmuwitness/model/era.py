"""A kernel is a set of features: ask an era for a feature, never for a version.

    era = Era("v6.1.192")
    era.has("change_pte_skips_invalid_slot", "arm64")  # True: a backport in v6.1.36
    Era("v3.7").with_change("-change_pte_bracketed")  # a kernel inside the merge window of v3.7

The facts are rows in features.py, the releases are in releases.py.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import NamedTuple

from mmuwitness.model.features import FEATURES
from mmuwitness.model.features.feature import Feature
from mmuwitness.model.releases import RELEASES, SERIES, release_key

__all__ = [
    "ARCHES",
    "FEATURES",
    "RELEASES",
    "Era",
    "EraGroup",
    "Feature",
    "UnknownName",
    "era_groups",
    "parse_kernel",
    "release_key",
]

VERIFIED = {"source read", "patch read"}
ROWS = {
    name: tuple(row for row in FEATURES if row.name == name)
    for name in sorted({row.name for row in FEATURES})
}
ARCHES = tuple(sorted({arch for row in FEATURES for arch in row.arches}))

KERNEL = re.compile(r"v?(?P<release>2\.6\.[0-9]+|[0-9]+\.[0-9]+)(?:\.(?P<level>0|[1-9][0-9]*))?")
KERNELS = (
    ", ".join(f"{series}.{first} to {series}.{last}" for series, first, last in SERIES)
    + " and stable levels of them, as v6.1.192"
)


class UnknownName(ValueError):
    """A name that nothing has: says which are nearest and what there is."""

    def __init__(self, kind: str, name: str, known: Sequence[str], hint: str = "") -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        self.nearest = tuple(difflib.get_close_matches(name, known, n=3))
        did_you_mean = f"did you mean {' or '.join(self.nearest)}? " if self.nearest else ""
        super().__init__(
            f"unknown {kind} {name!r}: {did_you_mean}{hint or 'there are ' + ', '.join(known)}"
        )


def parse_kernel(name: str) -> tuple[str, int]:
    """The release and the stable level: ``parse_kernel("6.1.192") == ("v6.1", 192)``."""
    match = KERNEL.fullmatch(name.strip())
    release = f"v{match['release']}" if match else ""
    if not match or release not in RELEASES:
        raise UnknownName("era", name, RELEASES, f"there are {KERNELS}")
    return release, int(match["level"] or 0)


def rows_of(feature: str) -> tuple[Feature, ...]:
    if feature not in ROWS:
        raise UnknownName("feature", feature, tuple(ROWS))
    return ROWS[feature]


def check_arch(arch: str) -> None:
    if arch not in ARCHES:
        raise UnknownName("arch", arch, ARCHES)


def in_mainline(row: Feature, release: str) -> bool:
    key = release_key(release)
    began = not row.since or release_key(row.since) <= key
    return began and (not row.until or key < release_key(row.until))


def in_stable(row: Feature, release: str, level: int) -> bool:
    """Whether a kernel has it: its release, or the stable levels of that release up to its own."""
    present = in_mainline(row, release)
    for change in row.withdrawn if present else row.backports:
        series, from_level = parse_kernel(change)
        if series == release and from_level <= level:
            return not present
    return present


@cache
def dated(feature: str, release: str, level: int, arch: str) -> bool:
    """Whether the rows of a feature put it into a kernel.  Asked some 100,000 times a matrix."""
    check_arch(arch)
    return any(
        (not row.arches or arch in row.arches) and in_stable(row, release, level)
        for row in rows_of(feature)
    )


@dataclass(frozen=True)
class Era:
    """One kernel: a release or a stable level, and what a user changes about it."""

    name: str
    changes: tuple[str, ...] = ()  # "+NAME" and "-NAME", one a feature
    release: str = field(init=False, compare=False)
    level: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        release, level = parse_kernel(self.name)
        for change in self.changes:
            if not change.startswith(("+", "-")):
                raise ValueError(f"{change!r} changes nothing: write +{change} or -{change}")
            rows_of(change[1:])
        last = {change[1:]: change for change in self.changes}
        object.__setattr__(self, "name", f"{release}.{level}" if level else release)
        object.__setattr__(self, "changes", tuple(last[feature] for feature in sorted(last)))
        object.__setattr__(self, "release", release)
        object.__setattr__(self, "level", level)

    def __str__(self) -> str:
        return " ".join((self.name, *self.changes))

    def has(self, feature: str, arch: str) -> bool:
        """Whether this kernel has it on this arch; a change counts on every arch."""
        mainline = dated(feature, self.release, self.level, arch)
        if f"+{feature}" in self.changes:
            return True
        return mainline and f"-{feature}" not in self.changes

    def features(self, arch: str) -> frozenset[str]:
        """The names of all that it has."""
        check_arch(arch)
        return frozenset(feature for feature in ROWS if self.has(feature, arch))

    def with_change(self, *changes: str) -> "Era":
        """The same kernel with "+NAME" put in, "-NAME" taken out; of two on a name, the last."""
        return Era(self.name, self.changes + changes)

    def unverified(self, names: Iterable[str], arch: str = "") -> tuple[Feature, ...]:
        """The rows behind these features that nobody has read: a verdict that rests on one says so.

        A feature that the user changed rests on no row. With an arch, only the rows that speak of
        it; without, those of every arch.
        """
        if arch:
            check_arch(arch)
        changed = {change[1:] for change in self.changes}
        return tuple(
            row
            for feature in sorted(set(names) - changed)
            for row in rows_of(feature)
            if row.source not in VERIFIED and (not arch or not row.arches or arch in row.arches)
        )


class EraGroup(NamedTuple):
    """Releases in a row that no given feature tells apart."""

    first: str
    last: str
    features: frozenset[str]  # of the given ones, those that they have


def era_groups(names: Iterable[str], arch: str = "") -> tuple[EraGroup, ...]:
    """All releases, oldest first, in the longest runs that agree on these features.

    With an arch, as that arch has them. Without, a run ends where any arch gains or loses one, and
    `features` holds what at least one arch has.
    """
    wanted = sorted(set(names))
    for feature in wanted:
        rows_of(feature)
    if arch:
        check_arch(arch)

    def present(release: str) -> frozenset[tuple[str, str]]:
        era, arches = Era(release), (arch,) if arch else ARCHES
        return frozenset((name, each) for name in wanted for each in arches if era.has(name, each))

    groups = []
    for pairs, run in groupby(RELEASES, key=present):
        releases = tuple(run)
        features = frozenset(name for name, _ in pairs)
        groups.append(EraGroup(releases[0], releases[-1], features))
    return tuple(groups)
