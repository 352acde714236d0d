"""What `conform` prints: the rules, the processes, and the first departure as a timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmuwitness.report.text import wrap
from mmuwitness.report.timeline import clip
from mmuwitness.trace.conform import RuleResult, RulesResult
from mmuwitness.trace.paths.check import PathsResult
from mmuwitness.trace.rules.departure import Line
from mmuwitness.trace.rules.rule import Departure

OBEYS, DEPARTS, INCOMPLETE = 0, 1, 3
SHOWN = 5  # departures behind the first
Paths = PathsResult | str  # or why they were not looked at


def exit_code(rules: RulesResult, paths: Paths) -> int:
    if rules.departures or (isinstance(paths, PathsResult) and paths.departure):
        return DEPARTS
    nothing = not any(rule.checked for rule in rules.rules)
    return INCOMPLETE if nothing or not rules.complete else OBEYS


def conform_text(rules: RulesResult, paths: Paths) -> str:
    lines = [*wrap(headline(rules, paths), "", 100), ""]
    lines += rules_table(rules.rules)
    lines += ["", *paths_lines(rules, paths)]
    for note in rules.notes:
        lines += wrap(f"Note: {note}.", "")
    if rules.departures:
        first, *others = rules.departures
        lines += ["", "-" * 100, *departure_lines(rules, first)]
        for each in others[:SHOWN]:
            text = f"also event {each.fact.row + 1:,}: {each.rule}: {each.happened}"
            lines += wrap(text, "  ")
        if len(others) > SHOWN:
            lines.append(f"  and {len(others) - SHOWN} more, which may follow from the first")
    return "\n".join(lines)


def headline(rules: RulesResult, paths: Paths) -> str:
    """The answer in a sentence."""
    checked = [rule for rule in rules.rules if rule.checked]
    what = f"{len(checked)} of {len(rules.rules)} rules checked on {rules.events:,} events"
    departure = paths.departure if isinstance(paths, PathsResult) else None
    if rules.departures:
        first = rules.departures[0]
        return f"{where(rules, first, rules.around)}: departs from the rule {first.rule}; {what}"
    if departure is not None:
        return f"{rules.path}:{departure}"
    if not rules.complete:
        lost = f"{rules.lost:,} events lost" if rules.lost else "a part is missing"
        return (
            f"{rules.path}: incomplete ({lost}), cannot be called conforming; no departure in what "
            f"is there: {what}"
        )
    if not checked:
        return f"{rules.path}: nothing that a rule speaks of was recorded"
    if isinstance(paths, PathsResult) and paths.accepts and not paths.not_modelled:
        return f"{rules.path}: conforms: {what}, and every task is a path of the model"
    return f"{rules.path}: obeys the rules: {what}"


def rules_table(rules: Sequence[RuleResult]) -> list[str]:
    """One line for each rule, and what to record for those that could not be checked."""
    lines = ["rules" + " " * 22 + "checked"]
    wanted = Counter[str]()
    for rule in rules:
        count = f"{rule.checked:,} times" if rule.checked else "nothing to check"
        if not rule.applies:
            count = "of another MMU"
        elif rule.record:
            count = "not checked"
            wanted.update(rule.record)
        mark = f"  ** {rule.departures:,} departures" if rule.departures else ""
        lines.append(f"  {rule.name:25}{count}{mark}")
    if wanted:
        lines += ["", "to check the others, record (for how many rules)"]
        lines += [f"  {count:2}  {what}" for what, count in wanted.most_common()]
    return lines


def paths_lines(rules: RulesResult, paths: Paths) -> list[str]:
    """The second level: what each task did, as paths of the model's processes."""
    if isinstance(paths, str):
        return [f"processes: {paths}"]
    if paths.why_not:
        return [f"processes: not looked at: {paths.why_not}"]
    names = [*paths.accepted, *paths.not_modelled]
    width = max((len(name) for name in names), default=0) + 2
    lines = [f"processes (the model of {paths.kernel.era}, {paths.kernel.mmu})"]
    for name, each in sorted(paths.accepted.items()):
        counts = f"{each.activities:,} paths of the model, {each.windows:,} windows"
        lines.append(f"  {name:{width}}{counts}, {each.events:,} events")
    for name, left in sorted(paths.not_modelled.items()):
        counts = f"not modelled yet, {left.windows:,} windows, from {place_word(rules)}"
        lines.append(f"  {name:{width}}{counts} {left.places[0]:,}")
    if paths.departure is not None:
        lines += wrap(f"** {place_word(rules)} {paths.departure}", "  ", 98)
    return [clip(line) for line in lines]


def place_word(rules: RulesResult) -> str:
    return "byte" if rules.format.startswith("trace.dat") else "line"


def where(rules: RulesResult, departure: Departure, around: Sequence[Line]) -> str:
    """`file:line`, as far as the place is at hand."""
    for line in around:
        if line.row == departure.fact.row and line.place is not None:
            return f"{rules.path}:{line.place}"
    return f"{rules.path}: event {departure.fact.row + 1:,}"


def departure_lines(rules: RulesResult, departure: Departure) -> list[str]:
    rule = next(each for each in rules.rules if each.name == departure.rule)
    lines = [f"{where(rules, departure, rules.around)}: {departure.rule}"]
    for label, text in (
        ("rule", rule.text),
        ("allowed", departure.allowed),
        ("happened", departure.happened),
    ):
        first, *others = wrap(text, " " * 12, 98)
        lines += [f"  {label + ':':10}{first.strip()}", *others]
    return [*lines, "", *timeline(rules, departure)]


def timeline(rules: RulesResult, departure: Departure) -> list[str]:
    """One lane for each task, time goes down; `>` is the event that departs."""
    tasks = list(dict.fromkeys(f"{line.task}-{line.pid}" for line in rules.around))
    width = max(len(task) for task in tasks) + 2
    head = f"  {place_word(rules):>9}  {'seconds':>14}  " + "".join(
        task.ljust(width) for task in tasks
    )
    lines = [clip(head + "event"), "-" * 100]
    margin = " " * 29
    last = None
    for line in rules.around:
        if last is not None and last.row + 1 < line.row:
            lines.append(margin + "".join(":".ljust(width) for _ in tasks).rstrip())
        last = line
        own = f"{line.task}-{line.pid}"
        lane = "".join(("*" if task == own else "|").ljust(width) for task in tasks)
        since = departure.since is not None and line.row == departure.since.row
        mark = ">" if line.row == departure.fact.row else "-" if since else " "
        at = f"{line.place:,}" if line.place is not None else f"#{line.row + 1:,}"
        bars = margin + "".join("|".ljust(width) for _ in tasks)
        first, *others = wrap(f"{line.event} {line.payload}", "", max(40, 98 - len(bars)))
        lines.append(clip(f"{mark} {at:>9}  {line.time_ns / 1e9:14.6f}  {lane}{first}"))
        lines += [clip(f"{bars}  {part}") for part in others]
    return [*lines, "", LEGEND]


LEGEND = "> departs from the rule; - what it contradicts; : events left out; * whose event it is"


def conform_json(rules: RulesResult, paths: Paths) -> dict[str, Any]:
    return {
        "schema": 1,
        "file": rules.path,
        "format": rules.format,
        "exit": exit_code(rules, paths),
        "events": rules.events,
        "lost": rules.lost,
        "complete": rules.complete,
        "notes": list(rules.notes),
        "rules": [
            {
                "name": rule.name,
                "text": rule.text,
                "checked": rule.checked,
                "departures": rule.departures,
                "applies": rule.applies,
                "record": list(rule.record) if rule.applies else [],
            }
            for rule in rules.rules
        ],
        "departures": [departure_json(each) for each in rules.departures],
        "around": [line.__dict__ for line in rules.around],
        "processes": paths if isinstance(paths, str) else paths_json(paths),
    }


def departure_json(departure: Departure) -> dict[str, Any]:
    since = departure.since
    return {
        "rule": departure.rule,
        "event": departure.fact.row + 1,
        "since_event": None if since is None else since.row + 1,
        "task": f"{departure.fact.task}-{departure.fact.pid}",
        "allowed": departure.allowed,
        "happened": departure.happened,
    }


def paths_json(paths: PathsResult) -> dict[str, Any]:
    return {
        "kernel": str(paths.kernel.era),
        "mmu": paths.kernel.mmu,
        "not_looked_at": paths.why_not,
        "accepted": {name: each.__dict__ for name, each in paths.accepted.items()},
        "not_modelled": {name: each.__dict__ for name, each in paths.not_modelled.items()},
        "departure": None if paths.departure is None else str(paths.departure),
    }
