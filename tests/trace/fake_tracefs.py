"""A directory tree that behaves as tracefs does, where recording depends on it.

kprobe_events refuses lines that it cannot parse or whose function is not there, and says why in
error_log; an event that is enabled cannot be removed; an instance has the events of the top level,
loses their triggers when it is removed, and cannot be removed while its trace_pipe is open; a
write to a file that is not there fails. Each operation can be made to fail.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmuwitness.trace.record.tracefs import Tracefs

DEFINITION = re.compile(
    r"(?P<kind>p|r\d*):(?P<group>\w+)/(?P<event>\w+) (?P<function>\w+)(?: \w+=[-+$\w()]+:\w+)*"
)
HEADER = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 0/0   #P:2\n#\n"


class FakeTracefs(Tracefs):
    def __init__(
        self,
        root: Path,
        events: Iterable[str],
        functions: Iterable[str] = (),
        pipes: Sequence[str] = ("", ""),
        stats: Sequence[str] = ("", ""),
    ) -> None:
        """`pipes` and `stats`: what trace_pipe and stats of each processor will say."""
        super().__init__(root)
        self.functions, self.pipes, self.stats = set(functions), pipes, stats
        self.handles: list[int] = []
        self.before: Callable[[int], None] = lambda number: None  # may raise, or send a signal
        self.operations = 0
        self.log: list[str] = []
        self._file("README", "p[:[<group>/][<event>]] <place> [<args>]\n$arg<N>, $retval\n")
        self._file("trace_clock", "[local] global mono boot\n")
        self._file("error_log")
        self._file("kprobe_events")
        self._file("kprobe_profile")
        (root / "instances").mkdir()
        for path in events:
            self._event("", path)

    def _file(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def _event(self, instance: str, path: str) -> None:
        self._file(f"{instance}events/{path}/enable", "0")
        self._file(f"{instance}events/{path}/trigger")
        self._file(f"{instance}events/{path.partition('/')[0]}/enable", "0")
        self._file(f"{instance}events/enable", "0")

    def _operation(self, what: str) -> None:
        self.operations += 1
        self.log.append(what)
        self.before(self.operations)

    def _instances(self) -> list[str]:
        return [f"instances/{name}/" for name in self.names("instances")]

    def snapshot(self) -> dict[str, str]:
        """Everything but what the kernel itself keeps about the past."""
        paths = sorted(path for path in self.root.rglob("*") if path.name != "error_log")
        return {
            str(path.relative_to(self.root)): "" if path.is_dir() else path.read_text()
            for path in paths
        }

    def _fail(self, number: int, path: str, why: str = "") -> None:
        if why:
            with (self.root / "error_log").open("a") as log:
                log.write(f"[   12.345678] trace_kprobe: error: {why}\n  Command: ...\n")
        raise OSError(number, os.strerror(number), str(self.root / path))

    def read(self, path: str) -> str:
        if path != "error_log":
            self._operation(f"read {path}")
        return super().read(path)

    def write(self, path: str, text: str) -> None:
        self._operation(f"{text} >> {path}")
        if not (self.root / path).is_file():
            self._fail(errno.ENOENT, path)
        name = path.rpartition("/")[2]
        if path == "kprobe_events":
            self._kprobe(text)
        elif name == "trigger":
            if text in super().read(path):
                self._fail(errno.EEXIST, path)
            self._file(path, super().read(path) + text + "\n")
        elif name == "enable":
            directory = (self.root / path).parent
            for each in directory.rglob("enable"):
                each.write_text(text)
        elif name == "trace_clock" and text not in super().read("trace_clock").split():
            self._fail(errno.EINVAL, path)
        else:
            self._file(path, text)
            if name == "tracing_on" and text == "1":
                self._emit(path.rpartition("/")[0])

    def _emit(self, instance: str) -> None:
        for number, (pipe, stat) in enumerate(zip(self.pipes, self.stats, strict=True)):
            with (self.root / instance / f"per_cpu/cpu{number}/trace_pipe").open("a") as file:
                file.write(pipe)
            self._file(f"{instance}/per_cpu/cpu{number}/stats", stat)

    def _kprobe(self, text: str) -> None:
        lines = super().read("kprobe_events").splitlines(keepends=True)
        if text.startswith("-:"):
            self._remove_kprobe(text.removeprefix("-:"), lines)
            return
        match = DEFINITION.fullmatch(text)
        if not match:
            self._fail(errno.EINVAL, "kprobe_events", "Invalid fetch arg")
        assert match
        if match["function"] not in self.functions:
            self._fail(errno.ENOENT, "kprobe_events", "Failed to resolve symbol")
        path = f"{match['group']}/{match['event']}"
        if (self.root / "events" / path).exists():
            self._fail(errno.EEXIST, "kprobe_events", "Event already exists")
        self._file("kprobe_events", "".join(lines) + text + "\n")
        for instance in ["", *self._instances()]:
            self._event(instance, path)

    def _remove_kprobe(self, path: str, lines: list[str]) -> None:
        mine = [line for line in lines if f":{path} " in line]
        if not mine:
            self._fail(errno.ENOENT, "kprobe_events", "Event does not exist")
        enables = [self.root / f"{each}events/{path}/enable" for each in ["", *self._instances()]]
        if any(enable.read_text() == "1" for enable in enables):
            self._fail(errno.EBUSY, "kprobe_events")
        self._file("kprobe_events", "".join(line for line in lines if line not in mine))
        for enable in enables:
            shutil.rmtree(enable.parent)
            group = enable.parent.parent
            if [child.name for child in group.iterdir()] == ["enable"]:
                shutil.rmtree(group)

    def make(self, path: str) -> None:
        self._operation(f"mkdir {path}")
        super().make(path)
        shutil.copytree(self.root / "events", self.root / path / "events")
        self._file(f"{path}/trace", HEADER)
        self._file(f"{path}/trace_clock", "[local] global mono boot\n")
        for name in ("tracing_on", "buffer_size_kb", "set_event_pid", "options/event-fork"):
            self._file(f"{path}/{name}")
        for number in range(len(self.pipes)):
            self._file(f"{path}/per_cpu/cpu{number}/trace_pipe")
            self._file(f"{path}/per_cpu/cpu{number}/stats")

    def remove(self, path: str) -> None:
        self._operation(f"rmdir {path}")
        if any(self._is_open(handle, path) for handle in self.handles):
            self._fail(errno.EBUSY, path)
        shutil.rmtree(self.root / path)

    def _is_open(self, handle: int, path: str) -> bool:
        try:
            held = os.fstat(handle).st_ino
        except OSError:
            return False
        return any(pipe.stat().st_ino == held for pipe in (self.root / path).rglob("trace_pipe"))

    def open_pipe(self, path: str) -> int:
        self._operation(f"open {path}")
        self.handles.append(super().open_pipe(path))
        return self.handles[-1]
