"""taster on Flower (extra `flower`): any guard and any rule as a strategy, and mods that make clients malicious."""

from taster.errors import ExtraError

try:
    from flwr.app import MessageType as _  # noqa: F401 (older versions have no such name)
    from flwr.serverapp.strategy import Strategy as _Strategy  # noqa: F401
except ImportError as error:
    raise ExtraError(
        f'taster.flower needs flwr 1.41 or later ({error}); install the extra: pip install "taster[flower]"'
    ) from error

from taster.flower.arrays import load_model, model_arrays, packed
from taster.flower.colluders import Colluders
from taster.flower.form import Form
from taster.flower.mods import colluding, malicious, poisoned
from taster.flower.seats import seats_app
from taster.flower.session import simulate
from taster.flower.simulation import FlowerSimulation
from taster.flower.strategy import GuardedStrategy

__all__ = [
    "Colluders",
    "FlowerSimulation",
    "Form",
    "GuardedStrategy",
    "colluding",
    "load_model",
    "malicious",
    "model_arrays",
    "packed",
    "poisoned",
    "seats_app",
    "simulate",
]
