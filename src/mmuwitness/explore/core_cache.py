"""Machine code on disk, so that a warm start needs neither numba nor a compiler.

`cached` keeps any bytes that are costly to make; `Library` loads object code into the process;
`search_core` puts both together for the search loop. The loop is compiled by numba once per
installation (a few seconds) to LLVM text that is generic in the number of state words, and made
special for one number of words by LLVM alone (a fraction of a second). A warm start reads one
file. Nothing in a file is trusted unless its checksum is right; files appear under their final
name complete or not at all, so any number of processes may share a cache.
"""

from __future__ import annotations

import ctypes
import functools
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

_SOURCES = (
    "core_cache.py",
    "search_memory.py",
    "search_words.py",
    "search_table.py",
    "search_core.py",
)
_ENTRIES = {"run": 1, "enter": 2, "deal": 4}  # i64 arguments after (worker, width)
_ALLOWED = {"memcpy", "memmove", "memset", "bcmp", "memcmp"}  # libc, as LLVM may call it


def cache_directory() -> Path:
    """Where compiled code is kept: $MMUWITNESS_CACHE, else the user's cache directory."""
    if chosen := os.environ.get("MMUWITNESS_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmuwitness"


def cached(name: str, key: Iterable[str], build: Callable[[], bytes]) -> bytes:
    """The bytes made by `build`, from the cache if an entry of this name and key is there.

    `key` holds everything the bytes depend on. A damaged entry is made again; a cache that
    cannot be written costs a warning and the time of `build`.
    """
    digest = blake2b("\0".join(key).encode(), digest_size=16).hexdigest()
    path = cache_directory() / f"{name}-{digest}"
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if len(content) > 4 and int.from_bytes(content[:4], "little") == zlib.crc32(content[4:]):
        return content[4:]
    made = build()
    try:
        _write(path, zlib.crc32(made).to_bytes(4, "little") + made)
    except OSError as error:
        warnings.warn(
            f"cannot keep compiled code in {path.parent} ({error.strerror}): it is compiled again "
            "at every start; set MMUWITNESS_CACHE to a directory that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
    return made


def _write(path: Path, content: bytes) -> None:
    """Write under another name, then rename: a reader sees the whole file or none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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
    machine = target_machine()
    for function in module.functions:
        if not function.is_declaration and function.name not in _ENTRIES:
            function.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(3))
    builder.getModulePassManager().run(module, builder)
    for function in module.functions:
        outside = function.is_declaration and not function.name.startswith("llvm.")
        if outside and function.name not in _ALLOWED:
            raise RuntimeError(f"the compiled search loop would need {function.name} at run time")
    return bytes(machine.emit_object(module))


def _compiled() -> bytes:
    """LLVM text of the loop, from numba."""
    from mmuwitness.explore import search_core as source

    return source.emit().encode()
