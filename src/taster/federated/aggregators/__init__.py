"""Aggregators: one vector from the clients' updates."""
