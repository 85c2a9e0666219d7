"""Slopes of substitutions against differences of the inner product itself, in float64."""

from __future__ import annotations

import pytest
import torch
from tests.attacks.token_problems import LENGTH, WORDS, text_learner, texts
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from taster import Batch, Learner
from taster.derivatives import substitution_slopes
from taster.errors import ModelError


def inner_product(params: dict[str, Tensor], soft: Tensor, samples: Batch, towards: dict[str, Tensor]) -> Tensor:
    """⟨∇_θ Σ ℓ, V⟩ of the net of tokens, written out for mixtures of words `soft` [n, length, words]."""
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    there = (samples.x != 0)[..., None]
    mean = ((soft @ leaves["embedding.weight"]) * there).sum(1) / there.sum(1).clamp_min(1)
    hidden = (mean @ leaves["head.0.weight"].T + leaves["head.0.bias"]).relu()
    scores = hidden @ leaves["head.2.weight"].T + leaves["head.2.bias"]
    found = torch.autograd.grad(cross_entropy(scores, samples.y, reduction="sum"), list(leaves.values()))
    return sum((a * towards[name]).sum() for a, name in zip(found, leaves, strict=True))  # type: ignore[return-value]


def test_slopes_are_differences_of_the_inner_product() -> None:
    view, samples = text_learner(torch.float64).view(), texts(5, seed=50)
    towards = {name: -slope for name, slope in view.loss_gradient(texts(60, seed=60)).items()}
    candidates = torch.tensor([2, 9, 20, 29])
    slopes = substitution_slopes(view, samples, towards, candidates)
    assert slopes.shape == (5, LENGTH, 4)
    here, h = one_hot(samples.x, WORDS).double(), 1e-6
    for i, place, c in [(0, 0, 0), (1, 3, 1), (2, 1, 2), (3, 2, 3), (4, 5, 0)]:
        move = torch.zeros_like(here)
        move[i, place] = one_hot(candidates[c], WORDS) - here[i, place]
        up, down = (inner_product(view.params, here + s * h * move, samples, towards) for s in (1, -1))
        assert float(slopes[i, place, c]) == pytest.approx(float(up - down) / (2 * h), rel=1e-5, abs=1e-9)
    assert bool((slopes[0, -1] == 0).all()), "what fills a text up has no part in it"
    assert float(slopes.abs().max()) > 1e-4


def test_the_model_is_left_as_it_was() -> None:
    learner = text_learner()
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    towards = dict(learner.view().loss_gradient(texts(20)))
    outputs = learner.view().outputs(texts(7).x)
    substitution_slopes(learner.view(), texts(7), towards, torch.arange(5))
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert torch.equal(learner.view().outputs(texts(7).x), outputs)


class _TwoEmbeddings(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Embedding(WORDS, 4), nn.Embedding(WORDS, 4)
        self.head, self.both = nn.Linear(4, 2), both

    def forward(self, x: Tensor) -> Tensor:
        vectors = (
            self.one(x) + self.other(x) if self.both else nn.functional.one_hot(x, WORDS).float() @ (self.one.weight)
        )
        found: Tensor = self.head(vectors.mean(1))
        return found


@pytest.mark.parametrize(
    ("both", "message"), [(True, r"2 embeddings \(one, other\)"), (False, r"0 embeddings \(none\)")]
)
def test_models_without_a_single_embedding_are_refused(both: bool, message: str) -> None:
    model = _TwoEmbeddings(both)
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy)
    with pytest.raises(ModelError, match=message):
        substitution_slopes(learner.view(), texts(3), dict(learner.view().loss_gradient(texts(3))), torch.arange(3))
