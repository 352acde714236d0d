"""What the kernel calls an event, from how its name is printed."""

from __future__ import annotations

from typing import NamedTuple

from mmuwitness.trace.text.columns import ARROW_CALL, ARROW_RETURN, CALL, STACK

KERNEL_STACK, USER_STACK = "kernel_stack", "user_stack"


class EventName(NamedTuple):
    event: str
    style: int
    group: str  # perf's, or empty
    is_stack: bool


def event_name(printed: str, style: int) -> EventName:
    """What an event is called by the kernel, from how a report prints it."""
    if style == STACK:
        kernel = printed == "<stack trace>"
        return EventName(KERNEL_STACK if kernel else USER_STACK, style, "", kernel)
    if style == ARROW_CALL:
        return EventName("function", style, "", False)
    group, _, name = printed.rpartition(":")
    if name.startswith("sys_") and style == CALL:
        name = "sys_enter_" + name.removeprefix("sys_")
    elif name.startswith("sys_") and style == ARROW_RETURN:
        name = "sys_exit_" + name.removeprefix("sys_")
    return EventName(name, style, group, name == KERNEL_STACK)
