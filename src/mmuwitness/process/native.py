"""LLVM IR text to machine code in this process, through llvmlite alone."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Collection

import llvmlite
import llvmlite.binding as llvm

LIBC = {"memcpy", "memmove", "memset", "bcmp", "memcmp"}  # as LLVM may call it


@functools.cache
def machine_key() -> tuple[str, ...]:
    """What compiled code depends on beside its source: compiler, processor, system."""
    _initialize()
    features = llvm.get_host_cpu_features().flatten()
    triple, processor = llvm.get_process_triple(), llvm.get_host_cpu_name()
    return (llvmlite.__version__, triple, processor, features)


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def target_machine(optimization: int = 3) -> llvm.TargetMachine:
    """Code generation for this processor, for code that is loaded by `Library`."""
    _initialize()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=optimization,
        jit=True,
    )


class Library:
    """Object code loaded into this process. Its functions live as long as it does."""

    def __init__(self, object_code: bytes) -> None:
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(0))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(object_code))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """The address of a function."""
        address = self._engine.get_function_address(name)
        if address == 0:
            raise LookupError(f"compiled code has no function {name}")
        return int(address)

    def read(self, name: str, size: int) -> bytes:
        """What a variable holds now."""
        return ctypes.string_at(self._engine.get_global_value_address(name), size)


def compile_ir(text: str, thorough: bool = False) -> bytes:
    """Object code of an IR module.  Quick code takes about a tenth of the time to make and runs
    at two thirds of the speed: it is the better choice below some millions of states."""
    machine = target_machine(1 if thorough else 0)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(1 if thorough else 0)
    builder = llvm.create_pass_builder(machine, options)
    if thorough:
        passes = builder.getModulePassManager()
    else:
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
    passes.run(module, builder)
    return bytes(machine.emit_object(module))


def compile_alone(module: llvm.ModuleRef, entries: Collection[str]) -> bytes:
    """Object code of a module that exports only these functions, and needs nothing at run time
    but what libc has for memory.  RuntimeError if it would."""
    machine = target_machine()
    for function in module.functions:
        if not function.is_declaration and function.name not in entries:
            function.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    builder.getModulePassManager().run(module, builder)
    for function in module.functions:
        outside = function.is_declaration and not function.name.startswith("llvm.")
        if outside and function.name not in LIBC:
            raise RuntimeError(f"the compiled loops would need {function.name} at run time")
    return bytes(machine.emit_object(module))


class NativeProgram:
    """Loaded object code: `address` of the function that a search calls, and `call` for the
    successors of one state.  reduced: the search sees one state for all that are alike."""

    def __init__(self, code: bytes, reduced: bool = False) -> None:
        self.library = Library(code)
        self.address = self.library.address("reduced" if reduced else "successors")
        word = ctypes.POINTER(ctypes.c_int64)
        successors = self.library.address("successors")
        self.function = ctypes.CFUNCTYPE(ctypes.c_int64, word, word, word, word)(successors)
        self.sort = None
        if reduced:
            self.sort = ctypes.CFUNCTYPE(None, word)(self.library.address("canonical"))

    def canonical(self, state: tuple[int, ...]) -> tuple[int, ...]:
        """The state that stands for all that are like this one."""
        if self.sort is None:
            return state
        words = (ctypes.c_int64 * len(state))(*(signed(w) for w in state))
        self.sort(words)
        return tuple(w & (1 << 64) - 1 for w in words)

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
