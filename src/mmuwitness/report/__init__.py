"""What a person reads: timelines, tables."""
