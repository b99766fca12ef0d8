"""What all unstructured pruning methods share: masks on weights, exact shares, and zeros that later stages keep."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.bitmap import block_of_zeros, thinned
from bertpress.encoder.grids import Block
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put, transforms
from bertpress.errors import RecipeError
from bertpress.methods.base import Model
from bertpress.methods.transform import WeightTransform


class Mask(WeightTransform):
    """Gives the weight where it is kept and zero elsewhere; no gradient reaches what is not kept.

    Attributes:
        kept: bool, the shape of the weight; may be changed in place while training.
    """

    prunes = True
    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight: Tensor) -> Tensor:
        """Same shape as ``weight``."""
        return weight * self.kept


def mask_of(model: Model, name: str) -> Mask:
    """The mask that lies on a weight."""
    return next(transform for transform in transforms(model, name) if isinstance(transform, Mask))


def largest(scores: Tensor, count: int) -> Tensor:
    """Where the ``count`` largest scores lie: bool, the shape of ``scores``; of equal ones the first are taken.

    Exact whatever the ties, and in one pass of selection instead of a sort.

    Raises:
        ValueError: ``count`` lies outside of 0 and the number of scores, or a score is no number.
    """
    flat = scores.detach().flatten()
    if not 0 <= count <= flat.numel():
        raise ValueError(f"count={count} must be in [0, {flat.numel()}]")
    if bool(flat.isnan().any()):
        raise ValueError("scores must be numbers")
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    bound = flat.kthvalue(flat.numel() - count + 1).values
    kept = flat > bound
    ties = (flat == bound).nonzero().flatten()[: count - int(kept.sum())]
    kept[ties] = True
    return kept.reshape(scores.shape)


def largest_of_all(scores: Mapping[str, Tensor], keep: float, floor: float = 0.0) -> dict[str, Tensor]:
    """Masks of the largest scores, ranked over all weights together.

    Args:
        scores: by weight.
        keep: share of all that is kept, rounded to a whole number of weights.
        floor: share of each weight that is kept whatever the others have; takes from what is left to rank.

    Returns:
        Bool masks by weight; together they keep ``round(keep * total)``, or what the floors need if that is more.
    """
    certain = {name: largest(value, round(floor * value.numel())) for name, value in scores.items()}
    flat = torch.cat([value.detach().float().masked_fill(certain[name], -torch.inf).flatten()
                      for name, value in scores.items()])  # fmt: skip
    held = sum(int(kept.sum()) for kept in certain.values())
    best = largest(flat, max(0, round(keep * flat.numel()) - held))
    parts = best.split([value.numel() for value in scores.values()])
    return {name: certain[name] | part.reshape(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def largest_of_each(scores: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Masks of the largest scores of every weight, the same share of each."""
    return {name: largest(value, round(keep * value.numel())) for name, value in scores.items()}


def with_weights(model: Model, weights: Mapping[str, Tensor]) -> Model:
    """A copy of a model without transforms, with other weights under these names; how it is stored stays."""
    return rebuild(model, model.blueprint, {**model.state_dict(), **weights}, model.storage)


def is_sparse(weight: Tensor, block: Block | None = None) -> bool:
    """Whether a matrix or table has so many zeros that a bitmap of them pays: it must have been pruned."""
    return thinned(weight.detach().cpu(), None, block) is not None


def refuse_zeros(model: Model, method: str) -> None:
    """Refuse a model that single weights were pruned from, where ``method`` would give the zeros other values.

    Raises:
        RecipeError: naming the method and a matrix.
    """
    for name, weight in model.unique_weights():
        if is_sparse(weight):
            raise RecipeError(f"{method}: gives all weights new values, and {name} was pruned; let the pruning follow")


def hold_zeros(model: Model, before: Mapping[str, Stored] | None = None) -> None:
    """Put masks on what an earlier stage pruned, above all other transforms, so that training leaves zeros zero.

    Args:
        model: about to be trained.
        before: how that stage had its weights stored: zeros that lie in blocks need fewer of them to pay.
    """
    for name, weight in list(model.unique_weights()):
        taken = any(
            isinstance(transform, WeightTransform) and transform.prunes for transform in transforms(model, name)
        )
        if not taken and is_sparse(weight, block_of_zeros((before or {}).get(name))):
            put(model, name, Mask(weight.detach() != 0))


def hold_blocks(model: Model, before: Mapping[str, Stored]) -> None:
    """Let weights whose zeros lay in blocks be stored by these blocks again, whatever a stage has said of them since.

    Args:
        model: as the stage leaves it.
        before: how weights were stored when it began.
    """
    for name, weight in model.unique_weights():
        block = block_of_zeros(before.get(name))
        if block is not None and len(block) == weight.ndim:
            store_in_blocks(model, name, block)


def store_in_blocks(model: Model, name: str, block: Block) -> None:
    """Have one bit of the file stand for a block of zeros of this weight, where that pays."""
    stored = thinned(model.get_parameter(name).detach().cpu(), model.storage.get(name), block)
    if stored is not None:
        model.storage[name] = stored
