"""Numbers that the compiled loops and their caller agree on."""

PADDING = 64
"""Bytes that can be read behind a block of text."""

# Columns of int32 about each event of a block: offsets in the block, and numbers.
(
    TASK_START,
    TASK_END,
    PID,
    CPU,
    NAME_START,
    NAME_END,
    STYLE,
    PAYLOAD_START,
    PAYLOAD_END,
    LINE,  # in the block, from 0
    FRAMES_START,  # of the lines of its stack trace: 0 where there are none
    FRAMES_END,
    LINE_START,
) = range(13)
EVENT_COLUMNS = 13  # behind them: the times, int64

# How an event's name is written.
PLAIN = 1  # name: payload
CALL = 2  # sys_name(...)
ARROW_RETURN = 3  # sys_name -> 0x0
ARROW_CALL = 4  # function <-caller, of the function tracer
STACK = 5  # <stack trace>

# Columns of int32 about each line that is none of these: offsets and numbers.
OTHER_START, OTHER_END, OTHER_LINE, OTHER_EVENT = range(4)  # OTHER_EVENT: events before it
OTHER_COLUMNS = 4

# Words about a block: what `scan` has done.
CONSUMED, EVENTS, OTHERS, LINES, SEEN, PREFIX = range(6)
INFO_WORDS = 6
# Bits of SEEN.
SECONDS, TICKS, SHORT_TASKS = 1, 2, 4

CPU_SLOTS = 8192  # CPUs that are told apart when stack traces look for their events

# Operations of a layout: four words each, the operation and its operands.
(
    LITERAL,  # offset and length of the bytes that must stand here
    HEX,  # column; 0x is optional
    SIGNED,  # column; decimal
    UNSIGNED,  # column; decimal
    WORD,  # column; up to the following literal (offset, length) or a blank
    TEXT,  # column; up to the following literal (offset, length) or the end
    SYMBOL,  # column; a name, without its suffix .constprop.0
    MODULE,  # perhaps " [kvm]"
) = range(8)
OPERATION_WORDS = 4
NO_COLUMN = -1
