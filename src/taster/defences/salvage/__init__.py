"""Salvage: what is tried again of a batch that a gate has rejected."""
