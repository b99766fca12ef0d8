"""Weights as the centroids of their subvectors: how they are found, and how they learn.

Source: iterative product quantization with one set of centroids for a matrix, Stock et al. 2020, arXiv:1907.05686,
section 3: k-means weighted by activations, then centroids that learn by the mean gradient of their members.
Departs from it: zeros of a pruning mask stay zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from bertpress import tasks
from bertpress.artifact.codecs import Stored
from bertpress.artifact.codecs.product import by_centroids, lookup
from bertpress.encoder.grids import Grid, from_integers, symmetric_grid, to_integers
from bertpress.methods import graphs
from bertpress.methods.base import Model
from bertpress.methods.kmeans import kmeans, member_means
from bertpress.training.precision import autocast, in_float32, resolve_dtype
from bertpress.training.teacher import model_inputs

_CHANCE = 1e-3  # a float weight has the odd zero; more of them are a mask's


@dataclass(frozen=True)
class ProductCode:
    """A weight whose subvectors are centroids.

    Attributes:
        centroids: (k, d), float32.
        codes: uint8, one for each subvector, row after row.
        shape: of the weight.
        kept: bool, ``shape``: zeros of a pruning mask stay zeros; None where the weight has none.
        grid: of the centroids, once they are integers.
    """

    centroids: Tensor
    codes: Tensor
    shape: tuple[int, ...]
    kept: Tensor | None = None
    grid: Grid | None = None

    @property
    def weight(self) -> Tensor:
        """Float32, ``shape``."""
        return lookup(self.centroids, self.codes, self.shape, self.kept)

    def moved(self, centroids: Tensor) -> ProductCode:
        """The same code with other centroids."""
        return replace(self, centroids=centroids)

    def mean_gradient(self, gradient: Tensor) -> Tensor:
        """(k, d): for each centroid the mean gradient of its members; 0 where it has none.

        Args:
            gradient: of the weight, ``shape``.
        """
        dim = self.centroids.shape[1]
        kept = None if self.kept is None else self.kept.reshape(-1, dim)
        return member_means(gradient.reshape(-1, dim), self.codes, kept, otherwise=torch.zeros_like(self.centroids))

    def rounded(self) -> ProductCode:
        """The same code with centroids of 8 bits, one scale for all."""
        grid = symmetric_grid(self.centroids, 8, (0, 0))
        return replace(self, centroids=from_integers(to_integers(self.centroids, grid), grid), grid=grid)

    def stored(self) -> Stored:
        """How the weight is stored."""
        masked = self.kept is not None
        if self.grid is None:
            return by_centroids(self.centroids, masked=masked)
        integers = to_integers(self.centroids, self.grid).to(torch.int8)
        return by_centroids(integers, self.grid.scale.reshape(()), masked=masked)


def product_code(
    weight: Tensor,
    dim: int,
    count: int,
    generator: torch.Generator,
    *,
    energy: Tensor | None = None,
    iterations: int = 20,
) -> ProductCode:
    """Cluster the subvectors of a weight.

    Args:
        weight: (rows, columns), float32; ``dim`` divides the columns.
        dim: columns of a subvector.
        count: centroids, at most 256.
        generator: see :func:`kmeans`.
        energy: (columns,), what an error costs there, in any unit: squares of the input; None: alike everywhere.
        iterations: see :func:`kmeans`.
    """
    kept = weight != 0
    scales: Tensor | None = None
    if masked := float((~kept).float().mean()) > _CHANCE:
        scales = kept.float()
    if energy is not None:
        # an input that calibration text never moved still counts a little
        share = energy / energy.mean().clamp(min=torch.finfo(torch.float32).tiny) + 0.01
        scales = share.expand(weight.shape) if scales is None else scales * share
    points = weight.reshape(-1, dim)
    weights = None if scales is None else scales.reshape(-1, dim)
    found = kmeans(points, count, generator, weights=weights, iterations=iterations)
    return ProductCode(found.centroids, found.codes, tuple(weight.shape), kept if masked else None)


def pays(shape: tuple[int, ...], dim: int, count: int) -> bool:
    """Whether a weight of this shape can be cut, and codes and centroids take less than its float32 numbers."""
    rows, columns = shape
    codes = rows * columns // dim
    return columns % dim == 0 and 0 < codes + 4 * min(count, codes) * dim < 4 * rows * columns


def tune(
    model: Model,
    codes: Mapping[str, ProductCode],
    batches: Sequence[dict[str, Tensor]],
    loss: Callable[[int, Tensor], Tensor],
    *,
    steps: int,
    learning_rate: float,
) -> dict[str, ProductCode]:
    """Adam on the centroids, each by the mean gradient of its members; all other weights stay.

    Args:
        model: holds the weights that the codes give; left with those of the codes that are returned.
        codes: by name of the weight.
        batches: taken in turn.
        loss: of the number of a batch and its logits.
        steps: updates.
        learning_rate: falls linearly to 0.
    """
    device = next(model.parameters()).device
    dtype = resolve_dtype("auto", device)
    centroids = {name: nn.Parameter(code.centroids.clone()) for name, code in codes.items()}
    optimizer = torch.optim.Adam(centroids.values(), lr=learning_rate, eps=1e-12)  # means of many gradients are small
    for step in range(steps):
        number = step % len(batches)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        for name, gradient in centroid_gradients(model, codes, batches[number], partial(loss, number), dtype).items():
            centroids[name].grad = gradient
        optimizer.step()
        codes = {name: code.moved(centroids[name].detach()) for name, code in codes.items()}
        write(model, codes)
    return dict(codes)


def centroid_gradients(
    model: Model,
    codes: Mapping[str, ProductCode],
    batch: dict[str, Tensor],
    loss: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """(k, d) by name: see :meth:`ProductCode.mean_gradient`.

    A batch whose graph would take more than its share of memory is run twice: for its logits, by which the loss is
    differentiated, and in pieces from these on.  That is exact for any loss, also one that is no mean over examples.

    Args:
        model: in evaluation mode.
        codes: by name of the weight.
        batch: padded.
        loss: of the logits of the whole batch.
        dtype: of matrix products.
    """
    weights = [model.get_parameter(name) for name in codes]

    def logits_of(piece: dict[str, Tensor]) -> Tensor:
        with autocast(dtype, piece["input_ids"].device):
            return cast(Tensor, in_float32(model(**model_inputs(piece))).logits)

    size = graphs.affordable(batch, graphs.token_bytes(model.blueprint, graphs.ONCE))
    if size >= tasks.examples_of(batch):
        found = torch.autograd.grad(loss(logits_of(batch)), weights, materialize_grads=True)
        return {name: code.mean_gradient(one) for (name, code), one in zip(codes.items(), found, strict=True)}
    pieces = list(tasks.pieces_of(batch, size))
    with torch.no_grad():
        parts = [logits_of(piece) for piece in pieces]
    whole = torch.cat(parts).requires_grad_()
    (slope,) = torch.autograd.grad(loss(whole), [whole])
    sums = {name: torch.zeros_like(code.centroids) for name, code in codes.items()}
    for piece, by_logits in zip(pieces, slope.split([len(part) for part in parts]), strict=True):
        found = torch.autograd.grad(logits_of(piece), weights, by_logits, materialize_grads=True)
        for (name, code), one in zip(codes.items(), found, strict=True):
            sums[name] += code.mean_gradient(one)
        del found  # as large as the model; the next ones must not come on top
    return sums


def write(model: Model, codes: Mapping[str, ProductCode]) -> None:
    """Put the weights that codes give into a model."""
    with torch.no_grad():
        for name, code in codes.items():
            model.get_parameter(name).copy_(code.weight)
