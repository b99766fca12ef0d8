"""Weights whose largest singular value stays where it is while training.

Source: Miyato et al. 2018, arXiv:1802.05957, section 2 and appendix A: ``W / sigma(W)``, one power iteration a step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bertpress.methods.transform import WeightTransform

ITERATIONS = 100  # before training; later one a step is enough, as a weight moves little


class SpectralNorm(WeightTransform):
    """Gives the weight with a fixed largest singular value, which one power iteration a training step follows.

    Args:
        weight: (outputs, inputs), as it is now.
        generator: draws the vector that the iteration begins with.
        start: keep the largest singular value of now; False: 1.
    """

    u: Tensor
    target: Tensor

    def __init__(self, weight: Tensor, generator: torch.Generator, *, start: bool) -> None:
        super().__init__()
        u = torch.randn(len(weight), generator=generator).to(weight.device)
        self.register_buffer("u", F.normalize(u, dim=0))
        for _ in range(ITERATIONS):
            self._iterate(weight.detach())
        sigma = torch.linalg.vector_norm(weight.detach().t() @ self.u)
        self.register_buffer("target", sigma if start else torch.ones_like(sigma))

    def _iterate(self, weight: Tensor) -> None:
        self.u.copy_(F.normalize(weight @ (weight.t() @ self.u), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self._iterate(weight.detach())
            # with v = W'u / |W'u| this is u'Wv; a copy, as another look at the weight moves u before the backward pass
            sigma = torch.linalg.vector_norm(weight.t() @ self.u.clone())
            normed: Tensor = weight * (self.target / sigma.clamp(min=1e-12))
        return normed
