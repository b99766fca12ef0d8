"""Movement pruning whose units are blocks of attention weights, and whole neurons: sparse, small and fast at once.

Source: Lagunas et al. 2021, arXiv:2109.04838, sections 3 and 4, "hybrid": square blocks in the attention matrices, rows
of the first and columns of the second feed-forward matrix; a block stays where ``sigmoid(score) > threshold``; the
threshold rises and a penalty on the sigmoids rises with it, apart for attention and feed-forward matrices; at the end
empty heads and neurons go.  ``fill``: what is left of a head is dense, "hybrid filled".
Departs from it: a neuron goes when its row or its column has gone, and what its bias then adds to every token moves
into the output bias, so that the cut model computes what the masked one does; filled blocks get the values that they
had when they were masked instead of being trained anew by a second run, so a stage that trains should follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

Group = Literal["attention", "ffn"]
GROUPS: tuple[Group, ...] = ("attention", "ffn")
