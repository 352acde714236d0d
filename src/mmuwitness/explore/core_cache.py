"""Machine code on disk, so that a warm start needs neither numba nor a compiler.

The loop is compiled by numba once per installation (a few seconds) to LLVM text that is generic in
the number of state words, and made special for one number of words by LLVM alone (a fraction of a
second). A warm start reads one file.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm

from mmuwitness.process.disk_cache import cached
from mmuwitness.process.native import Library, compile_alone, machine_key

_SOURCES = (
    "core_cache.py",
    "search_memory.py",
    "search_words.py",
    "search_table.py",
    "search_core.py",
)
_ENTRIES = {"run": 1, "enter": 2, "deal": 4}  # i64 arguments after (worker, width)


class Core:
    """The search loop for one number of state words; see search_core for what each part does.

    The parts are called through ctypes, so each call releases the GIL.
    """

    run: Callable[[int, int], int]
    enter: Callable[[int, int, int], int]
    deal: Callable[[int, int, int, int, int], int]

    def __init__(self, library: Library) -> None:
        self.library = library  # held, because the functions are in it
        for name, more in _ENTRIES.items():
            prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * (more + 1))
            setattr(self, name, prototype(library.address(name)))


@functools.cache
def search_core(width: int) -> Core:
    """The search loop for states of `width` words, from the cache or freshly compiled."""
    here = Path(__file__).parent
    key = (*((here / name).read_text() for name in _SOURCES), *machine_key())
    code = cached(f"core-w{width}", (*key, str(width)), lambda: _specialized(key, width))
    return Core(Library(code))


def _specialized(key: tuple[str, ...], width: int) -> bytes:
    """Object code of the loop with the number of words a constant, so that loops over the words
    of a state unroll."""
    text = cached("core", key, _compiled).decode()
    for name, more in _ENTRIES.items():
        inputs = [f"i64 %a{number}" for number in range(more)]
        text += (
            f"\ndefine i64 @{name}({', '.join(['i64 %worker', *inputs])}) {{\n"
            "  %result = alloca i64\n  %exception = alloca ptr\n"
            f"  %status = call i32 @loop_{name}(ptr %result, ptr %exception, "
            f"{', '.join(['i64 %worker', f'i64 {width}', *inputs])})\n"
            "  %value = load i64, ptr %result\n  ret i64 %value\n}\n"
        )
    module = llvm.parse_assembly(text)
    module.verify()
    return compile_alone(module, _ENTRIES)


def _compiled() -> bytes:
    """LLVM text of the loop, from numba."""
    from mmuwitness.explore import search_core as source

    return source.emit().encode()
