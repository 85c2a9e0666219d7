"""Training without the labels: features from pairs of views of the images, and a linear classifier on them."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from taster.core.fitting import Classifier
from taster.core.threat import countermeasure
from taster.defences.dataset.net_epochs import net_fit
from taster.defences.dataset.run_checks import check_images, check_trusted
from taster.defences.dataset_defence import RobustTraining, TrainingRun
from taster.errors import DefenceError, ModelError
from taster.selfsup.image_views import ViewSettings
from taster.selfsup.linear_probe import fit_linear_probe
from taster.selfsup.pretext_nets import MakePretextNet, MoCo, SimCLR, SimSiam
from taster.selfsup.pretraining import PretrainingSettings, pretrain
from taster.utils.seeds import derived_seed, generator, seeded
from taster.utils.setting_types import PositiveCount, PositiveFloat
from taster.utils.settings import settings_group, validate_settings


@settings_group
class ProbeSettings:
    """The linear classifier on self-supervised features.

    Attributes:
        probe_labels: what it is trained on: the "training set" with its labels, or the "trusted" samples.
        probe_c: inverse strength of its l2 penalty, on features of deviation 1.
        least: trusted samples that "trusted" asks for.
    """

    probe_labels: Literal["training set", "trusted"] = "training set"
    probe_c: PositiveFloat = 0.01
    least: PositiveCount = 20


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def simclr(
    *,
    pretraining: PretrainingSettings = PretrainingSettings(),
    views: ViewSettings = ViewSettings(),
    probe: ProbeSettings = ProbeSettings(),
    temperature: PositiveFloat = 0.5,
) -> RobustTraining:
    """Trains the features of a net by SimCLR, without labels, and a linear classifier on them.

    Noise that goes with the labels is no help in telling images apart, so that it does not keep such features from
    being learned; and wrong labels can mislead no more than the linear classifier. The recipe's epochs, learning rate,
    crops, flips and precision have no part in it.

    Args:
        pretraining: see `taster.selfsup.PretrainingSettings`.
        views: see `taster.selfsup.ViewSettings`.
        probe: see `ProbeSettings`.
        temperature: τ of the loss.

    Raises (when called):
        DefenceError: unless samples are images [n, 1 or 3, h, w] within 0 to 1, the training is of a whole net with a
            linear layer, and its loss stays finite.
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run` and `check_trusted`.

    Source: Chen et al. 2020 ("A simple framework for contrastive learning of visual representations"), with SGD in
        place of LARS; see `taster.selfsup.SimCLR`. Against noise He, Zha and Katabi 2023 and Ren et al. 2023.
    """

    def make(net: torch.nn.Module, width: int) -> SimCLR:
        heads = {"hidden": pretraining.hidden, "out": pretraining.projection}
        return SimCLR(net, width, **heads, temperature=temperature)

    return _self_supervised("simclr", make, pretraining, views, probe)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def moco(
    *,
    pretraining: PretrainingSettings = PretrainingSettings(),
    views: ViewSettings = ViewSettings(),
    probe: ProbeSettings = ProbeSettings(),
    temperature: PositiveFloat = 0.2,
    key_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
    queue: PositiveCount = 1024,
) -> RobustTraining:
    """Trains the features of a net by MoCo, without labels, and a linear classifier on them; see `simclr`.

    Args:
        pretraining, views, probe: see `simclr`.
        temperature: τ of the loss.
        key_momentum: m, of the net that makes the keys.
        queue: keys of earlier batches that are kept; more than there are images repeats them.

    Raises (when called): see `simclr`.

    Source: He et al. 2020 ("Momentum contrast for unsupervised visual representation learning"), with the projection
        and the temperature of MoCo v2; see `taster.selfsup.MoCo`.
    """

    def make(net: torch.nn.Module, width: int) -> MoCo:
        heads = {"hidden": pretraining.hidden, "out": pretraining.projection}
        return MoCo(net, width, **heads, temperature=temperature, momentum=key_momentum, queue=queue)

    return _self_supervised("moco", make, pretraining, views, probe)


@countermeasure("regularization", "indiscriminate availability")
@validate_settings
def simsiam(
    *,
    pretraining: PretrainingSettings = PretrainingSettings(),
    views: ViewSettings = ViewSettings(),
    probe: ProbeSettings = ProbeSettings(),
) -> RobustTraining:
    """Trains the features of a net by SimSiam, without labels, and a linear classifier on them; see `simclr`.

    Args:
        pretraining, views, probe: see `simclr`.

    Raises (when called): see `simclr`.

    Source: Chen and He 2021 ("Exploring simple siamese representation learning"); see `taster.selfsup.SimSiam`.
    """

    def make(net: torch.nn.Module, width: int) -> SimSiam:
        return SimSiam(net, width, hidden=pretraining.hidden, out=pretraining.projection)

    return _self_supervised("simsiam", make, pretraining, views, probe)


def _self_supervised(
    name: str, make: MakePretextNet, pretraining: PretrainingSettings, views: ViewSettings, probe: ProbeSettings
) -> RobustTraining:
    def train(run: TrainingRun) -> tuple[Classifier, None]:
        samples, fit = check_images(run, name), net_fit(run, name)
        trusted = check_trusted(run, name, least=probe.least) if probe.probe_labels == "trusted" else None
        learner = fit.learner()
        with seeded(derived_seed(run.seed, f"{name} heads"), samples.x.device):
            try:
                pretrain(make, learner.model, samples.x, pretraining, views, generator(run.seed, f"{name} views"))
            except ModelError as error:
                raise DefenceError(f"{name}: {error}") from error
        learner.model.eval()
        return fit_linear_probe(learner.view(), trusted or samples, run.classes, c=probe.probe_c), None

    return RobustTraining(train)
