"""Text of ftrace, trace-cmd and perf, as the event table."""
