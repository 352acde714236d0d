"""The one way to the kernel's tracefs: read, write, make and remove, with errors that say where.

Writes append, as `echo ... >> file` does: opening kprobe_events to overwrite it, as `>` does,
would remove the probes of everybody else.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOUNT_POINT = Path("/sys/kernel/tracing")
MOUNTS = Path("/proc/self/mounts")
ERROR = re.compile(r"^\[ *[\d.]+\] \w+: error: (.*)$", re.MULTILINE)


class RecordError(ValueError):
    """Recording cannot go on: where, what, why, and what to do."""


class Tracefs:
    """Files below the mount point, by their path from there. Raises OSError with the full path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, path: str) -> bool:
        return (self.root / path).exists()

    def names(self, path: str) -> list[str]:
        """What a directory holds; nothing if there is no such directory."""
        try:
            return sorted(os.listdir(self.root / path))
        except FileNotFoundError:
            return []

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8", errors="replace")

    def write(self, path: str, text: str) -> None:
        where = self.root / path
        handle = os.open(where, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, text.encode() + b"\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(where)) from error
        finally:
            os.close(handle)

    def make(self, path: str) -> None:
        os.mkdir(self.root / path)

    def remove(self, path: str) -> None:
        os.rmdir(self.root / path)

    def open_pipe(self, path: str) -> int:
        """A descriptor that returns what there is and never waits; the caller closes it."""
        return os.open(self.root / path, os.O_RDONLY | os.O_NONBLOCK)

    def why(self, error: OSError) -> str:
        """The kernel's own words about the last line it refused, if it has any."""
        said = ERROR.findall(self.read("error_log")) if self.has("error_log") else []
        reason = os.strerror(error.errno) if error.errno else str(error)
        return f"{reason} ({said[-1]})" if said else reason


def mount_point() -> Path | None:
    """Where tracefs is mounted; None if it is not."""
    for line in MOUNTS.read_text(encoding="utf-8").splitlines():
        _, where, kind = line.split()[:3]
        if kind == "tracefs":
            return Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), where))
    return None


def readable_tracefs() -> Tracefs | None:
    """Where it is mounted; None if it is not, or if only root may read it."""
    where = mount_point()
    return Tracefs(where) if where and os.access(where / "README", os.R_OK) else None


@contextmanager
def mounted_tracefs() -> Iterator[tuple[Tracefs, list[str]]]:
    """tracefs, and what there is to say about it. Mounted here if it is not; unmounted after."""
    tracefs = readable_tracefs()
    if tracefs:
        yield tracefs, []
        return
    if mount_point():
        raise RecordError(f"{mount_point()}: {reason_unreadable()}")
    if not MOUNT_POINT.is_dir():
        raise RecordError(f"{MOUNT_POINT}: this kernel has no tracefs (CONFIG_TRACING)")
    command = ["mount", "-t", "tracefs", "nodev", str(MOUNT_POINT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.partition("\n")[0] or f"exit {done.returncode}"
        raise RecordError(f"{MOUNT_POINT}: tracefs is not mounted, {said}: {reason_unreadable()}")
    try:
        yield Tracefs(MOUNT_POINT), [f"tracefs was not mounted: mounted at {MOUNT_POINT} meanwhile"]
    finally:
        subprocess.run(["umount", str(MOUNT_POINT)], capture_output=True, check=False)


def reason_unreadable() -> str:
    lockdown = Path("/sys/kernel/security/lockdown")
    if lockdown.exists() and "[confidentiality]" in lockdown.read_text(encoding="utf-8"):
        return "the kernel is locked down (confidentiality), which forbids tracing: boot without it"
    if os.geteuid():
        return (
            "recording needs root: run it with sudo, or `mmuwitness record --how` for the commands"
        )
    return "tracefs cannot be read, even as root: is this a container?"
