"""Paired tests and bounds. Arrays in, numbers out: nothing here knows a model."""
