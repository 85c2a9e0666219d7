"""Second derivatives for poisoning: of inner products of parameter gradients, with respect to samples or parameters.

`Derivatives` computes them by a chosen `DiffMethod`, which it checks against automatic differentiation.
"""

from taster.derivatives.algebra import Normalize, inner, normalized
from taster.derivatives.autodiff import LossFn
from taster.derivatives.derivatives import MIN_SIGN_AGREEMENT, Derivatives, sign_agreement
from taster.derivatives.method import METHOD_NAMES, Algorithm, DiffMethod
from taster.derivatives.substitutions import substitution_slopes

__all__ = [
    "METHOD_NAMES",
    "MIN_SIGN_AGREEMENT",
    "Algorithm",
    "Derivatives",
    "DiffMethod",
    "LossFn",
    "Normalize",
    "inner",
    "normalized",
    "sign_agreement",
    "substitution_slopes",
]
