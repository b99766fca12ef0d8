"""Which tokens a masked language model has to guess, drawn anew each epoch, alike for one seed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertpress.errors import DataError

IGNORED = -100  # the label that the losses leave out


@dataclass(frozen=True)
class Masking:
    """BERT's rule: of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay.

    Attributes:
        mask_id: id of the mask token.
        vocabulary: random tokens are drawn from [0, vocabulary).
        special: ids that are never chosen and never drawn.
        share: fraction of the tokens to choose, (0, 1]; at least one token a text.
        seed: of all draws.
    """

    mask_id: int
    vocabulary: int
    special: frozenset[int]
    share: float
    seed: int = 0

    def __call__(
        self, ids: npt.NDArray[np.int32], index: int, epoch: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Masked ids, and labels (:data:`IGNORED` but at the chosen tokens), by seed, epoch and index."""
        labels = np.full(ids.shape, IGNORED, np.int64)
        free = np.flatnonzero(~np.isin(ids, list(self.special)))
        if not free.size:
            return ids, labels
        rng = np.random.default_rng((self.seed, epoch, index))
        chosen = rng.permutation(free)[: max(1, round(self.share * free.size))]
        labels[chosen] = ids[chosen]
        masked = ids.copy()
        fate = rng.random(chosen.size)
        masked[chosen[fate < 0.8]] = self.mask_id
        swapped = chosen[fate >= 0.9]
        masked[swapped] = rng.integers(0, self.vocabulary, swapped.size)
        return masked, labels


def masking_for(tokenizer: Any, share: float, seed: int = 0) -> Masking:
    """The rule for a tokenizer.

    Raises:
        DataError: the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise DataError("masked-lm: the tokenizer has no mask token")
    return Masking(tokenizer.mask_token_id, len(tokenizer), frozenset(tokenizer.all_special_ids), share, seed)
