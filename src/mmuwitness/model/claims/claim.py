"""One claim, and the table of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mmuwitness.model.era import UnknownName


def everywhere(host: Any) -> bool:
    return True


@dataclass(frozen=True)
class Claim:
    """kind: "always" (function is a predicate of the host), "eventually" (function says that
    nothing is pending), "sometimes" or "never" (mark is the text of a `cover`).  number: as in the
    invariants' list (I1 ...), or "".  where: of which hosts it is asked; elsewhere it would only
    keep its locks in the program."""

    name: str
    kind: str
    text: str
    number: str = ""
    function: Callable[..., Any] | None = None
    locks: tuple[str, ...] = ()
    mark: str = ""
    where: Callable[[Any], bool] = everywhere

    def needs(self, host: Any) -> list[tuple[Any, str]]:
        """The locks that must be free for the claim to be read, as (object, field)."""
        owner = {
            "ptl": [host.mm],
            "mmap_lock": [host.mm, *host.children],
            "page_lock": host.pages,
            "mmu_lock": host.kvms,
            "mn_invalidate_lock": host.kvms,
            "mutex": host.devices,
            "subscriptions": [each.notifier.subscriptions for each in host.devices],
        }
        names = {"subscriptions": "lock", "page_lock": "lock"}
        return [(each, names.get(lock, lock)) for lock in self.locks for each in owner[lock]]


CLAIMS: dict[str, Claim] = {}

EVENTUALLY: dict[str, Claim] = {}
"""Claims that are asked for apart, since a search for lassos takes time."""


def always(
    number: str, *locks: str, where: Callable[[Any], bool] = everywhere
) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        text = " ".join((function.__doc__ or "").split())
        CLAIMS[function.__name__] = Claim(
            function.__name__, "always", text, number, function, locks, where=where
        )
        return function

    return register


def reach(
    kind: str,
    name: str,
    mark: str,
    text: str,
    number: str = "",
    where: Callable[[Any], bool] = everywhere,
) -> None:
    CLAIMS[name] = Claim(name, kind, text, number, mark=mark, where=where)


def eventually(number: str, where: Callable[[Any], bool] = everywhere) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        text = " ".join((function.__doc__ or "").split())
        EVENTUALLY[function.__name__] = Claim(
            function.__name__, "eventually", text, number, function, where=where
        )
        return function

    return register


def always_claims(host: Any) -> list[Claim]:
    """What is claimed of a host in every state."""
    return [claim for claim in CLAIMS.values() if claim.kind == "always" and claim.where(host)]


def eventually_claims(host: Any) -> list[Claim]:
    """What is claimed to happen on a host in the end."""
    return [claim for claim in EVENTUALLY.values() if claim.where(host)]


def find_claims(names: Iterable[str]) -> list[Claim]:
    """Claims by name or by number; UnknownName lists what exists."""
    claims = CLAIMS | EVENTUALLY
    numbers = {c.number: c.name for c in claims.values() if c.number}
    found = []
    for name in names:
        known = numbers.get(name, name)
        if known not in claims:
            raise UnknownName("claim", name, [*claims, *numbers])
        found.append(claims[known])
    return found
