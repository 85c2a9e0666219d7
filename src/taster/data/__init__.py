"""Data sets, roles and streams."""

from taster.data.image_form import Color
from taster.data.images import Images, ImageSet
from taster.data.load import load_images
from taster.data.roles import ROLES, Role, split_indices, split_roles
from taster.data.rows import DataInfo, Rows, Samples
from taster.data.stream import Augment, Sampler, Stream, as_batch
from taster.data.table_set import Scale, TableSet, WordFeatures, fit_numbers, fit_words
from taster.data.tables import Column, Table, load_table
from taster.data.token_set import TokenSet, fit_tokens
from taster.data.torch_dataset import Layout, OnProgress

__all__ = [
    "ROLES",
    "Augment",
    "Color",
    "Column",
    "DataInfo",
    "ImageSet",
    "Images",
    "Layout",
    "OnProgress",
    "Role",
    "Rows",
    "Sampler",
    "Samples",
    "Scale",
    "Stream",
    "Table",
    "TableSet",
    "TokenSet",
    "WordFeatures",
    "as_batch",
    "fit_numbers",
    "fit_tokens",
    "fit_words",
    "load_images",
    "load_table",
    "split_indices",
    "split_roles",
]
