"""Corrections: screens that change samples before they are learned."""
