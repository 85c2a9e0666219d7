"""Screens: drop or weight samples before they are learned."""
