"""An engine that answers questions about passages whose lower states it keeps.

It takes the padded batches of every engine, cuts each row where the second segment begins, runs the lower half on what
it has not seen, and the upper half on the joined states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bertpress.engines.base import INPUTS, Array, Halves, inputs_of
from bertpress.engines.states import States


class Passages:
    """Runs the two halves of a model; the second text of each row comes from ``states`` or goes there."""

    name: ClassVar[str] = "passages"

    def __init__(self, halves: Halves, states: States) -> None:
        self.halves, self.states = halves, states

    def logits(self, batch: Mapping[str, Any]) -> Array:
        """See :class:`bertpress.engines.base.Engine`."""
        arrays = inputs_of(batch, INPUTS)
        ids, mask, second = (arrays[name] for name in INPUTS)
        second = second * mask
        lengths = mask.sum(1)
        firsts = lengths - second.sum(1)
        questions = self._lower([row[:first] for row, first in zip(ids, firsts, strict=True)], segment=0)
        passages = [self.of(row[first:end]) for row, first, end in zip(ids, firsts, lengths, strict=True)]
        joined = np.zeros((*ids.shape, questions[0].shape[-1]), np.float32)
        for row, question, passage in zip(joined, questions, passages, strict=True):
            row[: len(question)] = question
            row[len(question) : len(question) + len(passage)] = passage
        return self.halves.upper(joined, mask)

    def of(self, ids: Array) -> Array:
        """The states of a passage, (tokens, hidden).

        Where there are none they are computed, of this passage alone so that no other changes a bit, and kept.

        Args:
            ids: (tokens,), as they stand in the second segment.
        """
        found = self.states.get(ids)
        return self.states.put(ids, self._lower([ids], segment=1)[0]) if found is None else found

    def file_bytes(self) -> int:
        """See :class:`bertpress.engines.base.Engine`."""
        return self.halves.file_bytes()

    def _lower(self, texts: Sequence[Array], segment: int) -> list[Array]:
        """The lower half on token ids, padded together."""
        lengths = np.array([len(ids) for ids in texts])
        mask = (np.arange(max(1, lengths.max())) < lengths[:, None]).astype(np.int64)
        ids = np.zeros_like(mask)
        ids[mask == 1] = np.concatenate(texts)
        states = self.halves.lower(dict(zip(INPUTS, (ids, mask, np.full_like(mask, segment)), strict=True)))
        return [row[:length] for row, length in zip(states, lengths, strict=True)]
