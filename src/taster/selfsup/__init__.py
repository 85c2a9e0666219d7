"""Training without labels, on pairs of random views of an image: what attacks and defences share of it."""

from taster.selfsup.contrastive_losses import info_nce, negative_cosine, nt_xent
from taster.selfsup.image_views import ImageViews, ViewSettings
from taster.selfsup.pretext_nets import MoCo, PretextNet, SimCLR, SimSiam
from taster.selfsup.pretraining import Pretraining, PretrainingSettings, pretrain

__all__ = [
    "ImageViews",
    "MoCo",
    "PretextNet",
    "Pretraining",
    "PretrainingSettings",
    "SimCLR",
    "SimSiam",
    "ViewSettings",
    "info_nce",
    "negative_cosine",
    "nt_xent",
    "pretrain",
]
