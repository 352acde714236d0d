"""lib/*.c: a driver that subscribes, which the kernel has for its own tests; kernel/rcu/*.c."""
