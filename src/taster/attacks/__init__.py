"""Attacks, one file each. To add one, write it, say above it what it does (`threat`), and add it to `ATTACKS`,
`UPDATE_ATTACKS` or `DATASET_ATTACKS`."""

from collections.abc import Callable

from taster.attacks.backdoor import Backdoor, BackdoorSettings
from taster.attacks.crafting import CraftingSettings
from taster.attacks.crafting_trace import CraftingTrace
from taster.attacks.dataset.back_gradient import back_gradient
from taster.attacks.dataset.defence_aware import defence_aware
from taster.attacks.dataset.dictionary_attack import dictionary_attack
from taster.attacks.dataset.focused_attack import focused_attack
from taster.attacks.dataset.generated_samples import generated_samples
from taster.attacks.dataset.hidden_trigger import hidden_trigger_backdoor
from taster.attacks.dataset.influence_selection import influence_selection
from taster.attacks.dataset.machine_teaching import machine_teaching
from taster.attacks.dataset.malicious_noise import (
    indistinguishable_error,
    malicious_noise,
    malicious_noise_limit,
)
from taster.attacks.dataset.p_resetting import p_resetting
from taster.attacks.dataset.p_tampering import p_tampering
from taster.attacks.dataset.partition_aware import partition_aware
from taster.attacks.dataset.pgan import pgan
from taster.attacks.dataset.svm_poisoning import svm_poisoning
from taster.attacks.dataset.unrolled_training import UnrolledSettings
from taster.attacks.dataset_attack import (
    DatasetAttack,
    DatasetBudget,
    DatasetKnowledge,
    DatasetPoisonSettings,
    Poison,
    PoisonedDataset,
)
from taster.attacks.guard_simulator import GuardSimulator, SimulatedOutcome
from taster.attacks.online.accumulative import accumulative
from taster.attacks.online.adaptive_blend import adaptive_blend
from taster.attacks.online.adversarial_poison import adversarial_poison
from taster.attacks.online.blended_backdoor import blended_backdoor
from taster.attacks.online.borderline import borderline
from taster.attacks.online.clean_label_backdoor import clean_label_backdoor
from taster.attacks.online.column_changes import column_changes
from taster.attacks.online.direct_gradient import direct_gradient
from taster.attacks.online.generative import generative
from taster.attacks.online.guard_aware import guard_aware
from taster.attacks.online.label_flip import label_flip
from taster.attacks.online.no_attack import none
from taster.attacks.online.ood_images import ood_images
from taster.attacks.online.p_tampering_stream import p_tampering_stream
from taster.attacks.online.patch_backdoor import patch_backdoor
from taster.attacks.online.random_edits import random_edits
from taster.attacks.online.random_noise import random_noise
from taster.attacks.online.swing_widening import swing_widening
from taster.attacks.online.token_substitution import token_substitution
from taster.attacks.online.trigger_backdoor import trigger_backdoor
from taster.attacks.online.vanilla_trigger import vanilla_trigger
from taster.attacks.online.verdict_steering import verdict_steering
from taster.attacks.online_attack import Budget, OnlineAttack, PerturbationSettings, PoisonFn, SampleFn
from taster.attacks.poison_init import InjectionSettings
from taster.attacks.schedule import (
    Observation,
    Schedule,
    StopCondition,
    after_steps,
    at_accuracy_floor,
    at_loss_amplification,
)
from taster.attacks.tampering import TamperingSettings
from taster.attacks.targeted.bullseye_polytope import bullseye_polytope
from taster.attacks.targeted.convex_polytope import convex_polytope
from taster.attacks.targeted.feature_collision import feature_collision
from taster.attacks.targeted.gradient_matching import MatchingSettings, gradient_matching
from taster.attacks.targeted.metapoison import MetaPoisonSettings, metapoison
from taster.attacks.targeted.polytope import PolytopeSettings
from taster.attacks.targeted.random_bases import random_bases
from taster.attacks.targeted.surrogate_features import SurrogateSettings
from taster.attacks.targeted.targets import TargetSettings
from taster.attacks.unlearnable.contrastive_poison import contrastive_poison
from taster.attacks.unlearnable.deep_confuse import deep_confuse
from taster.attacks.unlearnable.error_maximising_noise import error_maximising_noise
from taster.attacks.unlearnable.error_minimising_noise import error_minimising_noise
from taster.attacks.unlearnable.gradient_alignment import gradient_alignment
from taster.attacks.unlearnable.ntga import ntga
from taster.attacks.unlearnable.random_class_noise import random_class_noise
from taster.attacks.unlearnable.robust_minimising_noise import robust_minimising_noise
from taster.attacks.unlearnable.synthetic_noise import synthetic_noise
from taster.attacks.unlearnable.tensor_clog import tensor_clog
from taster.attacks.unlearnable.transferable_noise import transferable_noise
from taster.attacks.unlearnable.universal_noise import universal_noise
from taster.attacks.unlearnable.unlearnable_clusters import unlearnable_clusters
from taster.attacks.update_attack import RoundKnowledge, UpdateAttack, UpdateBudget, UpdatePoisonFn, UpdateSettings
from taster.attacks.updates.accumulative_updates import AccumulationSettings, accumulative_updates
from taster.attacks.updates.alie import alie
from taster.attacks.updates.gaussian_updates import gaussian_updates
from taster.attacks.updates.ipm import ipm
from taster.attacks.updates.mimic import mimic
from taster.attacks.updates.min_max import min_max, min_sum
from taster.attacks.updates.reverse_trigger import reverse_trigger
from taster.attacks.updates.sign_flip import sign_flip
from taster.core.threat import Threat, threat, threat_of
from taster.derivatives.convex_models import ConvexSettings
from taster.derivatives.net_curvature import CurvatureSettings

ATTACKS = {
    attack.__name__: attack
    for attack in (
        none,
        random_noise,
        label_flip,
        ood_images,
        p_tampering_stream,
        random_edits,
        token_substitution,
        column_changes,
        adversarial_poison,
        vanilla_trigger,
        accumulative,
        guard_aware,
        swing_widening,
        borderline,
        verdict_steering,
        direct_gradient,
        generative,
        patch_backdoor,
        blended_backdoor,
        trigger_backdoor,
        clean_label_backdoor,
        adaptive_blend,
    )
}
"""Attacks on the batches of a stream, by name."""

UPDATE_ATTACKS = {
    attack.__name__: attack
    for attack in (
        accumulative_updates,
        reverse_trigger,
        sign_flip,
        gaussian_updates,
        ipm,
        alie,
        min_max,
        min_sum,
        mimic,
    )
}
"""Attacks by clients of a federation on the updates that they send, by name."""

DATASET_ATTACKS: dict[str, Callable[..., DatasetAttack]] = {
    attack.__name__: attack
    for attack in (
        svm_poisoning,
        machine_teaching,
        back_gradient,
        influence_selection,
        defence_aware,
        generated_samples,
        hidden_trigger_backdoor,
        pgan,
        dictionary_attack,
        focused_attack,
        p_tampering,
        p_resetting,
        partition_aware,
        malicious_noise,
        error_minimising_noise,
        error_maximising_noise,
        synthetic_noise,
        universal_noise,
        random_class_noise,
        robust_minimising_noise,
        gradient_alignment,
        tensor_clog,
        ntga,
        contrastive_poison,
        transferable_noise,
        deep_confuse,
        unlearnable_clusters,
        feature_collision,
        convex_polytope,
        bullseye_polytope,
        gradient_matching,
        metapoison,
        random_bases,
    )
}
"""Attacks on training sets, by name. Those on the batches of a stream serve there too."""

__all__ = [
    "ATTACKS",
    "DATASET_ATTACKS",
    "UPDATE_ATTACKS",
    "AccumulationSettings",
    "Backdoor",
    "BackdoorSettings",
    "Budget",
    "ConvexSettings",
    "CraftingSettings",
    "CraftingTrace",
    "CurvatureSettings",
    "DatasetAttack",
    "DatasetBudget",
    "DatasetKnowledge",
    "DatasetPoisonSettings",
    "GuardSimulator",
    "InjectionSettings",
    "MatchingSettings",
    "MetaPoisonSettings",
    "Observation",
    "OnlineAttack",
    "PerturbationSettings",
    "Poison",
    "PoisonFn",
    "PoisonedDataset",
    "PolytopeSettings",
    "RoundKnowledge",
    "SampleFn",
    "Schedule",
    "SimulatedOutcome",
    "StopCondition",
    "SurrogateSettings",
    "TamperingSettings",
    "TargetSettings",
    "Threat",
    "UnrolledSettings",
    "UpdateAttack",
    "UpdateBudget",
    "UpdatePoisonFn",
    "UpdateSettings",
    "accumulative",
    "accumulative_updates",
    "adaptive_blend",
    "adversarial_poison",
    "after_steps",
    "alie",
    "at_accuracy_floor",
    "at_loss_amplification",
    "back_gradient",
    "blended_backdoor",
    "borderline",
    "bullseye_polytope",
    "clean_label_backdoor",
    "column_changes",
    "contrastive_poison",
    "convex_polytope",
    "deep_confuse",
    "defence_aware",
    "dictionary_attack",
    "direct_gradient",
    "error_maximising_noise",
    "error_minimising_noise",
    "feature_collision",
    "focused_attack",
    "gaussian_updates",
    "generated_samples",
    "generative",
    "gradient_alignment",
    "gradient_matching",
    "guard_aware",
    "hidden_trigger_backdoor",
    "indistinguishable_error",
    "influence_selection",
    "ipm",
    "label_flip",
    "machine_teaching",
    "malicious_noise",
    "malicious_noise_limit",
    "metapoison",
    "mimic",
    "min_max",
    "min_sum",
    "none",
    "ntga",
    "ood_images",
    "p_resetting",
    "p_tampering",
    "p_tampering_stream",
    "partition_aware",
    "patch_backdoor",
    "pgan",
    "random_bases",
    "random_class_noise",
    "random_edits",
    "random_noise",
    "reverse_trigger",
    "robust_minimising_noise",
    "sign_flip",
    "svm_poisoning",
    "swing_widening",
    "synthetic_noise",
    "tensor_clog",
    "threat",
    "threat_of",
    "token_substitution",
    "transferable_noise",
    "trigger_backdoor",
    "universal_noise",
    "unlearnable_clusters",
    "vanilla_trigger",
    "verdict_steering",
]
