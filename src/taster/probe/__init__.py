"""Trusted data: drawn, checked, sized and renewed.

probe, rest = taster.probe.draw(data, 2000)
print(taster.probe.check(probe, model, train=rest))
"""

from taster.probe.checking import check
from taster.probe.drawing import draw
from taster.probe.renewal import Renewal, renew
from taster.probe.report import ProbeReport
from taster.probe.sizing import size
from taster.stats.confident_learning import Suspect

__all__ = ["ProbeReport", "Renewal", "Suspect", "check", "draw", "renew", "size"]
