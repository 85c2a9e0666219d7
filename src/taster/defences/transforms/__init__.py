"""Gradient transforms: clip or project before the optimizer."""
