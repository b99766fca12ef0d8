"""Which layers stay: index sets, pure functions of depth and count (layers are numbered from 0)."""

from __future__ import annotations

from typing import Literal

Strategy = Literal["top", "bottom", "alternate_odd", "alternate_even", "symmetric", "uniform", "groups"]


def kept_layers(strategy: Strategy, depth: int, drop: int) -> list[int]:
    """Layers that stay when ``drop`` of ``depth`` go.

    Source: Sajjad et al. 2020, arXiv:2004.03844, section 3; ``uniform`` is DistilBERT's choice (arXiv:1910.01108),
    ``groups`` the map of TinyBERT (arXiv:1909.10351, section 4.1), fractions down.  Departs from them: TinyBERT's
    map says what a student learns, not where it starts.

    Args:
        strategy: ``top`` drops the last ones; ``bottom`` the first; ``alternate_odd`` / ``alternate_even`` every
            other one from the top (odd and even as the paper counts, from 1); ``symmetric`` the middle ones;
            ``uniform`` keeps both ends and evenly spaced ones between; ``groups`` the last of each of as many
            groups, which are equal where they can be: then a student starts from the layers that it will learn.
        depth: number of layers there are.
        drop: number of layers that go.

    Raises:
        ValueError: if ``drop`` is out of bounds, which for the alternating strategies end at half the depth.
    """
    if not 0 <= drop < depth:
        raise ValueError(f"drop={drop} must be in [0, {depth - 1}] for {depth} layers")
    everything = list(range(depth))
    keep = depth - drop
    if strategy == "top":
        return everything[:keep]
    if strategy == "bottom":
        return everything[drop:]
    if strategy == "symmetric":
        return everything[: (keep + 1) // 2] + everything[depth - keep // 2 :]
    if strategy == "uniform":
        return [0] if keep == 1 else [(2 * i * (depth - 1) + keep - 1) // (2 * (keep - 1)) for i in range(keep)]
    if strategy == "groups":
        return [(i + 1) * depth // keep - 1 for i in range(keep)]
    parity = 1 if strategy == "alternate_odd" else 0
    candidates = [layer for layer in reversed(everything) if (layer + 1) % 2 == parity]
    if drop > len(candidates):
        raise ValueError(f"drop={drop} must be at most {len(candidates)} for {strategy} of {depth} layers")
    return sorted(set(everything) - set(candidates[:drop]))
