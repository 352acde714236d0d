"""What `audit` prints: the answer, the table of causes, what to look at or to record next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmuwitness.report.audit_advice import look_at, record_next
from mmuwitness.report.text import wrap
from mmuwitness.trace.audit.auditor import Audit
from mmuwitness.trace.audit.change_pte import Effect
from mmuwitness.trace.audit.faults import Outcome
from mmuwitness.trace.audit.series import Distribution
from mmuwitness.trace.audit.totals import CauseTotals
from mmuwitness.trace.causes import Cause, Confidence, Source
from mmuwitness.trace.tracepoints import Kind

WIDTH = 98
COMPLETE, INCOMPLETE = 0, 3
ROWS_MAX, NAMES_MAX = 14, 6
HEAD = (
    f"{'cause':24}{'windows':>9}{'pages':>9}{'in slot':>9}{'SPTEs':>8}{'nothing':>9}"
    f"{'refaults':>10}{'retries':>9}{'exits':>8}"
)
SOURCES = tuple(source.value[0] for source in Source)
MARKS = {Confidence.CERTAIN: "", Confidence.LIKELY: " ?", Confidence.GUESS: " ??"}


def exit_code(audit: Audit) -> int:
    """0, or 3 if the trace is not whole."""
    return COMPLETE if audit.complete else INCOMPLETE


def audit_text(audit: Audit) -> str:
    """One screen."""
    lines = [*wrap(headline(audit), "", WIDTH), ""]
    if not audit.complete:
        lost = f"{audit.lost:,} events lost" if audit.lost else "not read to its end"
        lines += [*wrap(f"INCOMPLETE ({lost}): all counts are lower bounds.", "", WIDTH), ""]
    if audit.windows:
        lines += [*table(audit), ""]
    for text in details(audit):
        lines += hanging(text)
    lines += [f"{'':2}{line}" for note in audit.notes for line in wrap(note, "", WIDTH - 2)]
    for title, texts in (("Look at", look_at(audit)), ("Record next", record_next(audit))):
        if texts:
            lines += ["", title, *(line for text in texts for line in hanging(text))]
    return "\n".join(lines)


def hanging(text: str) -> list[str]:
    """Lines of at most WIDTH columns, the second and later ones indented further."""
    first, *rest = wrap(text, "  ", WIDTH)
    if not rest:
        return [first]
    return [first, *wrap(" ".join(line.strip() for line in rest), "    ", WIDTH)]


def headline(audit: Audit) -> str:
    """The answer in a sentence."""
    name = Path(audit.path).name
    if not audit.windows:
        kinds = (Kind.MN_START, Kind.KVM_START, Kind.UNMAP_HVA)
        recorded = any(audit.counts[kind] for kind in kinds)
        why = "none reached a VM" if recorded else "nothing happened, or none was recorded"
        return f"{name}: no invalidation of guest memory ({why})."
    groups = Counter[str]()
    for cause, totals in audit.totals.causes.items():
        groups[cause.group] += totals.windows
    (group, windows), *_ = groups.most_common()
    of_group = [each for cause, each in audit.totals.causes.items() if cause.group == group]
    whole = audit.totals.causes.values()
    text = f"{share(windows, audit.windows)} of {audit.windows:,} windows are {group}"
    empty = sum(each.empty for each in of_group)
    known = windows - sum(each.zapped_unknown for each in of_group)
    text += f"; {share(empty, known)} of those zapped nothing" if known else ""
    if not audit.counts[Kind.PAGE_FAULT]:
        return f"{text}; what guests paid is not recorded."
    exits = sum(each.exits for each in of_group)
    text += f"; they cost {exits:,} {plural('exit', exits)}"
    if (rest := sum(each.exits for each in whole) - exits) or len(groups) > 1:
        text += f" (all others: {rest:,})"
    return f"{text}."


def table(audit: Audit) -> list[str]:
    """A line per cause, most exits first, then most windows."""
    # What was zapped outside of windows is a cause only if a guest wanted it back.
    shown = [each for each in audit.totals.causes.items() if each[1].windows or each[1].exits]
    causes = sorted(shown, key=lambda each: (-each[1].exits, -each[1].windows))
    lines = [HEAD, *(row(cause, totals, audit) for cause, totals in causes[:ROWS_MAX])]
    if len(causes) > ROWS_MAX:
        lines.append(f"and {len(causes) - ROWS_MAX} more causes: see --json")
    marks = {marked(cause, totals)[len(cause) :].strip() for cause, totals in causes}
    legend = {"?": "? likely", "??": "?? a guess"}
    named = [legend[mark] for mark in ("?", "??") if mark in marks]
    if named:
        lines.append(f"({', '.join(named)}; the others are certain)")
    return lines


def marked(cause: Cause, totals: CauseTotals) -> str:
    """The cause, with how sure most of its windows are."""
    if cause is Cause.UNKNOWN:
        return str(cause)
    sure = totals.confidence.most_common(1)[0][0] if totals.confidence else Confidence.LIKELY
    return str(cause) + MARKS[sure]


def row(cause: Cause, totals: CauseTotals, audit: Audit) -> str:
    """A line of the table; a dash is unknown."""
    faults = bool(audit.counts[Kind.PAGE_FAULT])
    known = totals.windows > totals.zapped_unknown or not totals.windows
    zapped = f"{'>=' if totals.zapped_at_least else ''}{totals.zapped:,}" if known else "-"
    slots = f"{totals.in_slot:,}"
    if totals.slot_unknown:
        slots = f">={slots}" if totals.in_slot else "-"
    refaults = f"{totals.refaults:,}" if known and faults else "-"
    retries = f"{totals.retries_own + totals.retries_other:,}" if faults else "-"
    return (
        f"{marked(cause, totals):24}{totals.windows:9,}{totals.pages:9,}{slots:>9}{zapped:>8}"
        f"{f'{totals.empty:,}' if known else '-':>9}{refaults:>10}{retries:>9}"
        f"{f'{totals.exits:,}' if faults else '-':>8}"
    )


def details(audit: Audit) -> Iterator[str]:
    """What else there is to say, a sentence each."""
    totals = audit.totals
    whole = list(totals.causes.values())
    yield from times(audit)
    if sum(each.refaults for each in whole):
        yield refaults(whole)
    own, other = sum(w.retries_own for w in whole), sum(w.retries_other for w in whole)
    if own or other:
        inferred = totals.faults_inferred
        how = f" ({inferred:,} told by their coming back for the same page)" if inferred else ""
        yield f"Retries: {own:,} by the fault's own window, {other:,} by someone else's{how}."
    if effects := sum((each.change_pte for each in whole), Counter[Effect]()):
        said = ", ".join(f"{count:,} {effect}" for effect, count in effects.most_common())
        yield f"change_pte: {effects.total():,} calls; {said}."
    if totals.migrated:
        said = ", ".join(f"{count:,} ({why})" for why, count in totals.migrated.most_common())
        yield f"Pages migrated: {said}."
    yield from storm_lines(audit)
    if totals.gfns:
        hot = ", ".join(f"{gfn:#x} {n:,}" for (_, gfn), n in totals.gfns.most_common(NAMES_MAX))
        yield f"Hottest gfns (zaps and retries): {hot}."
    yield from guests(audit)
    if totals.zapped_elsewhere:
        yield (
            f"{totals.zapped_elsewhere:,} SPTEs were zapped outside of all windows "
            "(memslot change or teardown)."
        )
    if audit.unmatched_starts or audit.unmatched_ends:
        yield (
            f"{audit.unmatched_starts:,} windows without an end, {audit.unmatched_ends:,} ends "
            "without a start."
        )
    yield told_by(whole)
    yield source(audit)


def told_by(whole: list[CauseTotals]) -> str:
    """What said the causes, by the kind of evidence."""
    found = Counter[str]()
    for totals in whole:
        for why, count in totals.why.items():
            kind = next((each for each in SOURCES if why.startswith(each)), "nothing")
            found[kind] += count
    said = ", ".join(f"{kind} {count:,}" for kind, count in found.most_common())
    return f"Causes told by: {said or 'nothing'}."


def times(audit: Audit) -> Iterator[str]:
    """Distributions, from the trace's own stamps."""
    whole = audit.totals.causes
    slow = [(cause, each) for cause, each in whole.items() if each.duration.count]
    slow.sort(key=lambda each: -(each[1].duration.max or 0))
    for cause, each in slow[:2]:
        overlapped = (
            f"; {each.overlapped:,} began while another was open" if each.overlapped else ""
        )
        yield f"Windows of {cause}: {quantiles(each.duration)}{overlapped}."
    if audit.totals.fault_time.count:
        yield f"Guest faults: {quantiles(audit.totals.fault_time)}."


def refaults(whole: list[CauseTotals]) -> str:
    """What came back, and how soon."""
    count = sum(each.refaults for each in whole)
    same, other = sum(e.refaults_same for e in whole), sum(e.refaults_other for e in whole)
    free = sum(each.refaults_free for each in whole)
    slowest = max(whole, key=lambda each: each.refaults)
    text = f"Refaults: {count:,}; {same:,} of the same page frame, {other:,} of another"
    text += f"; {free:,} came back without an exit" if free else ""
    return f"{text}; after {quantiles(slowest.refault_after)}."


def storm_lines(audit: Audit) -> Iterator[str]:
    """The bursts, biggest first."""
    if not audit.storms:
        return
    storm = audit.storms[0]
    causes = ", ".join(f"{cause} {count:,}" for cause, count in list(storm.causes.items())[:3])
    yield (
        f"Storms: {len(audit.storms):,}. The biggest, from "
        f"{(storm.start - audit.start) / 1e9:.3f} s for {ns(storm.end - storm.start)}: "
        f"{storm.windows:,} windows and {storm.retries:,} retries ({storm.rate:,.0f}/s): {causes}."
    )


def guests(audit: Audit) -> Iterator[str]:
    """Per VM and vCPU."""
    totals = audit.totals
    if len(totals.vms) > 1:
        said = ", ".join(f"VM {vm} {count.total():,}" for vm, count in sorted(totals.vms.items()))
        yield f"Windows per VM: {said}."
    exits = totals.exits.total()
    if exits or totals.faults:
        reasons = ", ".join(f"{why} {n:,}" for why, n in totals.exits.most_common(3))
        faults = ", ".join(f"{n:,} {outcome}" for outcome, n in totals.faults.most_common())
        said = f"Exits of guests: {exits:,} ({reasons}); faults" if exits else "Guests' faults"
        yield f"{said}: {totals.faults.total():,} ({faults})."
    busy = sorted(totals.vcpus.values(), key=lambda vcpu: -vcpu.caused)
    if len(busy) > 1:
        said = ", ".join(f"{v.task}-{v.pid} {v.caused:,}" for v in busy[:NAMES_MAX])
        yield f"Exits caused by windows, per vCPU: {said}."


def source(audit: Audit) -> str:
    """What the numbers are from."""
    kernel = " ".join(filter(None, (audit.dialect.arch, audit.dialect.mmu, audit.release)))
    text = f"{audit.format}, {kernel or 'unknown kernel'}, {audit.duration / 1e9:.3f} s, "
    text += f"{sum(audit.events.values()):,} events."
    if audit.emulated:
        text += " The time stamps look emulated: order and counts are real, times are not"
        text += " performance."
    elif audit.emulated is None:
        text += " Too few events to tell whether the CPU was emulated."
    return text


def quantiles(values: Distribution) -> str:
    """`p50 12 us, p99 3.4 ms, max 5 ms`."""
    parts = (("p50", values.at(0.5)), ("p99", values.at(0.99)), ("max", values.max))
    return ", ".join(f"{name} {ns(value or 0)}" for name, value in parts)


def ns(value: int) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if value >= size:
            number = value / size
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{value} ns"


def share(part: int, whole: int) -> str:
    """A percentage that is 0 or 100 only if it is."""
    percent = round(100 * part / whole) if whole else 0
    if percent == 100 and part < whole:
        return "over 99 %"
    return "under 1 %" if percent == 0 and part else f"{percent} %"


def plural(word: str, count: int) -> str:
    """`exit` or `exits`."""
    return word if count == 1 else f"{word}s"


def in_outcomes(counts: Counter[Outcome]) -> dict[str, int]:
    """By name, most frequent first."""
    return {str(outcome): count for outcome, count in counts.most_common()}
