"""Who invalidated guest memory, and what it cost."""
