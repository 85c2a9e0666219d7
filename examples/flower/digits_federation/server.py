"""The server: taster's guard and a trimmed mean in Flower's ServerApp."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch.nn.functional import cross_entropy

import taster
from digits_federation.task import RATE, make_model, tested, trusted
from taster import Guard, Learner
from taster.attacks import alie
from taster.federated import Server, trimmed_mean
from taster.integrations.flower import CollusionGrid, GuardedStrategy

app = ServerApp()


def make_server(*, guard: bool, num_byzantine: int) -> Server:
    """The server, with or without the guard."""
    model = make_model()
    learner = Learner(
        model,
        torch.optim.SGD(model.parameters(), RATE),
        cross_entropy,
        taster.guard(trusted()) if guard else Guard(),
    )
    return Server(learner, trimmed_mean(num_byzantine=num_byzantine))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Rounds, and what came of them in a file where one is wanted."""
    config = context.run_config
    nodes = int(config["nodes"])
    server = make_server(guard=bool(config["guard"]), num_byzantine=int(config["num_byzantine"]))
    strategy = GuardedStrategy(server, unit=RATE, min_available_nodes=nodes, min_train_nodes=nodes, fraction_evaluate=0)
    test = tested()

    def evaluate(turn: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": server.learner.view().accuracy(test.x, test.y)})

    through = CollusionGrid(grid, strategy, alie()) if config["collusion"] else grid
    strategy.start(through, num_rounds=int(config["rounds"]), evaluate_fn=evaluate)
    if config["out"]:
        rounds = [
            {
                "verdict": r.record.verdict.action.name,
                "seconds": r.record.seconds["total"],
                "faults": dict(r.rejected_clients),
            }
            for r in strategy.rounds
        ]
        model = dict(server.learner.model.state_dict())
        taster.save_state(str(config["out"]), {"model": model, "rounds": rounds})
