"""Each matrix on a dictionary of a few values of its own, its outliers untouched, without data or training.

Source: GOBO, Zadeh et al. 2020, MICRO, arXiv:2005.03842, section IV: outliers by the Gaussian of the matrix, the
others in bins of equal population, then rounds of assigning and averaging that watch the L1 error.  The values of a
matrix are sorted once; a cluster is then a run of them, and prefix sums give its mean and its error.
Departs from it: zeros of a pruned matrix stay out of the clustering; few of them keep one entry of the dictionary,
more of them none, where a bitmap costs less than their codes; a weight that a dictionary would not make smaller stays
float.
Which layers are hard is a reconstruction.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from bertpress.artifact.codecs import spec_of
from bertpress.artifact.codecs.codebook import by_number
from bertpress.encoder.surgery import rebuild
from bertpress.methods.base import Context, Model
from bertpress.methods.quantization import FLOAT, Bits, Quantizer

Floats = npt.NDArray[np.floating[Any]]
SHOWN, HISTOGRAM_BINS = 6, 120  # what a report gets to draw


@dataclass(frozen=True)
class Dictionary:
    """What :func:`fit_dictionary` found in a weight.

    Attributes:
        centroids: (2^bits,), float32, ascending.
        mean: of the Gaussian.
        std: of the Gaussian.
        low: the smallest value that is no outlier; infinite if all are.
        high: the largest; minus infinity if all are.
        pruned: whether zeros kept out of the clustering, and stay zero.
        errors: sum of ``|w - centroid|`` of the first codebook and after each round; the last one may be higher.
    """

    centroids: Tensor
    mean: float
    std: float
    low: float
    high: float
    pruned: bool
    errors: tuple[float, ...]

    def outliers(self, weight: Tensor) -> Tensor:
        """Which values stay as they are: bool, the shape of ``weight``."""
        outside = (weight < self.low) | (weight > self.high)
        return outside & (weight != 0) if self.pruned else outside

    def apply(self, weight: Tensor) -> Tensor:
        """The nearest centroid of each value, outliers as they are."""
        centroids = self.centroids.to(weight.device)
        ends = torch.from_numpy(midpoints(self.centroids.numpy())).to(weight.device)
        nearest = centroids[torch.bucketize(weight, ends, out_int32=True)]
        stays = self.outliers(weight)
        return torch.where(stays | (weight == 0) if self.pruned else stays, weight, nearest)


def reach(std: float, log_density: float) -> float:
    """Distance from the mean beyond which the log-density of a Gaussian is below ``log_density``; -1: everywhere."""
    if std == 0:
        return math.inf
    square = -2 * (log_density + math.log(std * math.sqrt(2 * math.pi)))
    return std * math.sqrt(square) if square >= 0 else -1.0


def midpoints(centroids: Floats) -> Floats:
    """The ends of the clusters but for the last; a value right on one belongs to the smaller centroid."""
    wide = centroids.astype(np.float64)
    return ((wide[1:] + wide[:-1]) / 2).astype(np.float32)


def prefix_sums(ordered: Floats) -> Floats:
    """(n + 1,): the sum of the first 0, 1, ... n values, float64."""
    sums = np.zeros(len(ordered) + 1)
    np.cumsum(ordered, dtype=np.float64, out=sums[1:])
    return sums


def run_means(sums: Floats, ends: npt.NDArray[np.int64], otherwise: Floats) -> Floats:
    """The mean of each run of sorted values; ``otherwise`` where a run is empty.  float32, ascending.

    Args:
        sums: see :func:`prefix_sums`.
        ends: (runs + 1,), where the runs begin and end.
        otherwise: (runs,).
    """
    sizes = np.diff(ends)
    means = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), otherwise)
    return np.sort(means.astype(np.float32))  # rounding can swap means of equal values


def equal_population(ordered: Floats, sums: Floats, bins: int) -> Floats:
    """The means of ``bins`` runs of as many values each; with fewer values than bins, the values."""
    ends = np.arange(bins + 1) * len(ordered) // bins
    return run_means(sums, ends, ordered[np.minimum(ends[:-1], len(ordered) - 1)])


def absolute_error(ordered: Floats, sums: Floats, ends: npt.NDArray[np.int64], centroids: Floats) -> float:
    """Sum of ``|w - centroid|`` over all runs."""
    inner = np.clip(np.searchsorted(ordered, centroids), ends[:-1], ends[1:])
    above = sums[ends[1:]] - sums[inner] - centroids * (ends[1:] - inner).astype(np.float64)
    below = centroids * (inner - ends[:-1]).astype(np.float64) - (sums[inner] - sums[ends[:-1]])
    return float((above + below).sum())


def cluster(ordered: Floats, bins: int) -> tuple[Floats, tuple[float, ...]]:
    """Averages and assigns until the L1 error no longer falls.

    Args:
        ordered: (n,), ascending, at least one.
        bins: number of clusters.

    Returns:
        (bins,) centroids with the least error, ascending, and the error of each round; the last one may be higher.
    """
    sums = prefix_sums(ordered)
    best = centroids = equal_population(ordered, sums, bins)
    errors: list[float] = []
    while True:
        inner = np.searchsorted(ordered, midpoints(centroids), side="right")
        ends = np.concatenate([[0], inner, [len(ordered)]])
        errors.append(absolute_error(ordered, sums, ends, centroids))
        if len(errors) > 1 and errors[-1] >= errors[-2]:
            return best, tuple(errors)
        best, centroids = centroids, run_means(sums, ends, centroids)


def fit_dictionary(weight: Tensor, bits: int, log_density: float = -4.0) -> Dictionary:
    """The dictionary of one weight.

    Args:
        weight: float, any shape.
        bits: 2^bits centroids.
        log_density: outliers are values whose log-density under the Gaussian of the weight is below it; in units of
            the raw weights, so the narrower the weights, the fewer outliers.
    """
    ordered = np.sort(weight.detach().float().cpu().numpy(), axis=None)
    entries = 2**bits
    nothing = np.float32(0)  # of the same type, or all values would be converted
    first, last = np.searchsorted(ordered, nothing), np.searchsorted(ordered, nothing, side="right")
    zeros, total = int(last - first), len(ordered)
    if pruned := zeros * max(entries, FLOAT) >= total:  # they would fill a bin, or a bitmap of them pays for floats
        ordered = np.delete(ordered, np.s_[first:last])
    entry = pruned and zeros * bits <= total  # a bitmap of them does not pay for codes
    mean, std = _gaussian(ordered)
    radius = reach(std, log_density)
    first = np.searchsorted(ordered, np.float32(mean - radius))
    last = np.searchsorted(ordered, np.float32(mean + radius), side="right")
    regular = ordered[first:last]
    if not len(regular):
        return Dictionary(torch.zeros(entries), mean, std, math.inf, -math.inf, pruned, ())
    centroids, errors = cluster(regular, entries - entry)
    if entry:
        centroids = np.sort(np.append(centroids, np.float32(0)))
    return Dictionary(torch.from_numpy(centroids), mean, std, float(regular[0]), float(regular[-1]), pruned, errors)


def _gaussian(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation; zeros where there are no values."""
    if not len(values):
        return 0.0, 0.0
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, evenly spaced, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(index * (len(names) - 1) / (most - 1))] for index in range(most)]


def picture(weight: Tensor, dictionary: Dictionary) -> dict[str, Any]:
    """What the report draws of a weight: its histogram, its centroids, and where outliers begin, as plain data."""
    counts, edges = np.histogram(weight.detach().double().cpu().numpy(), bins=HISTOGRAM_BINS)
    limits = (dictionary.low, dictionary.high)
    low, high = limits if math.isfinite(dictionary.low) else (None, None)
    return {
        "histogram": {"start": float(edges[0]), "end": float(edges[-1]), "counts": counts.tolist()},
        "centroids": dictionary.centroids.tolist(),
        "low": low,
        "high": high,
        "outliers": int(dictionary.outliers(weight).sum()),
    }


class Gobo(Quantizer):
    """Replace the weights of each matrix by the nearest of a few values, and keep the rare ones that lie far out."""

    cite: ClassVar[str] = "Zadeh et al., 2020"

    bits: Bits = Field(3, description="Of the linear layers; 32 leaves them float.")
    embedding_bits: Bits = Field(4, description="Of the token table; 32 leaves it float.")
    hard_bits: Bits = Field(4, description="Of value and inner matrices of the hard layers.")
    hard_layers: int = Field(0, ge=0, le=1000, description="How many layers, from the first, are hard.")
    outlier_log_density: float = Field(
        -4.0, ge=-1000, le=10, description="Values less probable under the Gaussian of their matrix are outliers."
    )

    def finish(self, model: Model, ctx: Context) -> Model:
        """Put each weight on its dictionary and say how it is stored."""
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        storage = dict(model.storage)
        total = kept = 0
        widths = self.widths(model)
        shown = spread([name for name in widths if name.startswith("encoder.layers.")], SHOWN)
        pictures: list[dict[str, Any]] = []
        for name, bits in widths.items():
            weight = state[name]
            dictionary = fit_dictionary(weight, bits, self.outlier_log_density)
            stored, outliers = by_number(dictionary.centroids), int(dictionary.outliers(weight).sum())
            layout = stored.layout(spec_of(weight), [{"outliers": outliers}, {}])
            if sum(part.bytes for part in layout.values()) < spec_of(weight).bytes:
                pictures += [{"name": name, **picture(weight, dictionary)}] if name in shown else []
                state[name], storage[name] = dictionary.apply(weight), stored
                total, kept = total + weight.numel(), kept + outliers
        new = rebuild(model, model.blueprint, state, storage)
        if pictures:
            ctx.notes["gobo"] = pictures
        ctx.say(f"quantize/gobo keeps {kept} of {total} weights as outliers")
        return new

    def widths(self, model: Model) -> dict[str, int]:
        """The bits of every weight that gets a dictionary, by its name."""
        hard = re.compile(r"encoder\.layers\.(\d+)\.(attention\.value|ffn\.\d+\.inner)(\.up|\.down)?\.weight")
        found = dict(self.tables(model))
        for name in self.matrices(model):
            match = hard.fullmatch(name)
            found[name] = self.hard_bits if match and int(match[1]) < self.hard_layers else self.bits
        return {name: bits for name, bits in found.items() if bits != FLOAT}

    @classmethod
    def noop(cls) -> Any:
        """All bits."""
        return cls(bits=FLOAT, embedding_bits=FLOAT)
