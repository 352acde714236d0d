"""What a scenario is: which processes run on which host, and how its first pages are mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from mmuwitness.model.arch.arch import Arch
from mmuwitness.model.claims import always_claims, eventually_claims
from mmuwitness.model.era import Era
from mmuwitness.model.host import Host
from mmuwitness.model.kvm.vcpu import vcpu_run
from mmuwitness.model.mm.mm_types import Pte
from mmuwitness.model.scenarios.happens import what_happens


@dataclass(frozen=True)
class Actor:
    """A process: `function(*arguments)`, under the name shown in timelines."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Scenario:
    """name, what it is about, and how to wire it.

    sizes: arguments of Host.  setup: maps the first pages.  actors: the processes besides the
    vCPUs.  guest: what each vCPU runs.  bounds: what is bounded, for people.  overrides: functions
    in the place of the model's.  changes: "+NAME" and "-NAME", features that every kernel has or
    lacks here.  requires: a feature; kernels without it have nothing of what the scenario is about.
    variant: the user's file that both come from.
    """

    name: str
    text: str
    bounds: str
    setup: Callable[[Host], None]
    actors: Callable[[Host], list[Actor]]
    sizes: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, FunctionType] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    requires: str = ""
    variant: str = ""
    guest: Callable[..., Any] = vcpu_run

    def absent(self, era: Era, arch: Arch) -> str:
        """Why there is nothing to explore on a kernel, or ""."""
        if not arch.applies(era):
            return f"{arch.name} has no MMU notifier in {era}'s KVM"
        if self.sizes.get("logs_dirty_pages") and not arch.logs_by_write_protection:
            return f"{arch.name} logs dirty pages in a way that {self.name} is not about"
        if self.requires and not era.has(self.requires, arch.kernel_arch):
            return f"{era} has no {self.requires}, which {self.name} is about"
        return ""

    def host(
        self,
        era: Era,
        arch: Arch,
        claims: bool = True,
        any_page_first: bool = False,
        liveness: bool = False,
        happens: bool = False,
    ) -> Host:
        """A fresh host with its processes, and with the `always` claims or without any.

        any_page_first: searches of all pages, for a free one say, may begin at any of them.
        liveness: with the `eventually` claims, too.  happens: with those that must be wrong."""
        host = Host(era.with_change(*self.changes), arch, **self.sizes)
        if any_page_first:
            host.mm.nr_first_pages = len(host.pages)
        self.setup(host)
        running = [] if host.mm.exits else host.vcpus
        guests = [Actor(f"vcpu{v.index}", self.guest, (v,)) for v in running]
        host.processes = [*guests, *self.actors(host)]
        host.claims = [
            *(always_claims(host) if claims else ()),
            *(eventually_claims(host) if liveness else ()),
            *(what_happens(self, host) if happens else ()),
        ]
        host.overrides.update(self.overrides)
        return host


def two_private_pages(host: Host) -> None:
    """Every address has a page of its own, writable, all of equal content."""
    for addr in range(len(host.mm.addresses)):
        host.map_page(addr, addr)


def two_read_only_pages(host: Host) -> None:
    """As two_private_pages, in a mapping that is not writable."""
    for addr in range(len(host.mm.addresses)):
        host.map_page(addr, addr, write=False)


def private_beside_ksm_page(host: Host) -> None:
    """A page of its own at the first address, a KSM page of equal content at the others."""
    host.map_page(0, 0)
    host.map_ksm_page(range(1, len(host.mm.addresses)), 1)


def ksm_page_beside_private(host: Host) -> None:
    """A KSM page at the first address, a page of its own and of equal content at the second."""
    host.map_ksm_page([0], 0)
    host.map_page(1, 1)


def private_beside_mapped_ksm_page(host: Host) -> None:
    """As private_beside_ksm_page; the second gfn is mapped already, and nobody touches it."""
    private_beside_ksm_page(host)
    host.map_guest_page(1, 1)


def one_ksm_page(host: Host) -> None:
    """All addresses share one KSM page."""
    host.map_ksm_page(range(len(host.mm.addresses)), 0)


def one_page_swapped_out(host: Host) -> None:
    """The first page is in its swap slot, and the content is not that of a fresh page."""
    host.mm.pte[0] = Pte(swap=True)
    host.mm.swap[0] = host.mm.written[0] = 1


def zero_pages(host: Host) -> None:
    """Nothing was ever written."""
    for addr in host.mm.addresses:
        host.map_zero_page(addr)


def mm_actor(name: str, function: Callable[..., Any], *more: Any) -> Callable[[Host], list[Actor]]:
    return lambda host: [Actor(name, function, (host.mm, *more))]


ONE_GFN = {"addresses": 1, "slot_pages": 1, "pages": 2}
TWO_SLOTS = {"memslots": 2, "updates_memslots": True}
