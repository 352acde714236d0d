"""kernel/fork.c: a VMM that forks to save its guest: the child has the memory as it was."""

from __future__ import annotations

from mmuwitness.model.mm.fork import dup_mmap
from mmuwitness.model.mm.mmap import exit_mmap

FORK, EXIT = 0, 1


def snapshot(child, mm, phase):
    """The child is made, and writes what it sees to a file; that only reads, and is not simulated.
    Then it exits."""
    if phase == FORK:
        dup_mmap(child, mm)
    else:
        exit_mmap(child)
