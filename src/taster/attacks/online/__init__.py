"""Attacks on the batches of a stream."""
