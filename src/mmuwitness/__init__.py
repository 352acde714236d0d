"""mmuwitness: an executable, checkable model of Linux's MMU notifiers and KVM's secondary MMU."""

__version__ = "0.1.0.dev0"
