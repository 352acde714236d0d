"""mm/*.c: the primary MMU, one module for one kernel file."""
