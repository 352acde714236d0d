"""What the loops of lasso_core and their driver share: the words of a `Lassos`, and its arrays."""

from __future__ import annotations

import ctypes

NONE = 0xFFFF_FFFF  # the component of a state that is in none


class Lassos(ctypes.Structure):
    """All that the loops know: addresses and 64-bit words.  Arrays have an item for each state,
    those of edges one for each step between active states."""

    successors: int
    meta: int  # scratch, written by the model for each state
    info: int
    out: int
    states: int
    count: int
    slots: int  # the table: 32 bits each, the number of a state + 1, or 0
    slot_count: int
    violated: int  # 64 bits: mask of the claims that do not hold
    enabled: int  # 32 bits: mask of the tasks that can take a step
    degree: int  # 32 bits: steps
    active: int  # 32 bits: not 0 if the state takes part
    first: int  # 64 bits, and one more at the end: the first of the state's steps
    targets: int  # 32 bits for each step
    tasks: int  # 32 bits for each step: whose it is
    edges: int
    component: int  # 32 bits
    number: int  # 32 bits: in order of discovery, from 1 on
    low: int  # 32 bits
    stack: int  # 32 bits: states that are in no component yet
    calls: int  # 32 bits: the path to the state that is visited
    next: int  # 64 bits: the step to be followed next

    _fields_ = [(name, ctypes.c_int64) for name in __annotations__]


def offsets(names: str) -> list[int]:
    """Byte offsets of words of a Lassos, for the loops."""
    return [getattr(Lassos, name).offset for name in names.split()]
