"""A folded program as a Promela model, for SPIN: a second opinion on every count and verdict."""
