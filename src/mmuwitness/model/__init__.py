"""What the kernel does: the primary MMU, KVM's secondary MMU, and what is claimed of them."""
