"""Derivatives that poisoning needs: of inner products of parameter gradients, by samples and by parameters.

`Derivatives` is the door: it computes them in a chosen `Way`, and checks that way against automatic differentiation.
"""

from taster.derivatives.algebra import Normalize, inner, normalized
from taster.derivatives.autodiff import LossFn
from taster.derivatives.benchmark import Measurement, all_methods, exact_methods, fastest, measure
from taster.derivatives.derivatives import MIN_SIGN_AGREEMENT, Derivatives, sign_agreement
from taster.derivatives.method import METHOD_NAMES, Algorithm, DiffMethod

__all__ = [
    "METHOD_NAMES",
    "MIN_SIGN_AGREEMENT",
    "Algorithm",
    "Derivatives",
    "DiffMethod",
    "LossFn",
    "Measurement",
    "Normalize",
    "all_methods",
    "exact_methods",
    "fastest",
    "inner",
    "measure",
    "normalized",
    "sign_agreement",
]
