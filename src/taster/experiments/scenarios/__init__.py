"""Scenarios: what one cell of a recipe does, online and federated."""
