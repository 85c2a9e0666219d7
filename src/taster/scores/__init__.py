"""Scores measure samples and decide nothing."""
