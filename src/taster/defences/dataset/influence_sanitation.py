"""Sanitation by influence: samples are left out that raise the loss on trusted ones."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from taster.core.threat import countermeasure
from taster.defences.dataset.readings import Space, check_space, fitted_rows
from taster.defences.dataset.run_checks import check_run, check_trusted, kept_weights, part_of, smallest
from taster.defences.dataset_defence import DatasetDefence, TrainingRun
from taster.derivatives.convex_models import ConvexSettings, train_convex
from taster.errors import DefenceError
from taster.stats.contamination import conformal_p_values
from taster.utils.seeds import generator
from taster.utils.setting_types import Alpha, PositiveFloat
from taster.utils.settings import validate_settings

_NAME = "influence_sanitation"


@countermeasure("sanitization", "indiscriminate availability")
@validate_settings
def influence_sanitation(
    *,
    share: Annotated[float, Field(gt=0, lt=1)] | None = None,
    alpha: Alpha = 0.05,
    penalty: PositiveFloat = 0.01,
    space: Space = "auto",
    layer: str | None = None,
) -> DatasetDefence:
    """Leaves samples out whose removal would lower the loss on trusted samples most.

    A softmax regression with a penalty is fitted to all samples, and influence functions say to first order what it
    would lose without each of them:

        gain(z) = −1/n ∇L(trusted)' H⁻¹ ∇ℓ(z)

    Either a share of the samples is removed, those with the largest gains above 0; or those with a gain that no more
    than a share `alpha` of trusted samples have. For the latter the trusted samples are halved at random: one half
    gives the loss, the other the gains of honest samples. So at most about that share of honest samples is lost: gains
    of trusted samples, which the regression was not fitted to, are larger than if it had been. Costs two systems of
    equations by conjugate gradients (and one fit, unless `space` is "input").

    Args:
        share: how much is removed at most. None: `alpha` decides.
        alpha: see above; not used with a share.
        penalty: λ of the regression, λ/2 ‖W‖², on rows that are centered and scaled to a mean squared norm of 1.
        space: what the regression is fitted to: "features" of a model that was fitted to all samples, "input", or
            "auto": features if the model is a net.
        layer: the layer of the net whose output is used; None takes the input of the last linear layer.

    Raises:
        SettingError: for a layer with the space "input".

    Raises (when called):
        BatchError, LabelError, DataError: see `taster.defences.dataset.run_checks.check_run` and `check_trusted`.
        DefenceError: for fewer trusted samples than `alpha` needs, features of a model that is no net, and if no two
            classes are left.
        ModelError: if the regression or the equations do not converge.

    Source: Koh and Liang 2017, Eq. 2; in their Section 5.4, without trusted samples, labels are checked by the
        influence of a sample on itself. The threshold is taster's own.
    """
    check_space(space, layer, _NAME)

    def check(samples: int, trusted: int) -> None:
        if share is None and alpha * (trusted // 2 + 1) < 1 - 1e-9:
            raise DefenceError(
                f"{_NAME}: got {trusted} trusted samples, wanted at least {2 * round(1 / alpha)} for alpha {alpha}: "
                "half of them say which gains are large"
            )

    def weigh(run: TrainingRun) -> Tensor:
        samples, trusted = check_run(run, _NAME), check_trusted(run, _NAME, least=2)
        check(len(samples), len(trusted))
        kept_back = len(trusted) // 2 if share is None else 0
        order = torch.randperm(len(trusted), generator=generator(run.seed, _NAME))
        make_rows = fitted_rows(run, space, layer, _NAME)
        own, others = _standardised(make_rows(samples.x).double(), make_rows(trusted.x[order]).double())
        others_y = trusted.y[order]
        model = train_convex(ConvexSettings(l2=penalty, exact_up_to=1), own, samples.y, run.classes)
        along = model.solve(model.mean_loss_gradient(others[kept_back:], others_y[kept_back:]))

        def gains(rows: Tensor, labels: Tensor) -> Tensor:
            return model.influence(rows, labels, along) / len(own)

        found = gains(own, samples.y)
        if share is None:
            removed = _above(found, gains(others[:kept_back], others_y[:kept_back]), alpha)
        else:
            removed = smallest(-found, part_of(share, len(samples))) & (found > 0)
        return kept_weights(~removed, samples.y, _NAME)

    return DatasetDefence(weigh, check)


def _standardised(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Both less the mean of the first, and in units of its root mean squared norm."""
    mean = own.mean(0)
    scale = (own - mean).square().sum(1).mean().sqrt().clamp_min(torch.finfo(own.dtype).tiny)
    return (own - mean) / scale, (others - mean) / scale


def _above(gains: Tensor, honest: Tensor, alpha: float) -> Tensor:
    """Which gains no more than a share of honest ones reach, themselves counted, bool [n]."""
    p_values = conformal_p_values(gains.cpu().numpy(), honest.cpu().numpy())
    return torch.from_numpy(p_values <= alpha).to(gains.device)
