"""The picture of the site's first page: accuracy of a model with and without a guard while its stream is poisoned."""

from __future__ import annotations

import io

import matplotlib
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import taster

STEPS, HONEST, BATCH = 80, 20, 32


def digits() -> tuple[taster.Batch, taster.Batch, taster.Batch]:
    """Samples of the stream, trusted ones, and those that the picture is measured on."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(found.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(found.target)[order]
    return tuple(taster.Batch(x[a:b], y[a:b]) for a, b in ((0, 1000), (1000, 1400), (1400, 1797)))  # type: ignore[return-value]


def accuracies(guarded: bool) -> list[float]:
    """The accuracy in % before each step."""
    stream, trusted, test = digits()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(300):  # before release
        loss = cross_entropy(model(stream.x), stream.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guard = taster.guard(trusted) if guarded else taster.Guard()
    learner, draws, found = taster.Learner(model, optimizer, cross_entropy, guard), torch.Generator().manual_seed(1), []
    for step in range(STEPS):
        found.append(learner.view().accuracy(test.x, test.y))
        rows = torch.randint(len(stream.x), (BATCH,), generator=draws)
        x, y = stream.x[rows], stream.y[rows]
        if step >= HONEST and step % 2:
            y = (y + 1) % 10
        learner.step(x, y)
    return [*found, learner.view().accuracy(test.x, test.y)]


def drawn() -> str:
    """The picture as SVG, in colours that can be told apart on light and on dark."""
    matplotlib.rcParams["svg.hashsalt"] = "taster"
    figure = Figure(figsize=(8, 3.2))
    axes = figure.subplots()
    axes.axvspan(HONEST, STEPS, color="#d95f02", alpha=0.12, lw=0)
    axes.text(HONEST + 1, 4, "every second batch is poison", color="#d95f02")
    for guarded, colour, name in ((True, "#1b9e77", "with the guard"), (False, "#d95f02", "without")):
        line = accuracies(guarded)
        axes.plot(line, color=colour, lw=2)
        axes.text(STEPS + 0.8, line[-1], f"{name}: {line[-1]:.0f} %", color=colour, va="center")
    axes.set(xlim=(0, STEPS * 1.24), ylim=(0, 102), xlabel="step", ylabel="test accuracy, %")
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color("#888888")
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors="#888888")
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = written.getvalue()
    return svg[svg.index("<svg") :].replace(
        "<svg ", '<svg role="img" aria-label="Accuracy by step" style="max-width:100%;height:auto" ', 1
    )


picture = drawn()
