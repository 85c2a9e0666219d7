"""Defences: one file each, each a function that returns a Guard, or what takes its place. To add one, write it, say
above it what it answers (`taster.core.threat.countermeasure`), and name it here."""

from collections.abc import Callable

from taster.core.guard import Guard
from taster.defences.corrections.baselines import (
    adversarial_training_correction,
    fat_correction,
    mart_correction,
    mma_correction,
    trades_correction,
)
from taster.defences.corrections.dsc import dsc
from taster.defences.dataset.adversarial_training import adversarial_training
from taster.defences.dataset.anti_backdoor_learning import anti_backdoor_learning
from taster.defences.dataset.gradient_shaping import gradient_shaping
from taster.defences.dataset.image_squeezing import grey, jpeg
from taster.defences.dataset.influence_sanitation import influence_sanitation
from taster.defences.dataset.mixed_images import cutmix, cutout, gaussian_noise, mixup
from taster.defences.dataset.nearest_neighbours import nearest_neighbour_sanitation
from taster.defences.dataset.negative_impact import reject_on_negative_impact
from taster.defences.dataset.partition_training import finite_aggregation_training, partition_aggregation_training
from taster.defences.dataset.score_filter import score_filter
from taster.defences.dataset.self_supervised import moco, simclr, simsiam
from taster.defences.dataset.trim import TrimmedRidge, trim_ridge
from taster.defences.dataset.trimmed_loss import trimmed_loss
from taster.defences.dataset.trusted_training import clean_share, early_stopping
from taster.defences.dataset_defence import DatasetDefence, RobustTraining, TrainingRun
from taster.defences.default_guard import guard
from taster.defences.gates.accuracy_monitor import accuracy_monitor
from taster.defences.gates.loss_alarm import loss_alarm
from taster.defences.gates.metric_gate import metric_gate
from taster.defences.gates.probe_gate import probe_gate
from taster.defences.no_defence import none
from taster.defences.salvage.low_score_half import retry_low_score_half
from taster.defences.salvage.trusted_replay import trusted_replay
from taster.defences.screens.anomaly_screen import anomaly_screen
from taster.defences.screens.backdoor_screen import backdoor_screen
from taster.defences.screens.discrepancy_screen import discrepancy_screen
from taster.defences.screens.influence_screen import influence_screen
from taster.defences.training.temporal_stream import TemporalStream, temporal_aggregation_stream
from taster.defences.transforms.agem_projection import agem_projection
from taster.defences.transforms.clipping import clipping
from taster.defences.transforms.dagc import dagc
from taster.defences.transforms.quantile_clipping import quantile_clipping

DEFENCES: dict[str, Callable[..., Guard | TemporalStream]] = {
    defence.__name__: defence
    for defence in (
        none,
        clipping,
        quantile_clipping,
        dagc,
        agem_projection,
        adversarial_training_correction,
        trades_correction,
        mart_correction,
        mma_correction,
        fat_correction,
        dsc,
        discrepancy_screen,
        anomaly_screen,
        influence_screen,
        backdoor_screen,
        accuracy_monitor,
        loss_alarm,
        probe_gate,
        retry_low_score_half,
        trusted_replay,
        guard,
        temporal_aggregation_stream,
    )
}

DATASET_DEFENCES: dict[str, Callable[..., DatasetDefence | RobustTraining]] = {
    "trimmed_loss": trimmed_loss,
    "reject_on_negative_impact": reject_on_negative_impact,
    "nearest_neighbour_sanitation": nearest_neighbour_sanitation,
    "influence_sanitation": influence_sanitation,
    "score_filter": score_filter,
    "anti_backdoor_learning": anti_backdoor_learning,
    "gradient_shaping": gradient_shaping,
    "partition_aggregation_training": partition_aggregation_training,
    "finite_aggregation_training": finite_aggregation_training,
    "grey": grey,
    "jpeg": jpeg,
    "mixup": mixup,
    "cutmix": cutmix,
    "cutout": cutout,
    "gaussian_noise": gaussian_noise,
    "adversarial_training": adversarial_training,
    "early_stopping": early_stopping,
    "clean_share": clean_share,
    "simclr": simclr,
    "moco": moco,
    "simsiam": simsiam,
}
"""Defences of training sets, by name. Guards serve there too."""

__all__ = [
    "DATASET_DEFENCES",
    "DEFENCES",
    "DatasetDefence",
    "RobustTraining",
    "TemporalStream",
    "TrainingRun",
    "TrimmedRidge",
    "accuracy_monitor",
    "adversarial_training",
    "adversarial_training_correction",
    "agem_projection",
    "anomaly_screen",
    "anti_backdoor_learning",
    "backdoor_screen",
    "clean_share",
    "clipping",
    "cutmix",
    "cutout",
    "dagc",
    "discrepancy_screen",
    "dsc",
    "early_stopping",
    "fat_correction",
    "finite_aggregation_training",
    "gaussian_noise",
    "gradient_shaping",
    "grey",
    "guard",
    "influence_sanitation",
    "influence_screen",
    "jpeg",
    "loss_alarm",
    "mart_correction",
    "metric_gate",
    "mixup",
    "mma_correction",
    "moco",
    "nearest_neighbour_sanitation",
    "none",
    "partition_aggregation_training",
    "probe_gate",
    "quantile_clipping",
    "reject_on_negative_impact",
    "retry_low_score_half",
    "score_filter",
    "simclr",
    "simsiam",
    "temporal_aggregation_stream",
    "trades_correction",
    "trim_ridge",
    "trimmed_loss",
    "trusted_replay",
]
