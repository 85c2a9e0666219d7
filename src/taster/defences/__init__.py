"""Defences: one file each, each a function that returns a Guard. To add one, write it and name it here."""

from taster.defences.adversarial_training import adversarial_training
from taster.defences.anomaly_screen import anomaly_screen
from taster.defences.clipping import clipping
from taster.defences.dagc import dagc
from taster.defences.discrepancy_screen import discrepancy_screen
from taster.defences.dsc import dsc
from taster.defences.fat import fat
from taster.defences.influence_screen import influence_screen
from taster.defences.loss_alarm import loss_alarm
from taster.defences.mart import mart
from taster.defences.metric_gate import metric_gate
from taster.defences.mma import mma
from taster.defences.no_defence import none
from taster.defences.probe_gate import probe_gate
from taster.defences.probe_projection import probe_projection
from taster.defences.quantile_clipping import quantile_clipping
from taster.defences.recommended import guard
from taster.defences.salvage import salvage
from taster.defences.trades import trades

DEFENCES = {
    defence.__name__: defence
    for defence in (
        none,
        clipping,
        quantile_clipping,
        dagc,
        probe_projection,
        adversarial_training,
        trades,
        mart,
        mma,
        fat,
        dsc,
        discrepancy_screen,
        anomaly_screen,
        influence_screen,
        loss_alarm,
        probe_gate,
        salvage,
        guard,
    )
}

__all__ = [
    "DEFENCES",
    "adversarial_training",
    "anomaly_screen",
    "clipping",
    "dagc",
    "discrepancy_screen",
    "dsc",
    "fat",
    "guard",
    "influence_screen",
    "loss_alarm",
    "mart",
    "metric_gate",
    "mma",
    "none",
    "probe_gate",
    "probe_projection",
    "quantile_clipping",
    "salvage",
    "trades",
]
