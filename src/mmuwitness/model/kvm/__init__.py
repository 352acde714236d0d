"""virt/kvm/*.c: the common part of KVM's secondary MMU."""
