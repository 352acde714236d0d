"""Every interleaving: search, replay, paths."""
