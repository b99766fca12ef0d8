"""Weight transforms: parametrizations that methods put on weights while training, and what becomes of them.

Transforms of a weight stack in the order in which methods attach (mask, then fake quantizer); the optimizer trains
the weight below them.  After training the runner bakes each weight once and asks every transform, in that order, how
the result is stored.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bertpress.artifact.codecs import Stored, on_grid
from bertpress.encoder.grids import Grid, fake_quantize
from bertpress.encoder.transforms import transformed, transforms
from bertpress.methods.base import Model


class WeightTransform(nn.Module):
    """Gives, in ``forward``, the weight that computes for the weight that is trained; same shape, float32.

    Attributes:
        latent: baking leaves it out, so that a later stage finds the weight that was trained.
        prunes: decides which values are zero, so that zeros of earlier stages are its business.
    """

    latent: bool = False
    prunes: bool = False

    def stored(self, weight: Tensor, before: Stored | None) -> Stored | None:
        """How the baked weight is stored.

        Args:
            weight: baked, as the last transform left it.
            before: what the transforms below said.
        """
        return before


class FakeQuantizer(WeightTransform):
    """Puts a weight on an integer grid that follows it at each step; gradients pass straight through.

    Args:
        grid_of: the grid for a weight.
    """

    def __init__(self, grid_of: Callable[[Tensor], Grid]) -> None:
        super().__init__()
        self.grid_of = grid_of
        self.grid: Grid | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        self.grid = self.grid_of(weight.detach())
        return fake_quantize(weight, self.grid)

    def stored(self, weight: Tensor, before: Stored | None) -> Stored:
        """On the grid of the last pass, which is the one that was baked."""
        assert self.grid is not None
        return on_grid(self.grid)


def bake(model: Model) -> None:
    """Replace every weight transform by the weight that it gives, once, and write down how it is stored."""
    for name in list(transformed(model)):
        stack = transforms(model, name)
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        for i, transform in enumerate(stack):
            if isinstance(transform, WeightTransform) and transform.latent:
                stack[i] = module.parametrizations[attribute][i] = nn.Identity()
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
        stored = model.storage.pop(name, None)
        for transform in stack:
            if isinstance(transform, WeightTransform):
                stored = transform.stored(getattr(module, attribute).detach(), stored)
        if stored is not None:
            model.storage[name] = stored
