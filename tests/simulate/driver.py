"""Operations of a program over arrays, run by hand: one step, or one operation, at a time."""

from __future__ import annotations

import ctypes

import numpy as np

from mmuwitness.process.lower import BLOCKED, DONE, ERROR, STEPPED
from mmuwitness.simulate.arrays import ArrayWorld
from mmuwitness.simulate.lower import Context
from mmuwitness.simulate.program import ManyProgram

WORD = ctypes.c_int64
STEPS_MAX = 100_000


class Frame:
    """One task that runs an operation: its frame, and the words that its steps are told."""

    def __init__(self, program: ManyProgram, number: int, world: ArrayWorld, task: int) -> None:
        self.program, self.operation = program, program.operations[number]
        self.tables = program.tables_of(world)
        self.words = np.zeros(self.operation.frame_words, np.int64)
        self.context = np.zeros(len(Context), np.int64)
        self.context[Context.TASK] = task
        self.function = ctypes.CFUNCTYPE(WORD, WORD, WORD, WORD)(program.addresses[number])
        self.start()

    def start(self, *arguments: int) -> None:
        """To the beginning, with these arguments."""
        self.words[:] = 0
        self.words[0] = self.operation.steps.initial
        for name, value in zip(self.operation.parameters, arguments, strict=False):
            if name in self.operation.arguments:
                self.words[self.operation.arguments[name]] = value

    def step(self, choice: int = 0) -> int:
        """BLOCKED, STEPPED, DONE or ERROR."""
        self.context[Context.CHOICE] = choice
        places = (each.ctypes.data for each in (self.tables, self.words, self.context))
        code = int(self.function(*places))
        self.context[Context.AGAIN] = code == BLOCKED
        return code

    def run(self, *arguments: int) -> None:
        """One operation from its beginning to its end, with nobody else there."""
        self.start(*arguments)
        for _ in range(STEPS_MAX):
            code = self.step()
            if code == DONE:
                return
            assert code != ERROR, self.program.error(int(self.context[Context.AUX]))
            assert code == STEPPED, f"{self.operation.name} waits"
        raise AssertionError(f"{self.operation.name} does not end")
