"""What the running kernel has of what recording wants: events, functions, types, clocks, memory."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmuwitness.trace.record.btf import TYPEDEF, Btf, BtfError, read_btf
from mmuwitness.trace.record.tracefs import Tracefs

# BTF has this typedef for each tracepoint, so who may not read tracefs still learns which exist.
TRACEPOINT = "btf_trace_"
# Kernel threads that invalidate memory which is not theirs.
INVALIDATING = ("ksmd", "khugepaged", "kcompactd", "kswapd")


@dataclass(frozen=True)
class Host:
    """`tracefs` is None if it cannot be read; what then is not known is told by None, too."""

    release: str
    machine: str
    processors: int
    memory_kb: int
    tracefs: Tracefs | None
    btf_directory: Path = Path("/sys/kernel/btf")
    proc: Path = Path("/proc")
    notes: list[str] = field(default_factory=list)

    @cached_property
    def symbols(self) -> set[str]:
        """Functions by name; not those that several share, of which a probe would hit any."""
        times: Counter[str] = Counter()
        try:
            with (self.proc / "kallsyms").open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    _, kind, name = line.split()[:3]
                    if kind in "tTwW":
                        times[name] += 1
        except OSError as error:
            self.notes.append(f"{error.filename}: {error.strerror}: no function is known to probe")
        return {name for name, number in times.items() if number == 1}

    @cached_property
    def btf(self) -> Btf | None:
        """The types of vmlinux and, if KVM is a module, of kvm; None if the kernel has none."""
        try:
            btf = read_btf(self.btf_directory / "vmlinux")
        except OSError as error:
            self.notes.append(
                f"{error.filename}: {error.strerror}: this kernel does not tell its types "
                "(CONFIG_DEBUG_INFO_BTF)"
            )
            return None
        except BtfError as error:
            self.notes.append(str(error))
            return None
        try:
            return read_btf(self.btf_directory / "kvm", btf)
        except FileNotFoundError:  # built in, or not loaded
            return btf
        except (OSError, BtfError) as error:
            self.notes.append(f"the types of kvm cannot be read, so it is not probed: {error}")
            return btf

    @cached_property
    def tracepoints(self) -> set[str] | None:
        """Names without their groups, as BTF tells them."""
        if self.btf is None:
            return None
        found = (name for name in self.btf.names(TYPEDEF) if name.startswith(TRACEPOINT))
        return {name.removeprefix(TRACEPOINT) for name in found}

    def has_event(self, path: str) -> bool:
        """Of the form kvm/kvm_exit. What cannot be known is taken to be there."""
        group, _, name = path.partition("/")
        if self.tracefs:
            return self.tracefs.has(f"events/{path}/enable")
        return group == "syscalls" or self.tracepoints is None or name in self.tracepoints

    def lacks_probes(self) -> str | None:
        """Why no function can be probed; None if it can, or if that cannot be known."""
        if self.btf is None:
            return "this kernel does not tell its types"
        if not self.tracefs:
            return None
        if not self.tracefs.has("kprobe_events"):
            return "this kernel has no kprobe events (CONFIG_KPROBE_EVENTS)"
        if "$arg<N>" not in self.tracefs.read("README"):
            return (
                "this kernel cannot fetch arguments by number "
                "(needs v4.20 and CONFIG_HAVE_FUNCTION_ARG_ACCESS_API)"
            )
        return None

    def clocks(self) -> list[str] | None:
        if not self.tracefs:
            return None
        return self.tracefs.read("trace_clock").replace("[", "").replace("]", "").split()

    def threads(self, pid: int) -> list[int]:
        """Of a process; nothing if there is no such process."""
        try:
            return sorted(int(name) for name in os.listdir(self.proc / str(pid) / "task"))
        except FileNotFoundError:
            return []

    def invalidating_threads(self) -> list[int]:
        """The kernel threads that invalidate the memory of others."""
        found = []
        for path in self.proc.iterdir():
            if not path.name.isdigit():
                continue
            try:
                name = (path / "comm").read_text(encoding="utf-8", errors="replace").strip()
            except OSError:  # it has ended meanwhile
                continue
            if name.startswith(INVALIDATING):
                found.append(int(path.name))
        return sorted(found)

    def is_running(self, pid: int) -> bool:
        return (self.proc / str(pid)).is_dir()


def this_host(tracefs: Tracefs | None) -> Host:
    return Host(
        release=platform.release(),
        machine=platform.machine(),
        processors=os.cpu_count() or 1,
        memory_kb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 10,
        tracefs=tracefs,
    )
