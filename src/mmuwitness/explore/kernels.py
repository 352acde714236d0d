"""One question put to many kernels: once to each program that they have, in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch

T = TypeVar("T")

Task = tuple[str, tuple[Era, ...]]
"""An architecture, and the kernels to ask."""

INTERRUPTED = "not explored: interrupted"


def once_per_program(
    arch: str, eras: Sequence[Era], ask: Callable[[Era], tuple[dict[str, bool], T]]
) -> list[T]:
    """The answer for each kernel.  `ask` returns the features that the answer rests on, too:
    kernels that agree on them have one answer."""
    kernel_arch = find_arch(arch).kernel_arch
    known: list[tuple[dict[str, bool], T]] = []

    def answer(era: Era) -> T:
        for features, found in known:
            if all(era.has(name, kernel_arch) == value for name, value in features.items()):
                return found
        known.append(ask(era))
        return known[-1][1]

    return [answer(era) for era in eras]


def in_processes(ask: Callable[[Task], T], tasks: Sequence[Task]) -> Iterator[T]:
    """Answers in the order of the tasks, from as many processes as there are processors."""
    workers = min(os.cpu_count() or 1, len(tasks))
    if workers <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(ask, tasks)
        return
    context = multiprocessing.get_context("fork")
    # They end before they would need the memory back (60 MB an architecture).
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        yield from pool.map(ask, tasks)
