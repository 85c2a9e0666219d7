"""taster on Flower (extra `flower`): a strategy with any guard and aggregation rule, and mods for malicious clients."""

from taster.errors import ExtraError

try:
    from flwr.app import MessageType as _  # noqa: F401 (older versions have no such name)
    from flwr.serverapp.strategy import Strategy as _Strategy  # noqa: F401
except ImportError as error:
    raise ExtraError(
        f'taster.integrations.flower needs flwr 1.41 or later ({error}); install it: pip install "taster[flower]"'
    ) from error

from taster.integrations.flower.arrays import load_model, model_arrays, to_array_record
from taster.integrations.flower.collusion_grid import CollusionGrid
from taster.integrations.flower.mods import colluding, malicious, poisoned
from taster.integrations.flower.reply_codec import ReplyCodec
from taster.integrations.flower.simulated_clients import simulated_clients_app
from taster.integrations.flower.simulation import FlowerSimulation
from taster.integrations.flower.simulation_session import simulate
from taster.integrations.flower.strategy import GuardedStrategy

__all__ = [
    "CollusionGrid",
    "FlowerSimulation",
    "GuardedStrategy",
    "ReplyCodec",
    "colluding",
    "load_model",
    "malicious",
    "model_arrays",
    "poisoned",
    "simulate",
    "simulated_clients_app",
    "to_array_record",
]
