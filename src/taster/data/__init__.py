"""Data sets, roles and streams."""

from taster.data.images import Images, ImageSet
from taster.data.load import load_images
from taster.data.roles import ROLES, Role, split_roles
from taster.data.stream import Augment, Sampler, Stream, as_batch
from taster.data.torch_dataset import Layout, OnProgress

__all__ = [
    "ROLES",
    "Augment",
    "ImageSet",
    "Images",
    "Layout",
    "OnProgress",
    "Role",
    "Sampler",
    "Stream",
    "as_batch",
    "load_images",
    "split_roles",
]
