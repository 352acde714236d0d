"""How `simulate` answers in sentences: what a design saves, what it is worth, and where it pays."""

from __future__ import annotations

from mmuwitness.simulate.meters import DO_NOTHING, EXITS, PAGE_BYTES, SAVED, Meter
from mmuwitness.simulate.paired import Interval
from mmuwitness.simulate.price import BreakEven, Comparison, Pays, Study

MIB = 1 << 20
SAVED_PAGES = Meter("pages saved", (SAVED,), gauge=True)


def answer(study: Study) -> list[str]:
    """A paragraph for each design beside the baseline, then what it all costs at all."""
    if not study.comparisons and DO_NOTHING not in study.designs:
        return [alone(study)]
    found = [about(each) for each in study.comparisons]
    return [*found, *at_all(study)]


def alone(study: Study) -> str:
    """One design, and nothing beside it."""
    seconds = study.of(study.baseline)[0].guest_seconds
    exits = study.mean(study.baseline, Meter("exits", (EXITS,)))
    cpu = study.cpu_seconds(study.baseline)
    return (
        f"{study.baseline}: {number(exits)} exits in {number(seconds)} s of guest time, "
        f"{number(cpu.typical)} s of CPU time ({number(cpu.low)} to {number(cpu.high)} by the "
        "costs). Give a second design to compare it with."
    )


def about(found: Comparison) -> str:
    """What this design saves, what that is worth here, and where it pays."""
    said = [f"{found.design} {exits(found)},", worth(found), where(found), *turned_by(found)]
    return " ".join([*said, stall(found), *memory(found)])


def turned_by(found: Comparison) -> list[str]:
    """Where it pays is said of the price of an exit: another one may matter more."""
    turns = [each.name.rpartition(".")[2] for each in found.sensitivities if each.flips]
    others = [name for name in turns if name != EXITS.rpartition(".")[2]]
    return [f"The cost of {' or '.join(others[:3])} can turn that round."] if others else []


def exits(found: Comparison) -> str:
    """`saves 1.02 exits per merged page that is read again (95 %: 0.98 to 1.06)`."""
    mean = found.exits.mean
    if mean == 0:
        return "has as many exits"
    verb, more = ("saves", "") if mean < 0 else ("costs", " more")
    words, count = found.exits_per_unit or ("run", mean)
    text = f"{verb} {number(abs(count))}{more} exits per {words}"
    if found.exits.half is None:
        return f"{text} (one seed, no interval)"
    half = found.exits.half * abs(count / mean)
    if not found.exits.sign_is_sure:
        low, high = number(count - half), number(count + half)
        return f"makes no sure difference in exits (95 %: {low} to {high} per {words})"
    return f"{text} (95 %: {number(abs(count) - half)} to {number(abs(count) + half)})"


def worth(found: Comparison) -> str:
    """`worth 0.03 % of one CPU here (0.02 to 0.05 by the costs).`"""
    seconds, costs = found.cpu_seconds, found.cpu_seconds_by_costs
    low, high = (percent(each / found.guest_seconds) for each in (costs.low, costs.high))
    by_costs = f"({low} to {high} by the costs)"
    if seconds.mean == 0:
        return f"and takes as much CPU time {by_costs}."
    share = percent(abs(found.cpu_share))
    if seconds.mean < 0:
        low, high = (percent(-each / found.guest_seconds) for each in (costs.high, costs.low))
        by_costs = f"({low} to {high} by the costs)"
        unsure = found.exits.half and not found.exits.sign_is_sure
        word = "worth" if found.exits.mean < 0 and not unsure else "but saves"
        return f"{word} {share} % of one CPU here {by_costs}."
    word = "but takes" if found.exits.mean < 0 else "and takes"
    return f"{word} {share} % more of one CPU here {by_costs}."


def where(found: Comparison) -> str:
    """`It pays only where an exit costs more than 400 ns; the table says 450 to 2,000 ns.`"""
    even, cpu = found.break_even, found.cpu_seconds
    if found.exits.half and not found.exits.sign_is_sure:
        if not cpu.sign_is_sure:
            return "Whether it pays, its seeds do not tell."
        word = "pays" if cpu.mean < 0 else "does not pay"
        return f"It {word}, for other reasons than exits."
    text = f"It {how(even)}"
    kinds = {each.pays for each in found.break_even_by_seed}
    if len(kinds) > 1:
        return f"{text}, by the means; single seeds say otherwise ({', '.join(sorted(kinds))})."
    if even.ns is None:
        return f"{text}, whatever an exit costs."
    turns = [each.ns for each in found.break_even_by_seed if each.ns is not None]
    if len(turns) > 1:
        text += f" (by seed: {ns_range(min(turns), max(turns))})"
    if EXITS not in found.costs:
        return f"{text}."
    spread = found.costs[EXITS].ns
    paying = {even.pays_at(each) for each in (spread.low, spread.high)}
    verdict = (
        "it may or may not" if len(paying) == 2 else "it does" if True in paying else "it does not"
    )
    return f"{text}; the table says {ns_range(spread.low, spread.high)}, so {verdict}."


def how(even: BreakEven) -> str:
    """`pays only where an exit costs more than 400 ns`."""
    if even.ns is None:
        return str(even.pays)
    word = "more" if even.pays is Pays.ABOVE else "less"
    return f"pays only where an exit costs {word} than {ns(even.ns)}"


def stall(found: Comparison) -> str:
    """What guests wait for exits and locks."""
    seconds = found.stall_seconds
    if seconds.mean == 0:
        return "Guests lose as much time."
    word = "more" if seconds.mean > 0 else "less"
    whole = sum(base.stall_ns for base, _ in found.pairs) / len(found.pairs) / 1e9
    perhaps = "" if seconds.half is None or seconds.sign_is_sure else ", not sure by its seeds"
    return f"Guests lose {ns(abs(seconds.mean) * 1e9)} {word} (of {ns(whole * 1e9)}{perhaps})."


def memory(found: Comparison) -> list[str]:
    """What it does to the memory that is saved, where any is."""
    if not any(SAVED_PAGES.read(run) for pair in found.pairs for run in pair):
        return []
    pages = found.difference(SAVED_PAGES)
    if pages.mean == 0:
        return ["It saves as much memory."]
    word = "more" if pages.mean > 0 else "less"
    perhaps = "" if pages.half is None or pages.sign_is_sure else " (not sure by its seeds)"
    return [f"It saves {number(abs(pages.mean) * PAGE_BYTES / MIB)} MiB {word}{perhaps}."]


def at_all(study: Study) -> list[str]:
    """The baseline beside doing nothing."""
    if DO_NOTHING not in study.designs or study.baseline == DO_NOTHING:
        return []
    found = study.compare(study.baseline, DO_NOTHING)
    saved = found.difference(SAVED_PAGES).mean * PAGE_BYTES / MIB
    return [
        f"Beside doing nothing, {study.baseline} takes {signed(found.cpu_share * 100)} % of one "
        f"CPU, has {signed(found.exits.mean)} exits, and saves {number(saved)} MiB."
    ]


def plus_minus(found: Interval, scale: float = 1.0) -> str:
    """`-300 ± 12`; of one seed, without."""
    text = signed(found.mean * scale)
    return text if found.half is None else f"{text} ±{number(found.half * scale)}"


def signed(value: float) -> str:
    """With its sign, unless it is 0."""
    return number(value) if value <= 0 else f"+{number(value)}"


def percent(share: float) -> str:
    """A share in percent, without the sign of it."""
    return number(share * 100)


def number(value: float) -> str:
    """Three digits that matter, and all before the point up to eight: 1,234, 12.3, 1.2e-07."""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e8:
        return f"{value:.4g}".replace("e+", "e")
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size < 1e-4:
        return f"{value:.1e}"
    return f"{value:.3g}"


def ns(value: float) -> str:
    """A time in the unit that suits it."""
    for unit, size, least in (("s", 1e9, 1e9), ("ms", 1e6, 1e6), ("us", 1e3, 1e4)):
        if value >= least:
            return f"{number(value / size)} {unit}"
    return f"{number(value)} ns"


def ns_range(low: float, high: float) -> str:
    """`450 to 2,000 ns`."""
    first, last = ns(low), ns(high)
    unit = last.rpartition(" ")[2]
    return f"{first.removesuffix(f' {unit}')} to {last}"
