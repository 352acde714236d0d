"""The few machine operations that the search loop needs and that Python has no words for.

Each is a numba intrinsic on int64 words and addresses: no arrays, no bounds, no run time. They
are as unsafe as they look; search_core says why each use of them is in bounds. Little-endian only.
"""
# mypy: ignore-errors
# (numba infers these types itself, and knows its intrinsics where mypy does not)

from __future__ import annotations

import platform

from llvmlite import ir
from numba import int64
from numba.extending import intrinsic

from mmuwitness.explore.search_memory import BUCKET_SLOTS

PAUSES = {"x86_64": "llvm.x86.sse2.pause", "aarch64": "llvm.aarch64.hint"}

_BYTE, _HALF, _WORD, _WIDE = (ir.IntType(bits) for bits in (8, 32, 64, 128))
_TAGS = ir.VectorType(_BYTE, 16)


@intrinsic
def load(_typing, address):
    """The 64-bit word at `address`."""

    def emit(_context, builder, _signature, args):
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return int64(int64), emit


@intrinsic
def store(_typing, address, value):
    """Write the 64-bit word `value` at `address`."""

    def emit(_context, builder, _signature, args):
        builder.store(args[1], builder.inttoptr(args[0], _WORD.as_pointer()))
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def load_half(_typing, address):
    """The 32-bit word at `address`, zero-extended."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _HALF.as_pointer())
        return builder.zext(builder.load(pointer), _WORD)

    return int64(int64), emit


@intrinsic
def store_half(_typing, address, value):
    """Write the low 32 bits of `value` at `address`."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _HALF.as_pointer())
        builder.store(builder.trunc(args[1], _HALF), pointer)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def store_byte(_typing, address, value):
    """Write the low 8 bits of `value` at `address`."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        builder.store(builder.trunc(args[1], _BYTE), pointer)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def load_acquire(_typing, address):
    """The word at `address`; what its writer did before `store_release` is visible after it."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return int64(int64), emit


@intrinsic
def store_release(_typing, address, value):
    """Write `value` at `address`, after everything this thread read or wrote before."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _WORD.as_pointer())
        builder.store_atomic(args[1], pointer, "release", 8)
        return args[1]

    return int64(int64, int64), emit


@intrinsic
def prefetch(_typing, address):
    """Ask for the cache line at `address`. Never faults, whatever the address."""

    def emit(_context, builder, _signature, args):
        pointer = builder.inttoptr(args[0], _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _HALF, _HALF, _HALF])
        function = builder.module.declare_intrinsic("llvm.prefetch", [_BYTE.as_pointer()], kind)
        builder.call(function, [pointer, _HALF(0), _HALF(3), _HALF(1)])
        return args[0]

    return int64(int64), emit


@intrinsic
def call_model(_typing, function, state, out, meta, info):
    """Call the model's native successor function; its address is an argument, never baked in."""

    def emit(_context, builder, _signature, args):
        kind = ir.FunctionType(_WORD, [_WORD.as_pointer()] * 4)
        pointers = [builder.inttoptr(value, _WORD.as_pointer()) for value in args[1:]]
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), pointers)

    return int64(int64, int64, int64, int64, int64), emit


@intrinsic
def pause(_typing):
    """Tell the processor that this is a waiting loop, where it has a word for that."""

    def emit(_context, builder, _signature, _args):
        if name := PAUSES.get(platform.machine()):
            kind = ir.FunctionType(ir.VoidType(), [_HALF] if name.endswith("hint") else [])
            function = builder.module.declare_intrinsic(name, (), kind)
            builder.call(function, [_HALF(1)] if name.endswith("hint") else [])
        return _WORD(0)

    return int64(), emit


@intrinsic
def mix(_typing, word):
    """Multiply by an odd constant to 128 bits and fold the halves: every bit moves many."""

    def emit(_context, builder, _signature, args):
        product = builder.mul(
            builder.zext(args[0], _WIDE), ir.Constant(_WIDE, 0x9E37_79B9_7F4A_7C15)
        )
        high = builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)
        return builder.xor(builder.trunc(product, _WORD), high)

    return int64(int64), emit


@intrinsic
def scale(_typing, word, count):
    """Map an unsigned 64-bit `word` evenly to 0 .. count - 1: the high half of the product."""

    def emit(_context, builder, _signature, args):
        product = builder.mul(builder.zext(args[0], _WIDE), builder.zext(args[1], _WIDE))
        return builder.trunc(builder.lshr(product, ir.Constant(_WIDE, 64)), _WORD)

    return int64(int64, int64), emit


@intrinsic
def tag_matches(_typing, bucket, tag):
    """Bit k is set if tag byte k of the 64-byte bucket equals `tag`, for its 12 slots."""

    def emit(_context, builder, _signature, args):
        tags = builder.load(builder.inttoptr(args[0], _TAGS.as_pointer()), align=16)
        one = builder.insert_element(
            ir.Constant(_TAGS, ir.Undefined), builder.trunc(args[1], _BYTE), _HALF(0)
        )
        zeros = ir.Constant(ir.VectorType(_HALF, 16), [0] * 16)
        equal = builder.icmp_unsigned("==", tags, builder.shuffle_vector(one, one, zeros))
        mask = builder.zext(builder.bitcast(equal, ir.IntType(16)), _WORD)
        return builder.and_(mask, _WORD((1 << BUCKET_SLOTS) - 1))

    return int64(int64, int64), emit


@intrinsic
def lowest_bit(_typing, word):
    """The position of the lowest set bit; 64 if there is none."""

    def emit(_context, builder, _signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return int64(int64), emit


@intrinsic
def drop_lowest_bit(_typing, word):
    """Clear the lowest set bit. Not `word & (word - 1)`: numba promises LLVM that its own
    subtraction never overflows, and with bit 63 alone this one does."""

    def emit(_context, builder, _signature, args):
        return builder.and_(args[0], builder.sub(args[0], _WORD(1)))

    return int64(int64), emit
