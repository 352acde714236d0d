"""LLVM IR text to machine code in this process, through llvmlite; object code can be kept."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

SMALL = 40_000
"""IR longer than this (characters) is compiled for speed, shorter for quick compilation."""


@cache
def target_machine(level: int) -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=level, reloc="pic", codemodel="default"
    )


@cache
def host_name() -> str:
    """What object code depends on: the processor, its features and the compiler's version."""
    import llvmlite
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return f"{llvmlite.__version__} {llvm.get_host_cpu_name()} {features}"


def compile_ir(text: str, level: int = 2) -> bytes:
    """Object code of an IR module, optimised at `level` (0 to 3)."""
    import llvmlite.binding as llvm

    machine = target_machine(level)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=max(level, 1))
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module)  # type: ignore[no-any-return]


class NativeProgram:
    """Loaded object code: `address` of the successors function, and `call` for one state."""

    def __init__(self, code: bytes) -> None:
        import llvmlite.binding as llvm

        empty = llvm.parse_assembly("")
        self.engine = llvm.create_mcjit_compiler(empty, target_machine(0))
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        self.address: int = self.engine.get_function_address("successors")
        word = ctypes.POINTER(ctypes.c_int64)
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, word, word, word, word)(self.address)

    def call(
        self, state: tuple[int, ...], most: int
    ) -> tuple[list[tuple[int, int, tuple[int, ...]]], list[int]]:
        """Successors of one state as (label, marks, words), and the four info words."""
        words = len(state)
        source = (ctypes.c_int64 * words)(*(signed(w) for w in state))
        out = (ctypes.c_int64 * (words * most))()
        meta, info = (ctypes.c_int64 * (2 * most))(), (ctypes.c_int64 * 4)()
        count = self.function(source, out, meta, info)
        found = []
        for k in range(count):
            target = tuple(out[k * words + w] & (1 << 64) - 1 for w in range(words))
            found.append((meta[2 * k], meta[2 * k + 1], target))
        return found, list(info)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
