"""Defences: one file each, each a function that returns a Guard. To add one, write it and name it here."""

from taster.defences.clipping import clipping
from taster.defences.no_defence import none
from taster.defences.probe_gate import probe_gate

DEFENCES = {defence.__name__: defence for defence in (none, clipping, probe_gate)}

__all__ = ["DEFENCES", "clipping", "none", "probe_gate"]
