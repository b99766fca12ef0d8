"""The eigenvalue of largest magnitude of a loss's Hessian, without the Hessian: power iteration on its products.

Source: Shen et al. 2020 (Q-BERT), arXiv:1909.05840, section 3; the product of Hessian and vector is
the derivative of gradient times vector (Pearlmutter 1994).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Vector: TypeAlias = list[Tensor]
"""A vector in the space of some weights: one tensor a weight, of its shape."""


def top_eigenvalue(
    product: Callable[[Vector], Vector], start: Vector, *, iterations: int = 50, tolerance: float = 1e-3
) -> float:
    """The eigenvalue of largest magnitude, with its sign, of a symmetric linear map.

    Args:
        product: the map.
        start: a random vector; a zero one gives 0.
        iterations: most calls of ``product``.
        tolerance: stop when an estimate differs by less than this share of it from the one before.

    Returns:
        The last Rayleigh quotient.
    """
    vector, estimate = _normalised(start), 0.0
    for i in range(iterations):
        image = product(vector)
        before, estimate = estimate, _dot(vector, image)
        if i and abs(estimate - before) <= tolerance * abs(estimate):
            break
        vector = _normalised(image)
    return estimate


def hessian_product(
    losses: Sequence[Callable[[], Tensor]], weights: Sequence[Tensor], *, keep: bool = False
) -> Callable[[Vector], Vector]:
    """Vector -> Hessian of the sum of the losses times vector.

    Args:
        losses: computed anew at each call; operations must be twice differentiable (fused attention is not).
        weights: what they are differentiated by; all require gradients.
        keep: hold the graphs of all first derivatives: half the time, and memory for all losses at once.
    """

    def gradients() -> Iterator[tuple[Tensor, ...]]:
        for loss in losses:
            yield torch.autograd.grad(loss(), weights, create_graph=True, materialize_grads=True)

    kept = list(gradients()) if keep else None

    def product(vector: Vector) -> Vector:
        total = [torch.zeros_like(weight) for weight in weights]
        for gradient in gradients() if kept is None else kept:
            slope = torch.stack([(g * v).sum() for g, v in zip(gradient, vector, strict=True)]).sum()
            if not slope.requires_grad:  # a loss that is linear in the weights
                continue
            images = torch.autograd.grad(slope, weights, retain_graph=keep, materialize_grads=True)
            for sum_, image in zip(total, images, strict=True):
                sum_ += image
        return total

    return product


def random_vector(weights: Sequence[Tensor], generator: torch.Generator) -> Vector:
    """Normally distributed numbers, the same on every device."""
    return [torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device) for weight in weights]


def _dot(a: Vector, b: Vector) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def _normalised(vector: Vector) -> Vector:
    norm = _dot(vector, vector) ** 0.5
    return [tensor / norm for tensor in vector] if norm else vector
