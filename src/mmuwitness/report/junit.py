"""What a check found as JUnit XML: one test case a claim, and one for deadlocks.

A claim that is violated is a failure, one that is undecided an error; so a file without either is
exit code 0, and one with failures is exit code 1.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from mmuwitness.explore.explorer import Exploration, Schedule
from mmuwitness.model.claims import Claim
from mmuwitness.report.check_report import bounds
from mmuwitness.report.witness import timeline_text


def check_output(path: Path) -> None:
    """ValueError if no file can be there, said before anything is explored."""
    if not path.parent.is_dir():
        raise ValueError(f"--junit {path}: no directory {path.parent}: make it, or name another")


def write_junit(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--junit {path}: cannot be written: {error.strerror}") from error


def check_junit(found: Exploration, claims: Sequence[Claim]) -> str:
    name = f"{found.scenario.name} on {found.arch}, {found.era}"
    suite = ET.Element("testsuite", name=name, skipped="0", time=f"{found.result.seconds:.3f}")
    properties = ET.SubElement(suite, "properties")
    said = {"bounds": found.scenario.bounds, "states": str(found.result.states)}
    for key, value in said.items():
        ET.SubElement(properties, "property", name=key, value=value)
    drawn: dict[Schedule, str] = {}
    for claim in claims:
        case = add_case(suite, name, claim.name)
        verdict = found.verdict_of(claim)
        if verdict == "violated":
            add_failure(case, claim.text, found, found.schedule_of(claim), drawn)
        elif verdict == "undecided":
            add_error(case, found)
        else:
            ET.SubElement(case, "system-out").text = verdict
    case = add_case(suite, name, "no deadlock")
    if found.result.deadlock is not None:
        schedule = found.schedule_to_state(found.result.deadlock)
        add_failure(case, "processes wait for each other", found, schedule, drawn)
    elif not found.complete:
        add_error(case, found)
    for attribute, each in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
        suite.set(attribute, str(sum(1 for _ in suite.iter(each))))
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode")


def add_case(suite: ET.Element, group: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=group, name=name, time="0")


def add_failure(
    case: ET.Element,
    text: str,
    found: Exploration,
    schedule: Schedule,
    drawn: dict[Schedule, str],
) -> None:
    """The timeline; claims that break in the same state share one."""
    if schedule not in drawn:
        drawn[schedule] = timeline_text(schedule, found.scenario)
    ET.SubElement(case, "failure", message=text, type="violated").text = drawn[schedule]


def add_error(case: ET.Element, found: Exploration) -> None:
    ET.SubElement(case, "error", message="undecided", type="undecided").text = "\n".join(
        bounds(found)
    )
