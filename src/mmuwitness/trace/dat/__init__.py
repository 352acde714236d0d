"""trace-cmd's binary trace.dat, as the event table."""
