"""The audit for machines: everything that it counted. Times are ns, numbers of pages are 4K."""

from __future__ import annotations

from typing import Any

from mmuwitness.report.audit_advice import look_at, record_next
from mmuwitness.report.audit_report import headline, in_outcomes
from mmuwitness.trace.audit.auditor import Audit
from mmuwitness.trace.audit.series import Storm
from mmuwitness.trace.audit.totals import CauseTotals, Step, Vcpu
from mmuwitness.trace.causes import Cause

SCHEMA = 1
STORMS_MAX, GFNS_MAX, WHYS_MAX = 100, 100, 10


def audit_json(audit: Audit) -> dict[str, Any]:
    """Of the whole trace."""
    totals = audit.totals
    return {
        "schema": SCHEMA,
        "headline": headline(audit),
        "trace": trace_json(audit),
        "events": dict(audit.events),
        "functions": dict(audit.functions),
        "facts": {kind.name.lower(): count for kind, count in audit.counts.items()},
        "windows": audit.windows,
        "windows_elsewhere": totals.elsewhere,
        "event_types": {str(number): n for number, n in sorted(totals.event_types.items())},
        "unmatched_starts": audit.unmatched_starts,
        "unmatched_ends": audit.unmatched_ends,
        "causes": {str(cause): cause_json(cause, each) for cause, each in totals.causes.items()},
        "exits": dict(totals.exits),
        "faults": in_outcomes(totals.faults),
        "retries_inferred": totals.faults_inferred,
        "fault_time": totals.fault_time.summary(),
        "pages_migrated": dict(totals.migrated),
        "zapped_outside_windows": totals.zapped_elsewhere,
        "vms": [
            {"vm": audit.vms.get(vm), "windows": {str(cause): n for cause, n in counts.items()}}
            for vm, counts in sorted(totals.vms.items())
        ],
        "vcpus": [vcpu_json(vcpu) for vcpu in totals.vcpus.values()],
        "storms": [storm_json(storm) for storm in audit.storms[:STORMS_MAX]],
        "hot_gfns": [
            {"vm": vm, "gfn": gfn, "count": count}
            for (vm, gfn), count in totals.gfns.most_common(GFNS_MAX)
        ],
        "steps": [step_json(step) for step in totals.steps],
        "look_at": look_at(audit),
        "record_next": record_next(audit),
    }


def trace_json(audit: Audit) -> dict[str, Any]:
    """Of what was read."""
    return {
        "path": audit.path,
        "format": audit.format,
        "arch": audit.dialect.arch,
        "mmu": audit.dialect.mmu,
        "release": audit.release,
        "clock": audit.clock,
        "start": audit.start,
        "end": audit.end,
        "complete": audit.complete,
        "lost": audit.lost,
        "emulated": audit.emulated,
        "notes": audit.notes,
    }


def vcpu_json(vcpu: Vcpu) -> dict[str, Any]:
    """Of one task that runs a guest."""
    return {
        "task": vcpu.task,
        "pid": vcpu.pid,
        "vcpu": vcpu.number,
        "exits": vcpu.exits,
        "exits_caused": vcpu.caused,
        "faults": in_outcomes(vcpu.faults),
    }


def storm_json(storm: Storm) -> dict[str, Any]:
    """Of one burst."""
    return {
        "start": storm.start,
        "end": storm.end,
        "windows": storm.windows,
        "retries": storm.retries,
        "refaults": storm.refaults,
        "per_second": round(storm.rate),
        "causes": storm.causes,
    }


def step_json(step: Step) -> dict[str, Any]:
    """From one line in trace_marker to the next."""
    return {
        "mark": step.text,
        "time": step.time,
        "exits": step.exits,
        "faults": in_outcomes(step.faults),
        "windows": {str(cause): count for cause, count in step.windows.items()},
        "zapped": step.zapped,
    }


def cause_json(cause: Cause, totals: CauseTotals) -> dict[str, Any]:
    """Of one cause."""
    return {
        "group": cause.group,
        "windows": totals.windows,
        "pages": totals.pages,
        "in_slot": totals.in_slot,
        "outside_slots": totals.outside_slots,
        "slot_unknown": totals.slot_unknown,
        "zapped": totals.zapped,
        "zapped_at_least": totals.zapped_at_least,
        "zapped_unknown_windows": totals.zapped_unknown,
        "zapped_nothing": totals.empty,
        "refaults": totals.refaults,
        "refaults_same_page": totals.refaults_same,
        "refaults_other_page": totals.refaults_other,
        "refaults_without_exit": totals.refaults_free,
        "retries_own_window": totals.retries_own,
        "retries_other_window": totals.retries_other,
        "exits": totals.exits,
        "began_inside_another": totals.overlapped,
        "duration": totals.duration.summary(),
        "refault_after": totals.refault_after.summary(),
        "change_pte": {str(effect): count for effect, count in totals.change_pte.items()},
        "confidence": {each.name.lower(): n for each, n in totals.confidence.items()},
        "why": dict(totals.why.most_common(WHYS_MAX)),
    }
