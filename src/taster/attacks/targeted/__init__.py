"""Attacks on training sets that are after the class of certain samples."""
