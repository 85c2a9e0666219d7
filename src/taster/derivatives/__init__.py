"""Derivatives that poisoning needs: of inner products of parameter gradients, by samples and by parameters.

`Derivatives` is the door: it computes them in a chosen `Way`, and checks that way against automatic differentiation.
"""

from taster.derivatives.algebra import Normalise, inner, normalised
from taster.derivatives.autodiff import LossAt
from taster.derivatives.benchmark import Measurement, exact_ways, fast_ways, fastest, measure
from taster.derivatives.derivatives import LEAST_AGREEMENT, Derivatives, agreement
from taster.derivatives.method import WAYS, Method, Way

__all__ = [
    "LEAST_AGREEMENT",
    "WAYS",
    "Derivatives",
    "LossAt",
    "Measurement",
    "Method",
    "Normalise",
    "Way",
    "agreement",
    "exact_ways",
    "fast_ways",
    "fastest",
    "inner",
    "measure",
    "normalised",
]
