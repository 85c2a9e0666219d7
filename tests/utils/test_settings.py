"""Settings are checked whoever calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import tiny_batch

from taster.attacks import accumulative, random_noise
from taster.defences import clipping, probe_gate
from taster.errors import SettingError
from taster.models import small_cnn


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clipping(norm="L2"), "clipping: norm: got 'L2', wanted 'linf' or 'l2'"),
        (lambda: clipping(max_norm=-1.0), "clipping: max_norm: got -1.0, wanted greater than 0"),
        (lambda: clipping(max_norm=float("nan")), "clipping: max_norm: got nan"),
        (lambda: probe_gate(tiny_batch(), tolerance="2"), "probe_gate: tolerance: got '2'"),
        (lambda: random_noise(torch.Generator(), epsilon=-0.1), "random_noise: epsilon: got -0.1"),
        (
            lambda: accumulative(tiny_batch(), tiny_batch, torch.Generator(), pgd_steps=0, trigger_batch="odd"),
            r"pgd_steps: got 0.*trigger_batch: got 'odd'",
        ),
        (lambda: small_cnn((1, 8, 8), 10, norm="layer"), "small_cnn: norm: got 'layer'"),
    ],
)
def test_a_setting_that_is_not_allowed_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        call()


def test_an_unknown_setting_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="strength"):
        clipping(strength=3)
