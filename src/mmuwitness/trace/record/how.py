"""How to record without this program: the same steps, as lines for a shell and for trace-cmd."""

from __future__ import annotations

import shlex
from pathlib import Path

from mmuwitness.trace.record.host import Host
from mmuwitness.trace.record.plan import Plan
from mmuwitness.trace.record.tracefs import MOUNT_POINT


def how_text(host: Host, plan: Plan, out: Path) -> str:
    """What to type as root on this host. Works without root as far as the kernel tells."""
    root = host.tracefs.root if host.tracefs else MOUNT_POINT
    parts = [
        [f"# For kernel {host.release} on {host.machine}, as root."],
        [f"# {note}" for note in known_from(host) + plan.notes],
        ["", "# With a shell:", *shell_lines(root, plan, out)],
        ["", "# Or with trace-cmd:", *trace_cmd_lines(root, plan)],
        ["", f"# Then: mmuwitness audit {out}, or mmuwitness audit trace.dat"],
    ]
    return "\n".join(line for part in parts for line in part)


def known_from(host: Host) -> list[str]:
    if host.tracefs:
        return []
    if host.btf is None:
        return ["tracefs and BTF cannot be read: a line for an event that is not there will fail"]
    return ["tracefs cannot be read: which tracepoints there are is known from BTF"]


def shell_lines(root: Path, plan: Plan, out: Path) -> list[str]:
    instance = plan.instance
    last = f"{instance}/tracing_on"
    return [
        f"mountpoint -q {root} || mount -t tracefs nodev {root}",
        f"cd {root}",
        *(step.shell() for step in (*plan.steps(), plan.last_step)),
        f"cat {instance}/trace_pipe > {shlex.quote(str(out.absolute()))}  # Ctrl-C ends it",
        f"echo 0 >> {last}",
        f"cat {instance}/per_cpu/cpu*/stats | grep -E 'overrun|dropped'  # lost events: all 0?",
        f"echo 0 >> {instance}/events/enable",
        f"rmdir {instance}",
        *removal_lines(plan),
    ]


def removal_lines(plan: Plan) -> list[str]:
    return [f"echo '-:{plan.group}/{line.event}' >> kprobe_events" for line in plan.probes]


def trace_cmd_lines(root: Path, plan: Plan) -> list[str]:
    probes = [step.shell() for step in plan.steps() if step.path == "kprobe_events"]
    command = ["trace-cmd record", f"-C {plan.clock} -b {plan.buffer_kb} -o trace.dat"]
    command += [f"-P {thread}" for thread in plan.threads]
    for path in plan.events:
        stack = " -R stacktrace" if path in plan.stacks else ""
        command.append(f"-e {path.replace('/', ':')}{stack}")
    command += [f"-e {plan.group}"] if probes else []
    back = [f"cd {root}", *probes, "cd -"] if probes else []
    return [
        *back,
        " \\\n    ".join(command),
        *([f"cd {root}", *removal_lines(plan), "cd -"] if probes else []),
    ]
