"""Protected copies of a folder of images: noise by a method of the attacks, files, and what a scraper would learn."""

from taster.experiments.protect.check import Checked, check_folder
from taster.experiments.protect.measure import Measurement, check_classes, measure
from taster.experiments.protect.methods import find_method, protecting_methods
from taster.experiments.protect.protect import Protection, ProtectRequest, protect_folder

__all__ = [
    "Checked",
    "Measurement",
    "ProtectRequest",
    "Protection",
    "check_classes",
    "check_folder",
    "find_method",
    "measure",
    "protect_folder",
    "protecting_methods",
]
