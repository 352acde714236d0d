"""arch/*/kvm: what an architecture does; one class for one secondary MMU."""
