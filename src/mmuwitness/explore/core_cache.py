"""Machine code on disk, so that a warm start needs neither numba nor a compiler.

The loop is compiled by numba once per installation (a few seconds) to LLVM text that is generic in
the number of state words, and made special for one number of words by LLVM alone (a fraction of a
second). A warm start reads one file.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm

from mmuwitness.process.disk_cache import cached
from mmuwitness.process.native import Library, compile_alone, machine_key

SEARCH, LASSO = "search_core", "lasso_core"
_SHARED = ("core_cache.py", "search_memory.py", "search_words.py", "search_table.py")
_SOURCES = {
    SEARCH: (*_SHARED, "search_core.py"),
    LASSO: (*_SHARED, "lasso_memory.py", "lasso_core.py"),
}
_ENTRIES = {  # i64 arguments after (address, width)
    SEARCH: {"run": 1, "enter": 2, "deal": 4},
    LASSO: {"note": 2, "connect": 2, "components": 0},
}


class Core:
    """The search loop for one number of state words; see search_core for what each part does.

    The parts are called through ctypes, so each call releases the GIL.
    """

    run: Callable[[int, int], int]
    enter: Callable[[int, int, int], int]
    deal: Callable[[int, int, int, int, int], int]
    library: Library

    def __init__(self, library: Library) -> None:
        bind(self, SEARCH, library)


class LassoCore:
    """The loops of lasso_core for one number of state words."""

    note: Callable[[int, int, int], int]
    connect: Callable[[int, int, int], int]
    components: Callable[[int], int]
    library: Library

    def __init__(self, library: Library) -> None:
        bind(self, LASSO, library)


def bind(core: Core | LassoCore, module: str, library: Library) -> None:
    """Give it the entries of a module as methods, and the library that they are in."""
    core.library = library
    for name, more in _ENTRIES[module].items():
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * (more + 1))
        setattr(core, name, prototype(library.address(name)))


@functools.cache
def search_core(width: int) -> Core:
    """The search loop for states of `width` words, from the cache or freshly compiled."""
    return Core(_library(SEARCH, width))


@functools.cache
def lasso_core(width: int) -> LassoCore:
    """The loops that look for lassos, likewise."""
    return LassoCore(_library(LASSO, width))


def _library(module: str, width: int) -> Library:
    here = Path(__file__).parent
    key = (*((here / name).read_text() for name in _SOURCES[module]), *machine_key())
    name = f"{module.removeprefix('search_')}-w{width}"
    code = cached(name, (*key, str(width)), lambda: _specialized(module, key, width))
    return Library(code)


def _specialized(module: str, key: tuple[str, ...], width: int) -> bytes:
    """Object code of the loop with the number of words a constant, so that loops over the words
    of a state unroll."""
    text = cached(module.removeprefix("search_"), key, lambda: _compiled(module)).decode()
    for name, more in _ENTRIES[module].items():
        inputs = [f"i64 %a{number}" for number in range(more)]
        text += (
            f"\ndefine i64 @{name}({', '.join(['i64 %worker', *inputs])}) {{\n"
            "  %result = alloca i64\n  %exception = alloca ptr\n"
            f"  %status = call i32 @loop_{name}(ptr %result, ptr %exception, "
            f"{', '.join(['i64 %worker', f'i64 {width}', *inputs])})\n"
            "  %value = load i64, ptr %result\n  ret i64 %value\n}\n"
        )
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    return compile_alone(parsed, _ENTRIES[module])


def _compiled(module: str) -> bytes:
    """LLVM text of the loops, from numba."""
    source = importlib.import_module(f"mmuwitness.explore.{module}")
    text: str = source.emit()
    return text.encode()
