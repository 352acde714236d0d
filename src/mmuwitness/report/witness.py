"""A schedule replayed and drawn: what a counterexample and a witness look like."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from mmuwitness.explore.explorer import Schedule
from mmuwitness.explore.path import PathStep, follow
from mmuwitness.explore.programs import fold_scenario, folded_host
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import BadSchedule, format_schedule
from mmuwitness.model.bugs.bug import known_scenario, scenario_of_schedule
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program
from mmuwitness.report.text import wrap
from mmuwitness.report.timeline import LEGEND, lanes
from mmuwitness.report.waits import waits_text

COUNT = "kvm.mmu_invalidate_in_progress"


def era_of(text: str) -> Era:
    """`v6.1` or `v6.1 -change_pte_bracketed`."""
    name, *changes = text.split() or [""]
    return Era(name, tuple(changes))


def steps_of(schedule: Schedule, own: Scenario | None = None) -> tuple[Program, list[PathStep]]:
    """The program of a schedule and its steps; BadSchedule if it is none of this program.

    own: the scenario, which may be one that does not come with the model."""
    walk = walk_of(schedule, own)
    return walk.program, walk.steps


@dataclass(frozen=True)
class Walk:
    """A schedule followed: its steps, the last state, who can go on there, whether it is a
    deadlock."""

    program: Program
    steps: list[PathStep]
    last: tuple[int, ...]
    able: set[int]
    deadlock: bool


def walk_of(schedule: Schedule, own: Scenario | None = None) -> Walk:
    scenario, era = own or scenario_of_schedule(schedule.scenario), era_of(schedule.era)
    if absent := scenario.absent(era, find_arch(schedule.arch)):
        raise BadSchedule(absent)
    program = fold_scenario(scenario, era, schedule.arch, schedule.folding)
    native = NativeProgram(compile_ir(program.lowered.text))
    try:
        steps, states = follow(program, native, schedule.steps)
    except ValueError as error:
        raise BadSchedule(f"not a schedule of this model: {error}") from None
    if schedule.loop and states[-1] != states[-1 - schedule.loop]:
        raise BadSchedule("not a schedule of this model: its loop does not lead back")
    found, info = native.call(states[-1], program.lowered.successors_max)
    able = {label & 0xFF for label, _, _ in found}
    return Walk(program, steps, states[-1], able, info[1] != 0)


def timeline_text(schedule: Schedule, own: Scenario | None = None) -> str:
    """The timeline of a schedule, a legend, and the command that replays it."""
    walk = walk_of(schedule, own)
    names = [each.process.name for each in walk.program.steps]
    size = f"{len(walk.steps)} steps"
    if schedule.loop:
        stem = len(walk.steps) - schedule.loop
        size = f"{stem} steps, then {schedule.loop} that are repeated for ever"
        if any(c.name == COUNT for step in walk.steps[stem:] for c in step.changes):
            size += ": a storm, in which windows open and close"
    head = f"{schedule.scenario} on {schedule.arch}, {schedule.era}: {size}"
    lines = [*wrap(head, ""), "", *lanes(walk.steps, names, schedule.loop), ""]
    if walk.deadlock and not schedule.loop:
        lines += [deadlock_text(schedule, walk, own), ""]
    elif not walk.able:
        lines += ["All have finished: so it stays.", ""]
    again = [] if own and not is_shipped(own) else [f"Replay: {replay_command(schedule)}"]
    return "\n".join([*lines, LEGEND, *again])


def deadlock_text(schedule: Schedule, walk: Walk, own: Scenario | None) -> str:
    replay = replay_of(schedule, walk.program, own)
    for pid, choice in schedule.steps:
        replay.step(pid, choice)
    return waits_text(walk.program, replay, walk.last, walk.able)


def replay_of(schedule: Schedule, program: Program, own: Scenario | None) -> Replay:
    scenario, era = own or scenario_of_schedule(schedule.scenario), era_of(schedule.era)
    return Replay(program, lambda: folded_host(scenario, era, schedule.arch, schedule.folding))


def is_shipped(scenario: Scenario) -> bool:
    """Whether `replay` knows it by its name."""
    return bool(scenario.variant) or known_scenario(scenario.name) == scenario


def replay_command(schedule: Schedule) -> str:
    command = f"mmuwitness replay {format_schedule(schedule)}"
    return command + (f" --variant {shlex.quote(schedule.variant)}" if schedule.variant else "")


def debug_schedule(schedule: Schedule, own: Scenario | None = None) -> None:
    """Replay in CPython under pdb: it stops before each step of the schedule; `step` goes into
    the author's own lines."""
    import bdb
    import contextlib
    import pdb

    scenario, era = own or scenario_of_schedule(schedule.scenario), era_of(schedule.era)
    program = fold_scenario(scenario, era, schedule.arch, schedule.folding)
    replay = replay_of(schedule, program, own)
    debugger = pdb.Pdb(skip=["mmuwitness.explore.*", "mmuwitness.process.*", "enum", "ast"])
    with contextlib.suppress(bdb.BdbQuit):
        for pid, choice in schedule.steps:
            debugger.runcall(replay.step, pid, choice)
