"""Attacks on training sets, one file each."""
