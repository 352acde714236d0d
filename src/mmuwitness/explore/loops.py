"""Loops, compiled once by numba and loaded from the cache through llvmlite alone.

The source of such a loop uses int64 words and addresses only, as the search core does (see
search_words), so that its machine code needs neither Python nor numba at run time.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmuwitness.process.disk_cache import cached
from mmuwitness.process.native import Library, compile_alone, machine_key


class NativeLoops:
    """The compiled functions of a module, each from some int64 arguments to an int64.

    They are called through ctypes: each call releases the GIL.
    """

    def __init__(self, module: str, sources: tuple[str, ...], entries: Mapping[str, int]) -> None:
        """`module` (as "mmuwitness.trace.dat.core") holds the `entries`, functions by name with
        the number of their arguments; `sources` are the files on which its code depends."""
        shared = ("explore/loops.py", "explore/search_words.py", "explore/search_table.py")
        files = [Path(__file__).parent.parent / name for name in (*sources, *shared)]
        texts = [file.read_text() for file in files]
        key = (*texts, *(f"{name} {count}" for name, count in entries.items()), *machine_key())
        self._library = Library(cached(module, key, lambda: compile_loops(module, entries)))
        self._functions = {
            name: ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)(
                self._library.address(name)
            )
            for name, count in entries.items()
        }

    def __getitem__(self, name: str) -> Callable[..., int]:
        return self._functions[name]


def compile_loops(module: str, entries: Mapping[str, int]) -> bytes:
    """Object code in which each entry is a plain C function of int64 arguments."""
    import llvmlite.binding as llvm
    from numba import int64

    source: Any = importlib.import_module(module)
    linked = llvm.parse_assembly("")
    wrappers = ""
    for name, count in entries.items():
        signature = (int64,) * count
        function = getattr(source, name)
        function.compile(signature)
        compiled = llvm.parse_assembly(function.inspect_llvm(signature))
        mangled = function.overloads[signature].fndesc.llvm_func_name
        compiled.get_function(mangled).name = f"loop_{name}"
        linked.link_in(compiled)
        inputs = ", ".join(f"i64 %a{number}" for number in range(count))
        # numba's calling convention: i32 status (result pointer, exception pointer, arguments).
        wrappers += (
            f"\ndefine i64 @{name}({inputs}) {{\n"
            "  %result = alloca i64\n  %exception = alloca ptr\n"
            f"  %status = call i32 @loop_{name}(ptr %result, ptr %exception, {inputs})\n"
            "  %value = load i64, ptr %result\n  ret i64 %value\n}\n"
        )
    whole = llvm.parse_assembly(str(linked) + wrappers)
    whole.verify()
    return compile_alone(whole, entries)
