"""Derivatives that poisoning needs: of inner products of parameter gradients, by samples and by parameters.

`Derivatives` is the door: it computes them in a chosen `Way`, and checks that way against automatic differentiation.
"""

from taster.calculus.algebra import Normalise, inner, normalised
from taster.calculus.derivatives import LEAST_AGREEMENT, Derivatives, agreement
from taster.calculus.exact import LossAt
from taster.calculus.measure import Measurement, exact_ways, fast_ways, fastest, measure
from taster.calculus.way import WAYS, Method, Way

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
