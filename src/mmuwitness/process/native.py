"""LLVM IR text to machine code in this process, through llvmlite; object code can be kept."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def target_machine(level: int) -> Any:
    """Code generation for this processor.  An engine owns the one it is given."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=level,
        reloc="pic",
        codemodel="default",
    )


@cache
def machine_name() -> str:
    """What object code depends on: the compiler's version, the processor and its features."""
    import llvmlite
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    return f"{llvmlite.__version__} {llvm.get_host_cpu_name()} {features}"


def compile_ir(text: str, thorough: bool = False) -> bytes:
    """Object code of an IR module.  Quick code takes about a quarter of the time to make and runs
    at about half the speed: it is the better choice below some millions of states."""
    import llvmlite.binding as llvm

    machine = target_machine(1 if thorough else 0)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    if thorough:
        passes.add_simplify_cfg_pass()
        passes.add_instruction_combine_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(0)))
    return machine.emit_object(module)


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
