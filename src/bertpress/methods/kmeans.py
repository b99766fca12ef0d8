"""k-means that may weigh the error of every number.

Source: Lloyd's algorithm, weighted as in Stock et al. 2020, arXiv:1907.05686, section 3.1.
Departs from it: an empty cluster starts anew at the point that lies farthest from its centroid, which splits that
one's cluster and never raises the objective; many points are clustered by a sample of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bertpress.artifact.codecs.product import nearest

SAMPLE = 2**17
"""Points that centroids are found from; all of them are assigned in the end."""


class Clusters(NamedTuple):
    """What k-means found.

    Attributes:
        centroids: (k, d), float32.
        codes: uint8 (n,), the nearest centroid of every point.
        objective: weighted squared error before each step, over the points that the centroids were found from.
    """

    centroids: Tensor
    codes: Tensor
    objective: list[float]


def kmeans(
    points: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    weights: Tensor | None = None,
    iterations: int = 20,
    sample: int = SAMPLE,
) -> Clusters:
    """Lloyd's algorithm from points drawn at random.

    Args:
        points: (n, d), float32, n >= 1.
        count: centroids, at most 256; no more are made than there are points.
        generator: draws the sample and the first centroids.
        weights: (n, d), at least 0, of each number's squared error; None: all 1.
        iterations: of assigning points and moving centroids.
        sample: most points that the centroids are found from.

    Cost: about n k d multiplications, and as many with ``sample`` for n in each iteration.
    """
    seen, scales = points, weights
    if len(points) > sample:
        rows = torch.randint(len(points), (sample,), generator=generator).to(points.device)
        seen, scales = points[rows], None if weights is None else weights[rows]
    first = torch.randperm(len(seen), generator=generator)[:count].to(points.device)
    centroids, objective = seen[first].clone(), []
    for _ in range(iterations):
        codes = nearest(seen, centroids, scales)
        squares = (seen - centroids[codes.long()]).square_()
        errors = (squares if scales is None else squares.mul_(scales)).sum(1)
        objective.append(float(errors.double().sum()))
        centroids = member_means(seen, codes, scales, otherwise=centroids)
        if len(empty := (codes.bincount(minlength=len(centroids)) == 0).nonzero().flatten()):
            centroids[empty] = seen[errors.topk(len(empty)).indices]
    return Clusters(centroids, nearest(points, centroids, weights), objective)


def member_means(values: Tensor, codes: Tensor, weights: Tensor | None, *, otherwise: Tensor) -> Tensor:
    """The weighted mean of each cluster's members, number by number.

    Args:
        values: (n, d).
        codes: uint8 (n,).
        weights: (n, d); None: all 1.
        otherwise: (k, d), what stands where there is nothing to average.

    Returns:
        (k, d), float32, summed in float64.
    """
    columns = []
    counts = codes.bincount(minlength=len(otherwise)).double()
    for i in range(values.shape[1]):
        column = values[:, i].double()
        if weights is not None:
            scale = weights[:, i].double()
            column, counts = column * scale, codes.bincount(scale, minlength=len(otherwise))
        sums = codes.bincount(column, minlength=len(otherwise))
        columns.append(torch.where(counts > 0, sums / counts, otherwise[:, i].double()))
    return torch.stack(columns, 1).float()
