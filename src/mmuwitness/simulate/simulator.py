"""One run: a workload on a design, sampled over guest time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmuwitness.simulate.designs import Design, Kernel
from mmuwitness.simulate.engine import Engine
from mmuwitness.simulate.meters import Run, Value, stall
from mmuwitness.simulate.program import ManyProgram
from mmuwitness.simulate.records import Came, Kind
from mmuwitness.simulate.workloads import WORKLOADS
from mmuwitness.simulate.workloads.workload import SECOND, Workload

SAMPLES = 60

FLUSH_IPI = "flush ipi"

Progress = Callable[[float], None]


def simulate(
    workload: str,
    design: Design,
    kernel: Kernel,
    seed: int,
    parameters: Mapping[str, Value],
    costs: Mapping[str, int],
    progress: Progress | None = None,
) -> Run:
    """costs: ns by the name of what takes them.  progress is told the share that is done."""
    made = WORKLOADS[workload](parameters, kernel, seed)
    program = ManyProgram(made.guests[0], made.all_calls(), costs)
    for position, name in enumerate(program.tables.costs):
        program.costs[position] = costs[name]
    vcpus = int(made["vcpus"]) * made.count
    engine = Engine(program, made.guests, vcpus + made.count + 16, costs.get(FLUSH_IPI, 0))
    made.start(engine)
    series = run_to_end(engine, made, made["hours"] * 3600, progress)
    return Run(
        workload=workload,
        design=design.name,
        seed=seed,
        parameters=dict(parameters),
        guest_seconds=engine.now / SECOND,
        counters=counters(engine, made),
        cpu_ns=cpu(engine),
        stall_ns=int(engine.tasks["stalled"].sum()),
        series=series,
    )


def run_to_end(
    engine: Engine, workload: Workload, seconds: float, progress: Progress | None
) -> dict[str, list[float]]:
    """Samples, the first at the start; Ctrl-C ends the run where it is."""
    series: dict[str, list[float]] = {}
    sample(engine, workload, series)
    try:
        for number in range(1, SAMPLES + 1):
            until = round(seconds * SECOND * number / SAMPLES)
            while engine.run(until) is Came.PASS:
                workload.passed(engine)
            sample(engine, workload, series)
            if progress:
                progress(number / SAMPLES)
    except KeyboardInterrupt:
        pass
    return series


def sample(engine: Engine, workload: Workload, series: dict[str, list[float]]) -> None:
    now: dict[str, float] = {
        "seconds": engine.now / SECOND,
        "exits": float(engine.tasks["exits"].sum() + engine.tasks["retries"].sum()),
        **workload.gauges(),
    }
    for name, value in now.items():
        series.setdefault(name, []).append(value)


def counters(engine: Engine, workload: Workload) -> dict[str, int]:
    tasks = engine.tasks
    vcpus = tasks[tasks["kind"] == Kind.VCPU]
    found: dict[str, int] = engine.program.counters() | {
        "guest touches": int(vcpus["touches"].sum()),
        "guest writes": int(vcpus["writes"].sum()),
        "fault first": int(vcpus["exits"].sum() - vcpus["refaults"].sum()),
        "fault refault": int(vcpus["refaults"].sum()),
        "fault retry": int(vcpus["retries"].sum()),
        "exit read": int(vcpus["reads"].sum()),
        "exit write, absent": int(vcpus["writes_absent"].sum()),
        "exit write, protected": int(vcpus["writes_protected"].sum()),
        FLUSH_IPI: int(vcpus["kicked"].sum()),
        "ksm read again": int(vcpus["read_merged"].sum()),
    }
    found |= {stall(bits): int(count) for bits, count in enumerate(engine.stalls.sum(0)) if count}
    found |= {name: int(value) for name, value in workload.gauges().items()}
    return found | workload.derived(found)


def cpu(engine: Engine) -> dict[str, int]:
    """CPU time by the name of what a task does."""
    spent: dict[str, int] = {}
    for task in engine.tasks[: engine.made]:
        name = engine.program.operations[int(task["own"])].name
        name = "vcpu exits" if name == "touch" else name
        spent[name] = spent.get(name, 0) + int(task["spent"])
    return spent


GIB = {"K": 2**-20, "M": 2**-10, "G": 1, "T": 2**10}


def resolved(workload: str, given: Mapping[str, Any]) -> dict[str, Value]:
    """The parameters of a workload, with defaults for what is not given.  ValueError says which is
    unknown or out of range, and what exists."""
    known = WORKLOADS[workload].parameters
    found = {name: each.default for name, each in known.items()}
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{workload} has no parameter {name!r}; it has: {', '.join(known)}")
        if isinstance(known[name].default, str):
            found[name] = value
            continue
        found[name] = meant = number(name, value)
        least, most = known[name].least, known[name].most
        if not least <= meant <= most:
            raise ValueError(f"{name} is {value}: {least} to {most} are possible")
    return found


def number(name: str, value: Any) -> int | float | bool:
    """As given; or GiB, of a text like 512M or 4G."""
    if isinstance(value, int | float):
        return value
    text = str(value).upper().removesuffix("IB")
    try:
        return float(text[:-1]) * GIB[text[-1:]] if text[-1:] in GIB else float(text)
    except ValueError:
        raise ValueError(f"{name} is {value!r}: a number, or a size like 512M or 4G") from None
