"""The neural tangent kernel of wide fully connected ReLU nets, and what training by gradient flow predicts with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MARGIN = 1e-10
"""How near to parallel two samples may be before their angle is taken as a constant, whose derivative is finite."""


def tangent_kernel(a: Tensor, b: Tensor, depth: int) -> Tensor:
    """Θ(a, b), [n, m], of a net of infinite width with `depth` hidden layers of ReLU and no biases.

        Σ⁰ = ⟨a, b⟩ / d,    Σʰ = |a| |b| κ₁(u) / d,   u = Σʰ⁻¹ / (|a| |b| / d)
        Θ⁰ = Σ⁰,            Θʰ = Σʰ + Θʰ⁻¹ κ₀(u)
        κ₀(u) = (π − arccos u) / π,   κ₁(u) = (u (π − arccos u) + √(1 − u²)) / π

    Weights are standard normal, each layer's output is scaled by √(2 / its inputs) behind a ReLU, and by √(1 / d)
    behind the samples, so that |a|² / d stays the same from layer to layer.

    Args:
        a: samples, [n, d] in float64, differentiable.
        b: samples, [m, d].
        depth: hidden layers, at least 1.

    Source: Jacot et al. 2018, Theorem 1; the arc-cosine recursion Cho and Saul 2009.
    """
    d = a.shape[1]
    sizes = _norms(a)[:, None] * _norms(b)[None, :] / d
    covariance = a @ b.T / d
    kernel = covariance
    for _ in range(depth):
        u = (covariance / sizes).clamp(-1 + _MARGIN, 1 - _MARGIN)
        open_angle = math.pi - torch.arccos(u)
        covariance = sizes * (u * open_angle + (1 - u * u).sqrt()) / math.pi
        kernel = covariance + kernel * open_angle / math.pi
    return kernel


def gradient_flow(train: Tensor, test: Tensor, targets: Tensor, time: float) -> Tensor:
    """What a net that begins at 0 predicts after training by gradient flow on the squared error, [m, k].

        f_t(test) = K(test, train) K(train, train)⁻¹ (1 − exp(−t K(train, train) / n)) targets

    By one matrix exponential, which needs no inverse and is differentiable where eigenvalues coincide.

    Args:
        train: K(train, train), [n, n].
        test: K(test, train), [m, n].
        targets: [n, k].
        time: t, of the flow of the mean over samples of half the squared error.

    Source: Jacot et al. 2018, Section 5; as in Yuan and Wu 2021.
    """
    n = len(train)
    rate = time / n
    eye = torch.eye(n, dtype=train.dtype, device=train.device)
    block = torch.cat([torch.cat([-rate * train, rate * eye], 1), torch.zeros_like(torch.cat([eye, eye], 1))])
    # exp of [[−A, B], [0, 0]] has ∫ exp(−sA) ds B from 0 to 1 in its upper right corner.
    integral = torch.linalg.matrix_exp(block)[:n, n:]
    found: Tensor = test @ (integral @ targets)
    return found


def _norms(x: Tensor) -> Tensor:
    # Not below a tiny number, so that a sample of zeros has a derivative.
    return x.square().sum(1).clamp_min(1e-24).sqrt()
