"""A forward pass and a loss of the user's own, and models that compute their loss themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutput

import taster
from taster import Batch, Guard, Learner, Quarantine, ScreenedBatch, View, defences
from taster.attacks.online.label_flip import label_flip
from taster.defences.corrections.baselines import adversarial_training_correction
from taster.defences.gates.probe_gate import probe_gate
from taster.defences.salvage.low_score_half import retry_low_score_half
from taster.errors import BatchError, LabelError, LossError, ModelError


class Toy(nn.Module):
    """Takes keyword arguments and computes its loss, as models of Transformers do."""

    def __init__(self, form: str = "model output") -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)
        self.form = form

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Any:
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        logits = self.head(hidden)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        if self.form == "tuple":
            return logits if loss is None else (loss, logits)
        if self.form == "dict":
            return {"loss": loss, "logits": logits}
        return CausalLMOutput(loss=loss, logits=logits)


def tokens(n: int = 6, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(0, 11, (n, 5), generator=torch.Generator().manual_seed(seed))
    labels = (ids + 1) % 11
    labels[:, 3:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("form", ["model output", "tuple", "dict"])
def test_a_models_own_loss_is_learned_as_by_hand(form: str) -> None:
    torch.manual_seed(0)
    model = Toy(form)
    torch.manual_seed(0)
    by_hand = Toy()
    learner, optimizer = Learner(model, sgd(model)), sgd(by_hand)
    for seed in range(3):
        record = learner.step(tokens(seed=seed))
        loss = by_hand(**tokens(seed=seed)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert record.loss == pytest.approx(loss.item())
    assert same_weights(model, by_hand)


def test_views_compute_what_the_model_does() -> None:
    model = Toy()
    view = Learner(model, sgd(model)).view()
    batch = Batch(tokens())
    truth = model(**batch.x)
    assert torch.equal(view.forward(batch).logits, truth.logits)
    assert view.loss(batch).item() == truth.loss.item()
    torch.testing.assert_close(view.outputs(batch, chunk=4), truth.logits)
    alone = [model(**batch.select(slice(i, i + 1)).x).loss.item() for i in range(6)]
    assert view.sample_losses(batch).tolist() == pytest.approx(alone)
    assert view.sample_losses(batch).mean().item() == pytest.approx(
        truth.loss.item(), rel=1e-5
    )  # as many tokens in each


def test_gpt2_in_a_view_and_in_a_step() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=11, n_positions=8)).eval()
    ids = torch.randint(0, 11, (4, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    learner = Learner(model, sgd(model))
    truth = model(**batch)
    assert torch.allclose(learner.view().outputs(Batch(batch)), truth.logits, atol=1e-6)
    assert learner.step(batch).loss == pytest.approx(truth.loss.item(), abs=1e-5)


def test_labels_that_a_model_writes_into_stay_what_they_are() -> None:
    class Writes(Toy):
        def forward(self, input_ids: Tensor, labels: Tensor) -> Any:  # type: ignore[override]
            labels[labels == 0] = -100
            return super().forward(input_ids, labels=labels)

    model = Writes()
    batch = Batch({"input_ids": torch.zeros(3, 2, dtype=torch.long), "labels": torch.tensor([[0, 1]] * 3)})
    view = Learner(model, sgd(model)).view()
    for _ in range(2):
        view.loss(batch)
        assert batch.x["labels"].tolist() == [[0, 1]] * 3


def test_a_loss_of_the_whole_batch() -> None:
    model = Toy()

    def loss(output: CausalLMOutput, batch: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())

    def forward(module: Any, batch: Mapping[str, Tensor]) -> Any:
        return module(batch["input_ids"])

    learner = Learner(model, sgd(model), loss, forward=forward)
    batch = Batch(tokens())
    truth = loss(model(batch.x["input_ids"]), batch.x)
    assert learner.view().loss(batch).item() == truth.item()
    assert learner.view().sample_losses(batch).shape == (6,)
    assert learner.step(tokens()).loss == pytest.approx(truth.item())


def test_a_forward_gets_pairs_from_steps_and_probes_alike() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    model = nn.Linear(3, 2)
    seen: list[type] = []

    def forward(module: nn.Module, batch: Any) -> Any:
        features, _ = batch
        seen.append(type(batch))
        assert features is batch[0] or torch.equal(features, batch[0])
        return module(features)

    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    learner = Learner(
        model,
        sgd(model),
        lambda output, batch: functional.cross_entropy(output, batch[1]),
        probe_gate(loader),
        forward=forward,
    )
    for batch in loader:
        learner.step(batch)
    learner.step(x[:8], y[:8])
    assert learner.steps == 6
    assert {Batch, list} == set(seen)


def test_a_loaders_pairs_need_no_forward() -> None:
    model = nn.Linear(3, 2)
    learner = Learner(model, sgd(model), functional.cross_entropy)
    assert learner.step([torch.randn(4, 3), torch.tensor([0, 1, 0, 1])]).samples == 4
    with pytest.raises(BatchError, match="got a batch of 3 parts"):
        learner.step([torch.randn(4, 3)] * 3)
    with pytest.raises(BatchError, match="got samples without labels"):
        learner.step(torch.randn(4, 3))
    with pytest.raises(BatchError, match="labels beside it"):
        learner.step(Batch(torch.randn(4, 3), torch.zeros(4)), torch.zeros(4))


class Recurrent(nn.Module):
    """Takes padded series with time first, states of several layers, and packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, series: Any, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        _, (hidden, _) = self.rnn(series, state)
        out: Tensor = self.head(hidden[-1])
        return out


def test_time_first_and_states_by_layer() -> None:
    model, y = Recurrent(), torch.tensor([0, 1, 2, 0, 1, 2])
    x = {"series": torch.randn(5, 6, 2), "state": (torch.randn(1, 6, 4), torch.randn(1, 6, 4))}
    batch = Batch(x, y, batch_dim={"series": 1, "state": 1})
    for forward in (None, lambda module, b: module(**b.x)):
        loss: Any = functional.cross_entropy if forward is None else lambda o, b: functional.cross_entropy(o, b.y)
        learner = Learner(model, sgd(model), loss, retry_low_score_half(batch, min_samples=1), forward=forward)
        assert torch.allclose(learner.view().outputs(batch, chunk=4), model(**x), atol=1e-6)
        assert learner.view().sample_losses(batch).mean().item() == pytest.approx(learner.view().loss(batch).item())
        assert learner.step(batch).verdict.committed


def test_packed_sequences() -> None:
    model, y = Recurrent(), torch.tensor([0, 1, 2])
    x = pack_sequence([torch.randn(n, 2) for n in (3, 1, 2)], enforce_sorted=False)
    learner = Learner(model, sgd(model), functional.cross_entropy, probe_gate(Batch(x, y), tolerance=50.0))
    assert torch.allclose(learner.view().outputs(Batch(x, y), chunk=2), model(x), atol=1e-6)
    assert learner.step(x, y).samples == 3


def test_sample_weights_of_a_batch_with_its_own_loss() -> None:
    def halve(screened: ScreenedBatch[Batch], view: View) -> ScreenedBatch[Batch]:
        return screened.weight(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))

    torch.manual_seed(0)
    model, batch = Toy(), tokens()
    losses = torch.stack([model(**Batch(batch).select(slice(i, i + 1)).x).loss for i in range(3)])
    record = Learner(model, sgd(model), guard=Guard(screens=[halve])).step(batch)
    assert record.loss == pytest.approx(losses.sum().item() / 6)


def test_micro_batches_of_dictionaries_add_up() -> None:
    torch.manual_seed(0)
    whole = Toy()
    torch.manual_seed(0)
    parts = Toy()
    one = Learner(whole, sgd(whole)).step(tokens())
    two = Learner(parts, sgd(parts), micro_batch_size=2).step(tokens())
    assert one.loss == pytest.approx(two.loss)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_half_precision_outputs_are_widened_wherever_they_are() -> None:
    kinds: set[torch.dtype] = set()

    def loss(output: CausalLMOutput, batch: Mapping[str, Tensor]) -> Tensor:
        kinds.add(output.logits.dtype)
        return functional.cross_entropy(output.logits.flatten(0, 1), batch["labels"].flatten())

    model = Toy()
    learner = Learner(model, sgd(model), loss, precision="bfloat16")
    learner.step(tokens())
    learner.view().loss(Batch(tokens()))
    assert kinds == {torch.float32}


def test_ranges_are_those_of_samples_and_not_of_labels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 1)

        def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
            found = self.body(pixels).squeeze(1)
            return {"loss": functional.mse_loss(found, labels), "logits": found}

    model = Net()
    probe = Batch({"pixels": torch.rand(20, 3), "labels": torch.linspace(0, 50, 20)})
    learner = Learner(model, sgd(model), guard=probe_gate(probe, task="regression"), input_range=(0, 1))
    learner.step(probe)
    with pytest.raises(BatchError, match=r"from 0 to 2"):
        learner.step({"pixels": torch.tensor([[0.0, 2.0, 1.0]]), "labels": torch.zeros(1)})


def test_a_batch_with_a_mask_is_finite_and_one_with_nan_is_not() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(3, 3)

        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            return self.body(x) + bias

    model, y = Masked(), torch.tensor([0, 0])
    learner = Learner(model, sgd(model), functional.cross_entropy)
    bias = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, -torch.inf, -torch.inf]])
    assert learner.step({"x": torch.ones(2, 3), "bias": bias}, y).verdict.committed
    refused = learner.step({"x": torch.full((2, 3), float("nan")), "bias": bias}, y)
    assert refused.verdict.stage == "finite_values"


ELEMENTWISE = [
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(),
    nn.HuberLoss(),
    partial(functional.huber_loss, delta=2.0),
]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_numbers_are_never_broadcast(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = nn.Linear(3, 1)
    learner = Learner(model, sgd(model), loss)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(LabelError, match=r"got outputs \[4, 1\] and labels \[4\]"):
        learner.step(torch.randn(4, 3), torch.randn(4))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert learner.step(torch.randn(4, 3), torch.randn(4, 1)).verdict.committed


def test_what_a_model_or_loss_must_return() -> None:
    model = nn.Linear(3, 2)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    with pytest.raises(LossError, match="holds no loss"):
        Learner(model, sgd(model)).step(x, y)
    with pytest.raises(ModelError, match=r"returned dict, wanted a torch\.Tensor"):
        Learner(model, sgd(model), functional.cross_entropy, forward=lambda m, b: {"a": 1}).step(x, y)
    with pytest.raises(ModelError, match="with several tensors and none called logits"):
        Learner(model, sgd(model), functional.cross_entropy, forward=lambda m, b: {"a": m(b.x), "b": m(b.x)}).step(x, y)
    with pytest.raises(BatchError, match="the model cannot take"):
        Learner(model, sgd(model), functional.cross_entropy).step({"wrong": x}, y)


def test_a_loss_of_auxiliary_outputs_is_no_obstacle_for_a_gate() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.main(x), "aux": self.aux(x)}

    def loss(output: dict[str, Tensor], y: Tensor) -> Tensor:
        return functional.cross_entropy(output["logits"], y) + 0.3 * functional.cross_entropy(output["aux"], y)

    model = TwoHeads()
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    learner = Learner(model, sgd(model), loss, taster.guard(Batch(x, y), tolerance=20.0))
    assert learner.step(x, y).verdict.committed
    assert learner.view().sample_losses(x, y).shape == (40,)


def refuse(update: Any) -> taster.Verdict:
    return taster.reject("no")


@pytest.mark.parametrize(
    "batch",
    [
        Batch(
            {"a": torch.arange(4.0), "b": [torch.zeros(4, 2), (torch.ones(4),)], "t": ["a", "b", "c", "d"], "s": 1.5}
        ),
        Batch([torch.zeros(2), torch.zeros(3)], [torch.ones(1), torch.ones(4)], batch_dim="list"),
        Batch({"a": torch.arange(8).view(2, 4)}, torch.arange(4), batch_dim={"a": 1}),
    ],
)
def test_nested_batches_come_back_from_quarantine(batch: Batch, tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    record = taster.StepRecord(0, len(batch), 1.0, taster.reject("no"))
    quarantine(record, batch)
    again = quarantine.batch("000001")
    assert again.batch_dim == batch.batch_dim
    before, after = dict(batch.tensors()), dict(again.tensors())
    assert before.keys() == after.keys()
    assert all(torch.equal(after[path], tensor) for path, tensor in before.items())
    if isinstance(batch.x, dict) and "t" in batch.x:
        assert (again.x["t"], again.x["s"]) == (["a", "b", "c", "d"], 1.5)
        assert isinstance(again.x["b"], list)


def test_what_cannot_be_kept_is_told_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Recurrent()
    x = pack_sequence([torch.randn(2, 2), torch.randn(1, 2)])
    quarantine = Quarantine(tmp_path)
    learner = Learner(model, sgd(model), functional.cross_entropy, Guard(gates=[refuse]), on_refusal=quarantine)
    assert not learner.step(x, torch.tensor([0, 1])).verdict.committed
    assert "got a PackedSequence, wanted a padded tensor" in caplog.text
    assert quarantine.entries() == []
    assert isinstance(x, PackedSequence)


class Named(nn.Module):
    """A classifier whose samples come by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


PROBE = Batch({"x": torch.randn(20, 4, generator=torch.Generator().manual_seed(0))}, torch.arange(20) % 3)


def nested_learner(guard: Guard) -> Learner:
    model = Named()
    snapshots = taster.SnapshotBuffer(capacity=3)
    return Learner(model, sgd(model), functional.cross_entropy, guard, snapshots=snapshots)


@pytest.mark.parametrize(
    "make",
    [
        lambda: defences.influence_screen(PROBE),
        lambda: defences.agem_projection(PROBE),
        lambda: defences.loss_alarm(PROBE, generator=torch.Generator()),
        lambda: defences.probe_gate(PROBE, tolerance=50.0) + defences.retry_low_score_half(PROBE),
        lambda: defences.clipping(max_norm=1.0),
    ],
)
def test_stages_that_ask_the_model_take_nested_batches(make: Callable[[], Guard]) -> None:
    assert nested_learner(make()).step(PROBE.select(slice(0, 8))).samples == 8


@pytest.mark.parametrize(
    "make",
    [
        lambda: adversarial_training_correction(steps=1),
        lambda: defences.anomaly_screen(PROBE),
        lambda: defences.discrepancy_screen(PROBE, reference_model=2),
        lambda: defences.dagc(PROBE, learning_rate=0.1, reference_model=2),
    ],
)
def test_stages_that_compute_with_samples_say_so(make: Callable[[], Guard]) -> None:
    def step() -> Any:
        return nested_learner(make()).step(PROBE.select(slice(0, 8)))

    with pytest.raises(BatchError, match="wanted one tensor"):
        step()


def test_attacks_on_nested_batches_say_so() -> None:
    attack = label_flip(generator=torch.Generator())
    with pytest.raises(BatchError, match="attack: got samples that are dict"):
        attack.poison(PROBE, nested_learner(Guard()).view(), taster.Phase.TRIGGER)
