"""A schedule replayed and drawn: what a counterexample and a witness look like."""

from __future__ import annotations

import shlex

from mmuwitness.explore.explorer import Schedule
from mmuwitness.explore.path import PathStep, follow
from mmuwitness.explore.programs import fold_scenario
from mmuwitness.explore.replay import Replay
from mmuwitness.explore.schedule_id import BadSchedule, format_schedule
from mmuwitness.model.bugs.bug import known_scenario, scenario_of_schedule
from mmuwitness.model.era import Era
from mmuwitness.model.host import find_arch
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.native import NativeProgram, compile_ir
from mmuwitness.process.program import Program
from mmuwitness.report.timeline import LEGEND, lanes


def era_of(text: str) -> Era:
    """`v6.1` or `v6.1 -change_pte_bracketed`."""
    name, *changes = text.split() or [""]
    return Era(name, tuple(changes))


def steps_of(schedule: Schedule, own: Scenario | None = None) -> tuple[Program, list[PathStep]]:
    """The program of a schedule and its steps; BadSchedule if it is none of this program.

    own: the scenario, which may be one that does not come with the model."""
    scenario, era = own or scenario_of_schedule(schedule.scenario), era_of(schedule.era)
    if absent := scenario.absent(era, find_arch(schedule.arch)):
        raise BadSchedule(absent)
    program = fold_scenario(scenario, era, schedule.arch, schedule.folding)
    native = NativeProgram(compile_ir(program.lowered.text))
    try:
        return program, follow(program, native, schedule.steps)[0]
    except ValueError as error:
        raise BadSchedule(f"not a schedule of this model: {error}") from None


def timeline_text(schedule: Schedule, own: Scenario | None = None) -> str:
    """The timeline of a schedule, a legend, and the command that replays it."""
    program, steps = steps_of(schedule, own)
    names = [each.process.name for each in program.steps]
    head = f"{schedule.scenario} on {schedule.arch}, {schedule.era}: {len(steps)} steps"
    again = [] if own and not is_shipped(own) else [f"Replay: {replay_command(schedule)}"]
    return "\n".join([head, "", *lanes(steps, names), "", LEGEND, *again])


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
    how = schedule.folding
    arch, any_page_first = find_arch(schedule.arch), how.any_page_first
    program = fold_scenario(scenario, era, schedule.arch, how)
    replay = Replay(program, lambda: scenario.host(era, arch, how.claims, any_page_first))
    debugger = pdb.Pdb(skip=["mmuwitness.explore.*", "mmuwitness.process.*", "enum", "ast"])
    with contextlib.suppress(bdb.BdbQuit):
        for pid, choice in schedule.steps:
            debugger.runcall(replay.step, pid, choice)
