"""Scenarios of private memory: guest_memfd, and memory attributes.  (x86, TDP MMU, since v6.8.)"""

from __future__ import annotations

from mmuwitness.model.host import Host
from mmuwitness.model.kvm.guest_memfd import kvm_gmem_fallocate
from mmuwitness.model.kvm.mem_attributes import kvm_vm_ioctl_set_mem_attributes
from mmuwitness.model.mm import memory
from mmuwitness.model.scenarios.scenario import ONE_GFN, Actor, Scenario, two_private_pages


def all_private(host: Host) -> None:
    """Every gfn is private; the file is empty, and the primary MMU has pages of its own there."""
    two_private_pages(host)
    for gfn in host.kvm.gfns:
        host.kvm.mem_attr_array[gfn] = True


PRIVATE = (
    Scenario(
        "private_convert",
        "The VMM makes a gfn private and shared again while the guest uses it.",
        "1 vCPU, 1 gfn, 3 pages, any number of conversions",
        two_private_pages,
        lambda host: [Actor("ioctl", kvm_vm_ioctl_set_mem_attributes, (host.kvm,))],
        {**ONE_GFN, "pages": 3, "private_memory": True},
    ),
    Scenario(
        "private_punch",
        "The VMM punches holes into the private memory of a running guest.",
        "1 vCPU, 1 gfn, 3 pages, any number of holes",
        all_private,
        lambda host: [Actor("fallocate", kvm_gmem_fallocate, (host.kvm,))],
        {**ONE_GFN, "pages": 3, "private_memory": True},
    ),
    Scenario(
        "private_dontneed",
        "The VMM converts a gfn while another thread of it drops the shared page.",
        "1 vCPU that reads, 1 gfn, 3 pages, any number of calls and of conversions",
        two_private_pages,
        lambda host: [
            Actor("ioctl", kvm_vm_ioctl_set_mem_attributes, (host.kvm,)),
            Actor("madvise", memory.madvise_dontneed, (host.mm,)),
        ],
        {**ONE_GFN, "pages": 3, "private_memory": True, "written_gfns": 0},
    ),
    Scenario(
        "private_both",
        "The VMM converts a gfn while another thread of it punches holes.",
        "1 vCPU, 1 gfn, 3 pages, any number of conversions and of holes",
        two_private_pages,
        lambda host: [
            Actor("ioctl", kvm_vm_ioctl_set_mem_attributes, (host.kvm,)),
            Actor("fallocate", kvm_gmem_fallocate, (host.kvm,)),
        ],
        {**ONE_GFN, "pages": 3, "private_memory": True},
    ),
)
