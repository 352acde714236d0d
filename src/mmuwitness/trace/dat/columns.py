"""The words that the loops of core and their callers share: what stands where in their arrays."""

from __future__ import annotations

# Of an event in a block of sub-buffers: a row of int64 each.
COLUMNS = ("time", "start", "size", "type", "pid", "lost", "place")
TIME, START, SIZE, TYPE, PID, LOST, PLACE = range(len(COLUMNS))
COLUMN_COUNT = len(COLUMNS)
TYPES = 1 << 16  # a type has 16 bits
EVENT_BYTES_MIN = 8  # in a sub-buffer: 4 of header and 4 of data

# What a sub-buffer looks like, and the fields that all events have.
LAYOUT = (
    "page_bytes",
    "commit_offset",
    "commit_size",
    "data_offset",
    "big_endian",
    "type_offset",
    "type_size",
    "pid_offset",
    "common_end",
)
(
    PAGE_BYTES,
    COMMIT_OFFSET,
    COMMIT_SIZE,
    DATA_OFFSET,
    BIG_ENDIAN,
    TYPE_OFFSET,
    TYPE_SIZE,
    PID_OFFSET,
    COMMON_END,
) = range(len(LAYOUT))

# What is carried from block to block of one CPU.
PENDING_LOST, DAMAGED_PAGES, DAMAGED_PLACE, STATE_WORDS = range(4)
NONE_LOST, UNKNOWN_LOST = 0, -1

# Functions of core with the number of their arguments.
ENTRIES = {
    "walk": 7,
    "arrange": 5,
    "group": 6,
    "numbers": 7,
    "text_sizes": 4,
    "copy_texts": 4,
    "intern": 6,
    "own_stacks": 6,
}
SOURCES = ("trace/dat/core.py", "trace/dat/columns.py")
