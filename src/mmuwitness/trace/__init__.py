"""What a real kernel did: its traces, read and counted."""
