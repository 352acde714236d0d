"""What Perfetto shows of a window, a zap or a fault that is clicked on; None is left out."""

from __future__ import annotations

from collections import Counter

from mmuwitness.report.perfetto_writer import Details, Hex, Value, hexadecimal
from mmuwitness.trace.audit.faults import Fault, Outcome, Zap
from mmuwitness.trace.causes import EVENT_TYPES, Cause
from mmuwitness.trace.windows import Window

EVENTS = dict[int | None, str](enumerate(EVENT_TYPES))


def window_details(window: Window, cause: Cause) -> Details:
    """Of a window, as far as known."""
    verdict = window.verdict
    effects = Counter(str(each) for each in window.effects)
    return {
        "cause": str(cause),
        "confidence": verdict.confidence.name.lower() if verdict else "not all was known",
        "because of": verdict.why if verdict else None,
        "hva start": hexadecimal(window.start),
        "hva end": hexadecimal(window.end),
        "pages": window.pages,
        "gfns": [f"{start:#x} to {end - 1:#x}" for start, end in window.parts] or None,
        "VMs": [str(vm) for vm in window.vms] or None,
        "in a memslot": window.in_slot,
        "SPTEs zapped": window.zapped,
        "SPTEs zapped is a lower bound": True if window.at_least else None,
        "change_pte": [f"{count} {effect}" for effect, count in effects.items()] or None,
        "retries of its own fault": window.retries_own,
        "retries of others": window.retries_other,
        "windows open when it began": window.overlaps,
        "event type": EVENTS.get(window.event_type),
        "window": window.number,
        "stack": window.stack,
        "end": None if window.closed is not None else "not recorded",
    }


def zap_details(zap: Zap) -> Details:
    """Of an SPTE that was zapped."""
    return {
        "gfn": Hex(zap.gfn),
        "pfn": hexadecimal(zap.pfn),
        "level": zap.level,
        "VM": zap.tag.vm,
        "window": zap.tag.number,
    }


def fault_details(fault: Fault) -> Details:
    """Of a guest's fault."""
    zap, culprit = fault.refault_of, fault.culprit
    details: dict[str, Value] = {
        "gfn": hexadecimal(fault.gfn),
        "hva": hexadecimal(fault.hva),
        "pfn": hexadecimal(fault.pfn),
        "error code": hexadecimal(fault.error_code),
        "outcome": str(fault.outcome),
        "outcome is known": "because the guest came back" if fault.inferred else None,
    }
    if zap is not None:
        known = zap.pfn is not None and fault.pfn is not None
        details |= {
            "zapped by": str(zap.tag.cause),
            "zapped by window": zap.tag.number,
            "ns since the zap": fault.time - zap.time,
            "same page as before": zap.pfn == fault.pfn if known else None,
        }
    if fault.outcome is Outcome.RETRY:
        details |= {
            "retry because of": str(fault.cause),
            "retry because of window": culprit.number if culprit else None,
            "retry because of its own window": culprit is not None and culprit is fault.own,
        }
    return details
