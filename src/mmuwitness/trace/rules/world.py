"""Who is where in a trace: windows, faults and VMs, followed fact by fact for the rules.

Probes fire before effects, and only what happens under mmu_lock has an order that can be trusted
across tasks. So a window has three marks: it is `armed` where KVM certainly holds back faults of
its range (its unmap runs under mmu_lock, or start() has returned), `closing` from the entry of
end(), and closed where that has returned. What lies between two marks is given the benefit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mmuwitness.model.era import Era
from mmuwitness.trace.facts import Fact
from mmuwitness.trace.kernel import Dialect
from mmuwitness.trace.rules.state import PAGE_SHIFT, Fault, Lookup, Task, Vm, Window
from mmuwitness.trace.tracepoints import Kind

ADDRESS_MAX = (1 << 64) - 1
SPTE_ADDRESS = (1 << 47) - (1 << 12)  # below the bits that AMD's memory encryption takes
MEMSLOT = re.compile(r"\bmemslot\b.*\bgfn=(\w+) npages=(\d+) hva=(\w+)")
WINDOWS_MAX = 1024  # open at once; more are windows whose ends are not recorded
UNMAPS = {Kind.UNMAP_GFN, Kind.STAGE2_UNMAP}
ENDS = {Kind.KVM_END, Kind.KVM_END_RET, Kind.KVM_INVALIDATE}


class World:
    """The state that rules share. Feed it every fact, in order, before the rules see it."""

    def __init__(self, dialect: Dialect, era: Era | None) -> None:
        self.dialect = dialect
        self.bracketed = era is None or era.has("change_pte_bracketed", "x86")
        self.change_pte_bumps = era is not None and era.has("change_pte_bumps_seq", "x86")
        self.tasks: dict[int, Task] = {}
        self.seen: set[int] = set()
        self.first: dict[int, int] = {}  # of each kind, the row of the first fact
        self.vms: dict[int | None, Vm] = {}  # by struct kvm, and by its mmu_notifier
        self.several = False  # VMs, not all of whose events the trace tells apart
        self.generation = 0  # what was known of SPTEs before is void
        self._vcpus: dict[int, int] = {}  # who is in the guest on the vCPU of this number
        self.task = Task(-1, None)  # of the present fact
        self.window: Window | None = None  # that the present fact opens, belongs to or closes
        self._closed_hooks: list[Callable[[Window], None]] = []
        self._handlers: dict[int, Callable[[Fact, Task], None]] = {
            Kind.MN_START: self._mn_start,
            Kind.MN_START_RET: self._mn_start_ret,
            Kind.MN_END: self._mn_end,
            Kind.KVM_START: self._kvm_start,
            Kind.KVM_START_RET: self._kvm_start_ret,
            Kind.KVM_END: self._kvm_end,
            Kind.KVM_END_RET: self._kvm_end_ret,
            Kind.UNMAP_HVA: self._unmap_hva,
            Kind.UNMAP_GFN: self._unmap_gfn,
            Kind.UNMAP_GFN_RET: self._unmap_gfn_ret,
            Kind.STAGE2_UNMAP: self._stage2_unmap,
            Kind.PAGE_FAULT: self._page_fault,
            Kind.ENTRY: self._entry,
            Kind.EXIT: self._exit,
            Kind.HOST_FAULT: self._in_user_space,
            Kind.SYSCALL_ENTER: self._in_user_space,
            Kind.HVA_TO_PFN: self._hva_to_pfn,
            Kind.HVA_TO_PFN_RET: self._hva_to_pfn_ret,
            Kind.MAP: self._map,
            Kind.MAP_RET: self._map_ret,
            Kind.STAGE2_MAP: self._map,
            Kind.FAULT_RET: self._fault_ret,
            Kind.SET_SPTE: self._installs,
            Kind.SPTE_STORE: self._installs,
            Kind.SPTE_CHANGED: self._spte_changed,
            Kind.SPTE_REQUESTED: self._spte_requested,
            Kind.FAST_FAULT: self._fast_fault,
            Kind.MN_CHANGE_PTE: self._mn_change_pte,
            Kind.MN_CHANGE_PTE_RET: self._mn_change_pte_ret,
            Kind.KVM_CHANGE_PTE: self._kvm_change_pte,
            Kind.KVM_CHANGE_PTE_RET: self._kvm_change_pte_ret,
            Kind.SET_SPTE_GFN: self._set_spte_gfn,
            Kind.SET_SPTE_GFN_RET: self._set_spte_gfn_ret,
            Kind.MARK: self._mark,
        }

    def see(self, fact: Fact) -> None:
        task = self.tasks.get(fact.pid)
        if task is None:
            task = self.tasks[fact.pid] = Task(fact.pid, fact.task)
        self.task, self.window = task, None
        task.facts += 1
        if task.ending and fact.kind not in ENDS:
            self._close_rest(fact)
        if handler := self._handlers.get(fact.kind):
            handler(fact, task)
        if fact.kind not in self.seen:
            self.seen.add(fact.kind)
            self.first[fact.kind] = fact.row

    def since(self, row: int, *kinds: int) -> bool:
        """Whether facts of these kinds are recorded, and were when this row was."""
        return all(kind in self.first and row >= self.first[kind] for kind in kinds)

    def on_close(self, hook: Callable[[Window], None]) -> None:
        """Call this with every window of a VM that is over."""
        self._closed_hooks.append(hook)

    # -- VMs --

    @property
    def distinct_vms(self) -> list[Vm]:
        return list(dict.fromkeys(self.vms.values()))

    def vm(self, pointer: int | None) -> Vm:
        """The VM of a pointer; the one VM that there is takes the first pointer as its name."""
        if pointer in self.vms:
            return self.vms[pointer]
        known = self.distinct_vms
        if len(known) == 1 and (pointer is None or None in self.vms):
            vm = known[0]
        else:
            vm = Vm()
            if known:
                self._tell_apart()
        if pointer is not None:
            self.vms.pop(None, None)
        self.vms[pointer] = vm
        return vm

    def _tell_apart(self) -> None:
        """There is more than one VM: whose vCPU a task is has to be learned from now on."""
        if not self.several:
            self.several = True
            self.generation += 1

    def vm_of_task(self) -> Vm | None:
        """The VM whose vCPU the present task is; None where the trace does not tell."""
        if self.task.notified and (vm := self.task.notified[-1].vm):
            return vm
        if self.task.vm:
            return self.task.vm
        return None if self.several else self.vm(None)

    def open_windows(self, vm: Vm) -> Iterator[Window]:
        """Windows that certainly hold back this VM's faults."""
        for window in vm.windows:
            if window.armed and not window.closing:
                yield window

    def forget_mm(self, mm: int | None) -> None:
        """The address space is gone, and with it what its VMs knew."""
        self.vms = {key: vm for key, vm in self.vms.items() if vm.mm != mm}
        self.generation += 1
        for task in self.tasks.values():
            task.vm = None

    # -- windows --

    def _mn_start(self, fact: Fact, task: Task) -> None:
        self.window = Window(fact, fact.start, fact.end)
        task.windows.append(self.window)
        task.settled = fact.row
        del task.windows[:-WINDOWS_MAX]
        if fact.start == 0 and fact.end == ADDRESS_MAX:  # exit_mmap()
            self.forget_mm(fact.mm)

    def _mn_start_ret(self, fact: Fact, task: Task) -> None:
        window = next((w for w in reversed(task.windows) if w.entered), None)
        self.window = window
        if window is None:
            return
        window.entered = False
        for child in window.children:
            self._returned(child, fact)
        if fact.ret:  # a start that must not sleep gave up: no end() follows
            task.windows.remove(window)
            for child in window.children:
                self._close(child, fact)

    def _mn_end(self, fact: Fact, task: Task) -> None:
        for window in reversed(task.windows):
            if window.same_range(fact) and window.fact.mm == fact.mm:
                self.window = window
                task.windows.remove(window)
                task.ending = [child for child in window.children if not child.closed]
                self._outlive(window, task.windows, fact)
                if Kind.KVM_END not in self.seen:  # KVM's own end() may not be recorded
                    for child in task.ending:
                        child.closing = fact
                return

    @staticmethod
    def _outlive(closed: Window, others: list[Window], fact: Fact) -> None:
        for other in others:
            if other.fact.row < closed.fact.row and not other.overlaps(closed):
                other.outlived = other.outlived or fact

    def _kvm_start(self, fact: Fact, task: Task) -> None:
        parent = task.windows[-1] if task.windows and task.windows[-1].entered else None
        vm = self.vm(fact.mn)
        vm.mm = fact.mm
        if fact.in_progress is not None:
            counted = [w for w in vm.windows if w.hit and w.armed and not w.closing]
            vm.all_known |= fact.in_progress <= len(counted)
        self._open(fact, task, parent, vm)

    def _open(self, fact: Fact, task: Task, parent: Window | None, vm: Vm) -> None:
        window = Window(fact, fact.start, fact.end, parent, vm)
        if parent:
            parent.children.append(window)
        task.notified.append(window)
        task.notified_settled = fact.row
        for other in vm.windows:
            other.shared = window.shared = True
        vm.windows.append(window)
        del vm.windows[:-WINDOWS_MAX], task.notified[:-WINDOWS_MAX]
        vm.moved = fact.row
        self.window = window
        lookups = task.fault.lookups if self.several and task.fault else []
        if lookups and not lookups[-1].returned:  # the fault breaks COW of its own memory
            mine = [each for each in self.distinct_vms if each.mm == fact.mm]
            if len(mine) == 1:
                task.vm = mine[0]

    def _unmap_hva(self, fact: Fact, task: Task) -> None:
        last, task.last_start = task.last_start, fact
        if (
            last
            and (last.start, last.end) == (fact.start, fact.end)
            and task.started_at == task.facts - 1
        ):
            self._tell_apart()  # one start(), two VMs
        task.started_at = task.facts
        top = task.notified[-1] if task.notified else None
        if top and top.entered and not top.told:
            top.told = True
            self.window = top
        elif Kind.KVM_START not in self.seen and task.windows and task.windows[-1].entered:
            self._open(fact, task, task.windows[-1], self.vm(None))
            task.notified[-1].told = True

    def _unmap_gfn(self, fact: Fact, task: Task) -> None:
        task.unmapping = fact
        window = task.notified[-1] if task.notified else None
        if window is None or not window.entered or window.vm is None:
            return
        if fact.vm is not None:
            self.vms.setdefault(fact.vm, window.vm)
        if fact.gfn is not None and fact.gfn_end is not None:
            self._reaches(window, fact, fact.gfn, fact.gfn_end)

    def _unmap_gfn_ret(self, fact: Fact, task: Task) -> None:
        task.unmapping = None
        self.window = task.notified[-1] if task.notified else None

    def _stage2_unmap(self, fact: Fact, task: Task) -> None:
        window = task.notified[-1] if task.notified else None
        if window and window.entered and fact.gfn is not None and fact.size is not None:
            self._reaches(window, fact, fact.gfn, fact.gfn + (fact.size >> PAGE_SHIFT))

    def _reaches(self, window: Window, fact: Fact, first: int, last: int) -> None:
        """Under mmu_lock, start() unmaps what of its range is in a memslot."""
        self.window = window
        window.armed = window.armed or fact
        window.hit = True
        if (first, last) not in window.gfns:
            window.gfns.append((first, last))
        if window.start is None or window.end is None or window.vm is None:
            return
        # Cut off by its slot's ends, a range does not say where it begins.
        if (last - first) << PAGE_SHIFT == window.end - window.start and last - first <= 512:
            for page in range(last - first):
                window.vm.hvas[first + page] = window.start + (page << PAGE_SHIFT)

    def _kvm_start_ret(self, fact: Fact, task: Task) -> None:
        window = next((w for w in reversed(task.notified) if w.entered), None)
        self.window = window
        if window:
            self._returned(window, fact)

    def _returned(self, window: Window, fact: Fact) -> None:
        """start() is over: what it did not unmap by now is no memslot of this VM."""
        window.entered = False
        if window.hit is None and self.seen & UNMAPS:
            window.hit = False
        if window.hit is not False:
            window.armed = window.armed or fact

    def _kvm_end(self, fact: Fact, task: Task) -> None:
        for window in reversed(task.notified):
            if window.same_range(fact) and (fact.mn is None or self.vm(fact.mn) is window.vm):
                self.window = window
                window.closing = fact
                if window.vm:
                    window.vm.moved = fact.row
                task.notified.remove(window)
                self._outlive(window, task.notified, fact)
                if window not in task.ending:
                    task.ending.append(window)
                return

    def _kvm_end_ret(self, fact: Fact, task: Task) -> None:
        self.window = next((w for w in task.ending if w.closing), None)
        if self.window:
            task.ending.remove(self.window)
            self._close(self.window, fact)

    def _close_rest(self, fact: Fact) -> None:
        """The task went on: mm's end() is over, even where KVM's is not recorded."""
        for window in self.task.ending:
            self._close(window, fact)
        self.task.ending = []

    def _close(self, window: Window, fact: Fact) -> None:
        window.closed = True
        window.closing = window.closing or fact
        if window in self.task.notified:
            self.task.notified.remove(window)
        if window.vm:
            window.vm.moved = fact.row
            if window in window.vm.windows:
                window.vm.windows.remove(window)
                for hook in self._closed_hooks:
                    hook(window)

    # -- faults --

    def _page_fault(self, fact: Fact, task: Task) -> None:
        task.settled = fact.row
        task.fault = Fault(fact)

    def _entry(self, fact: Fact, task: Task) -> None:
        task.fault = None
        task.settled = task.came_in = fact.row
        if fact.vcpu is not None and self._vcpus.setdefault(fact.vcpu, fact.pid) != fact.pid:
            self._tell_apart()  # two vCPUs of this number are in their guests at once

    def _in_user_space(self, fact: Fact, task: Task) -> None:
        task.settled = task.came_in = fact.row

    def _exit(self, fact: Fact, task: Task) -> None:
        if fact.vcpu is not None and self._vcpus.get(fact.vcpu) == fact.pid:
            del self._vcpus[fact.vcpu]

    def _in_fault(self, fact: Fact) -> Fault:
        """Of the present task. A page that came asynchronously, or is faulted in by an ioctl, is
        mapped without a kvm_page_fault."""
        fault = self.task.fault
        if fault is None or (fault.returned and fact.kind == Kind.HVA_TO_PFN):
            fault = self.task.fault = Fault(fact)
        return fault

    def _fault_ret(self, fact: Fact, task: Task) -> None:
        if task.fault:
            task.fault.returned = True

    def _hva_to_pfn(self, fact: Fact, task: Task) -> None:
        self._in_fault(fact).lookups.append(Lookup(fact))

    def _hva_to_pfn_ret(self, fact: Fact, task: Task) -> None:
        lookups = self._in_fault(fact).lookups
        if lookups and lookups[-1].returned is None:
            lookups[-1].returned = fact

    def _map(self, fact: Fact, task: Task) -> None:
        task.stage2_map = fact
        if not task.set_spte_gfn:
            fault = self._in_fault(fact)
            fault.map, fault.mapped = fact, False

    def _map_ret(self, fact: Fact, task: Task) -> None:
        if task.fault:
            task.fault.mapped = True
            task.fault.contended |= fact.ret == self.dialect.retry

    def _installs(self, fact: Fact, task: Task) -> None:
        if task.fault and not task.set_spte_gfn and self.present(fact.new):
            asked = task.fault.requested  # others are neighbours, prefetched
            if (
                asked is None
                or asked.gfn is None
                or fact.gfn is None
                or asked.gfn >> (9 * ((fact.level or 1) - 1))
                == fact.gfn >> (9 * ((fact.level or 1) - 1))
            ):
                task.fault.installed = fact

    def _spte_requested(self, fact: Fact, task: Task) -> None:
        fault = self._in_fault(fact)
        fault.requested = fact
        hva = fault.lookups[0].fact.address if len(fault.lookups) == 1 else None
        if hva is None or fact.gfn is None:
            return
        hva &= -1 << PAGE_SHIFT
        if self.several:
            mine = [vm for vm in self.distinct_vms if vm.hvas.get(fact.gfn) == hva]
            task.vm = mine[0] if len(mine) == 1 else None
        elif vm := self.vm_of_task():
            vm.hvas[fact.gfn] = hva

    def _fast_fault(self, fact: Fact, task: Task) -> None:
        self._in_fault(fact).fixed_fast |= bool(fact.fixed)

    # -- change_pte --

    def _mn_change_pte(self, fact: Fact, task: Task) -> None:
        task.mm_change_pte = fact

    def _mn_change_pte_ret(self, fact: Fact, task: Task) -> None:
        task.mm_change_pte = None

    def _kvm_change_pte(self, fact: Fact, task: Task) -> None:
        task.kvm_change_pte = fact

    def _kvm_change_pte_ret(self, fact: Fact, task: Task) -> None:
        task.kvm_change_pte = None

    def _set_spte_gfn(self, fact: Fact, task: Task) -> None:
        task.set_spte_gfn = fact
        if (call := task.kvm_change_pte) and call.address is not None and fact.gfn is not None:
            self.vm(fact.vm).hvas.setdefault(fact.gfn, call.address)

    def _set_spte_gfn_ret(self, fact: Fact, task: Task) -> None:
        task.set_spte_gfn = None

    # -- memslots --

    def _mark(self, fact: Fact, task: Task) -> None:
        """`memslot gfn=0x200 npages=64 hva=0x7f..`: what a VMM may write into trace_marker."""
        if match := MEMSLOT.search(fact.text or ""):
            gfn, pages, hva = (int(number, 0) for number in match.groups())
            slots = self.vm(None).slots
            slots[:] = [s for s in slots if s[0] + s[1] <= gfn or gfn + pages <= s[0]]
            slots.append((gfn, pages, hva))

    # -- SPTEs --

    def _spte_changed(self, fact: Fact, task: Task) -> None:
        task.spte_changed = fact

    def present(self, spte: int | None) -> bool:
        """Whether an SPTE maps anything, or points to a table."""
        return spte is not None and self.dialect.present(spte)

    def leaf(self, spte: int | None, level: int | None) -> bool:
        return spte is not None and self.dialect.leaf(spte, level or 1)

    @staticmethod
    def pfn(spte: int) -> int:
        return (spte & SPTE_ADDRESS) >> PAGE_SHIFT
