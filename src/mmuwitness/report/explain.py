"""What `explain` and `list` print about scenarios, claims, kernels, features, arches, functions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from mmuwitness.model.bugs.bug import Bug, corpus
from mmuwitness.model.claims import CLAIMS, EVENTUALLY, Claim
from mmuwitness.model.era import Era, UnknownName, rows_of
from mmuwitness.model.features import FEATURES
from mmuwitness.model.features.feature import Feature
from mmuwitness.model.functions import functions
from mmuwitness.model.host import ARCHES
from mmuwitness.model.releases import RELEASES
from mmuwitness.model.scenarios import LARGE, SCENARIOS
from mmuwitness.model.scenarios.scenario import Scenario
from mmuwitness.process.marks import marks
from mmuwitness.report.text import wrap

KINDS = ("scenarios", "claims", "arches", "eras", "features", "functions", "marks", "bugs")


def list_text(kind: str) -> str:
    """One line for each thing of a kind; UnknownName lists the kinds."""
    if kind == "scenarios":
        return table(
            (s.name, first_sentence(s.text)) for s in (*SCENARIOS.values(), *LARGE.values())
        )
    if kind == "claims":
        return table((f"{c.name}", f"{c.number or c.kind}: {c.text}") for c in all_claims())
    if kind == "arches":
        return table((a.name, first_sentence(type(a).__doc__ or "")) for a in ARCHES.values())
    if kind == "eras":
        return (
            "\n".join(wrap(" ".join(RELEASES), "")) + "\nand every stable level of them (v6.1.36)"
        )
    if kind == "features":
        return table((row.name, f"{dates(row)}: {row.note}") for row in FEATURES)
    if kind == "functions":
        return table((n, first_sentence(inspect.getdoc(f) or "")) for n, f in functions().items())
    if kind == "marks":
        return table((mark, f"in {function}()") for mark, function in marks().items())
    if kind == "bugs":
        return table((bug.id, f"{bug.arch}: {bug.text}") for bug in corpus().values())
    raise UnknownName("kind", kind, KINDS)


def first_sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].rstrip(".")


def table(rows: Iterable[tuple[str, str]]) -> str:
    lines = []
    for name, text in rows:
        wrapped = wrap(text, "", 66)
        lines.append(
            f"{name:26} {wrapped[0]}" if len(name) < 26 else f"{name}\n{'':27}{wrapped[0]}"
        )
        lines += [f"{'':27}{line}" for line in wrapped[1:]]
    return "\n".join(line.rstrip() for line in lines)


def dates(row: Feature) -> str:
    since = row.since or "before v2.6.32"
    return f"{since} to before {row.until}" if row.until else f"since {since}"


def explain_text(name: str) -> str:
    """What is known under a name, of whatever kind."""
    for described in (
        ()
        if not name
        else (
            explain_scenario(name),
            explain_claim(name),
            explain_arch(name),
            explain_feature(name),
            explain_function(name),
            explain_era(name),
            explain_bug(name),
        )
    ):
        if described:
            return described
    known = [
        *SCENARIOS,
        *LARGE,
        *CLAIMS,
        *EVENTUALLY,
        *ARCHES,
        *{row.name for row in FEATURES},
        *functions(),
        *corpus(),
    ]
    raise UnknownName("name", name, known, "see `mmuwitness list KIND`")


def all_claims() -> list[Claim]:
    return [*CLAIMS.values(), *EVENTUALLY.values()]


def explain_scenario(name: str) -> str:
    scenario: Scenario | None = SCENARIOS.get(name) or LARGE.get(name)
    if scenario is None:
        return ""
    lines = [
        f"scenario {name}",
        *wrap(scenario.text, "  "),
        *wrap(f"Bounds: {scenario.bounds}.", "  "),
    ]
    return "\n".join([*lines, f"  Run: mmuwitness check {name}"])


def explain_claim(name: str) -> str:
    claims = [c for c in all_claims() if name in (c.name, c.number)]
    if not claims:
        return ""
    claim: Claim = claims[0]
    lines = [
        f"claim {claim.name} {claim.number}".rstrip() + f", {claim.kind}",
        *wrap(claim.text, "  "),
    ]
    if claim.locks:
        lines.append(f"  Read when free: {', '.join(claim.locks)}.")
    return "\n".join(lines)


def explain_arch(name: str) -> str:
    made = ARCHES.get(name)
    if made is None:
        return ""
    module = inspect.getmodule(type(made))
    docs = [(module.__doc__ or "") if module else "", type(made).__doc__ or ""]
    lines = [f"arch {name}"]
    for doc in docs:
        lines += wrap(" ".join(doc.split()), "  ")
    return "\n".join(lines)


def explain_feature(name: str) -> str:
    try:
        rows = rows_of(name)
    except UnknownName:
        return ""
    lines = [f"feature {name}"]
    for row in rows:
        arches = f" on {', '.join(row.arches)}" if row.arches else ""
        lines += wrap(f"{dates(row)}{arches}: {row.note}.", "  ")
        if row.commit:
            lines += wrap(f'commit {row.commit} ("{row.subject}")', "    ")
        if row.until_commit:
            lines += wrap(f'until commit {row.until_commit} ("{row.until_subject}")', "    ")
        if row.backports:
            lines += wrap(f"backported: {', '.join(row.backports)}", "    ")
        lines.append(f"    known from: {row.source}")
    return "\n".join(lines)


def explain_era(name: str) -> str:
    try:
        era = Era(name)
    except ValueError:
        return ""
    lines = [f"kernel {era}"]
    for arch in sorted({a.kernel_arch for a in ARCHES.values()}):
        present = sorted(era.features(arch))
        lines += wrap(f"{arch}: {', '.join(present)}", "  ")
    return "\n".join(lines)


def explain_function(name: str) -> str:
    function = functions().get(name)
    if function is None:
        return ""
    assert inspect.isfunction(function)
    module = inspect.getmodule(function)
    kernel_file = (module.__doc__ or "").split(":")[0] if module else ""
    signature = f"{name}{inspect.signature(function)}"
    lines = [f"function {signature}", f"  of {kernel_file}"]
    doc = inspect.getdoc(function)
    return "\n".join([*lines, *(wrap(" ".join(doc.split()), "  ") if doc else [])])


def explain_bug(name: str) -> str:
    """What is known of a bug; "" if none has that id."""
    bug = corpus().get(name.upper())
    if bug is None:
        return ""
    claim = bug.violates
    lines = [f"bug {bug.id}", *wrap(bug.text, "  ")]
    lines += wrap(f"{citation(bug)}.", "  ")
    lines += wrap(bug.reference, "  ")
    lines.append(f"    known from: {bug.source}")
    lines += wrap(f"Violates {claim.number} {claim.name}: {claim.text}", "  ")
    lines += wrap(f"Scenario: {bug.scenario.text}", "  ")
    lines += wrap(f"Bounds: {bug.scenario.bounds}.", "  ")
    lines += wrap(f"With the bug: {bug.arch}, {kernel_text(bug, True)}.", "  ")
    lines += wrap(f"With the fix: {bug.arch}, {kernel_text(bug, False)}.", "  ")
    return "\n".join([*lines, f"  Run: mmuwitness check --bug {bug.id}"])


def kernel_text(bug: Bug, broken: bool) -> str:
    """`v6.1 -prefetch_guard`, and the functions that stand in the place of others."""
    era, functions = (bug.broken_era, bug.broken) if broken else (bug.fixed_era, bug.mended)
    names = [name.rpartition(".")[2] for name in functions]
    own = f" with its own {', '.join(f'{name}()' for name in names)}" if names else ""
    return f"{era}{own}"


def citation(bug: Bug) -> str:
    """The commit, what it did, and in which release."""
    what = "brought by" if bug.unfixed else "fixed by"
    known = "" if bug.verified else ", unverified"
    return f'{what} {bug.commit} ("{bug.subject}") in {bug.release}{known}'


def steps_text(name: str, scenario: str, era: Era, arch: str) -> str:
    """A function's source with a mark at every line where a step may begin in a scenario."""
    from mmuwitness.explore.programs import fold_scenario
    from mmuwitness.model.scenarios import find_scenario

    function = functions().get(name)
    if not inspect.isfunction(function):
        raise UnknownName("function", name, list(functions()))
    program = fold_scenario(find_scenario(scenario), era, arch)
    begins: dict[int, set[str]] = {}
    used = False
    for each in program.steps:
        used = used or any(n.endswith(f".{name}") for n in each.process.functions)
        for boundary in each.boundaries:
            op = boundary.op
            if op is not None and op.where.function == function.__name__:
                what = f"{op.code} {op.field.key}" if op.field else op.code
                begins.setdefault(op.where.line, set()).add(f"{each.process.name}: {what}")
    source, start = inspect.getsourcelines(function)
    lines = [f"{name}() in {scenario} on {arch}, {era}: > marks where a step begins"]
    if not used:
        lines.append("  (no process of this scenario calls it)")
    for offset, line in enumerate(source):
        notes = "; ".join(sorted(begins.get(start + offset, ())))
        mark = ">" if notes else " "
        lines.append(f"{mark} {line.rstrip():64}{'  # ' + notes if notes else ''}".rstrip()[:100])
    return "\n".join(lines)
