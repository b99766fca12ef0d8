"""What residual branches put out, and the thresholds under which so many of them lie.

Source: SNIP, Lin et al. 2020, arXiv:2010.01791, section 3.
"""

from __future__ import annotations

from torch import Tensor


def below(norms: Tensor, epsilon: float) -> Tensor:
    """Bool: the branches whose function norm lies under the threshold."""
    return norms < epsilon


def threshold_for(norms: Tensor, count: int) -> float:
    """The smallest threshold under which ``count`` branches lie; 0 for none, infinity for all."""
    if count == 0:
        return 0.0
    return float(norms.sort().values[count]) if count < len(norms) else float("inf")


def magnitudes(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest absolute value that each branch puts out over the real tokens.

    Args:
        values: (batch, tokens, branches, size).
        mask: (batch, tokens), 1 for tokens and 0 for pads.

    Returns:
        Two tensors (branches,), float32; the first with gradient.
    """
    sizes, real = values.float().abs(), mask[..., None].float()
    mean = (sizes.mean(-1) * real).sum((0, 1)) / real.sum()
    return mean, (sizes.detach().amax(-1) * real).amax((0, 1))
