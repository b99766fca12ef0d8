"""Batches of similar length, shuffled by a pure function of seed and epoch, and their padding."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from bertpress.tasks.masking import IGNORED

_SPAN = 50  # batches that are shuffled together and then sorted by length: little padding, still random


class BucketSampler(Sampler[list[int]]):
    """Lists of feature indices, a batch each, for ``DataLoader(batch_sampler=...)``.

    Shuffled: all examples are permuted, runs of 50 batches are sorted by length and cut, and the batches
    permuted again.  Not shuffled: longest first, so that a batch that does not fit fails at once.

    Args:
        lengths: tokens of each feature.
        batch_size: examples in a batch (features, or groups of features).
        seed: with ``epoch`` it decides the order, and nothing else does.
        epoch: see ``seed``.
        shuffle: False for evaluation.
        drop_last: leave out what does not fill a batch.
        group: consecutive features that form one example (``Encoded.group``).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        group: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if len(lengths) % group:
            raise ValueError(f"{len(lengths)} features are not in groups of {group}")
        self.lengths = np.asarray(lengths, np.int64).reshape(-1, group).max(1)
        self.batch_size, self.group = batch_size, group
        self.seed, self.epoch, self.shuffle, self.drop_last = seed, epoch, shuffle, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.lengths)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for examples in self._examples():
            features = examples[:, None] * self.group + np.arange(self.group)
            yield features.ravel().tolist()

    def _examples(self) -> list[Any]:
        size = self.batch_size
        if not self.shuffle:
            order = np.argsort(-self.lengths, kind="stable")
            return [order[low : low + size] for low in range(0, len(self) * size, size)]
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        if self.drop_last:
            order = order[: len(self) * size]
        runs = [order[low : low + _SPAN * size] for low in range(0, len(order), _SPAN * size)]
        order = np.concatenate([run[np.argsort(self.lengths[run], kind="stable")] for run in runs]) if runs else order
        batches = [order[low : low + size] for low in range(0, len(order), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class Collate:
    """Pad items of :class:`~bertpress.tasks.Encoded` to the longest of the batch, on the right.

    The batch holds ``input_ids``, ``attention_mask`` and ``token_type_ids`` (batch, tokens), ``index``
    (batch,) and the labels: (batch,) class ids or scores, (batch, labels) 0 / 1, (batch, tokens) tags with
    -100 at pads, or ``start_positions`` and ``end_positions``.  The sides of ``sentence-similarity`` are
    neighbours: 2 x batch sequences, batch labels.

    Args:
        pad_id: the tokenizer's pad token.
        teacher_pad_id: that of the teacher's tokenizer, where items carry what it reads: ``teacher_*`` inputs.
        multiple_of: round the padded length up to a multiple (8 suits tensor cores), but not above
            ``max_length``.
        max_length: most tokens that the model takes.
    """

    def __init__(
        self, pad_id: int = 0, *, multiple_of: int = 1, max_length: int | None = None, teacher_pad_id: int = 0
    ) -> None:
        if multiple_of < 1:
            raise ValueError(f"multiple_of={multiple_of} must be at least 1")
        self.pad_id, self.multiple_of, self.max_length = pad_id, multiple_of, max_length
        self.teacher_pad_id = teacher_pad_id

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The padded batch of these items."""
        batch = self._inputs(items, "", self.pad_id)
        width = batch["input_ids"].shape[1]
        if "teacher_input_ids" in items[0]:
            batch |= self._inputs(items, "teacher_", self.teacher_pad_id)
        batch["index"] = torch.tensor([item["index"] for item in items])
        for name in ("start_positions", "end_positions"):
            if name in items[0]:
                batch[name] = torch.tensor([item[name] for item in items])
        labelled = [item for item in items if "labels" in item]
        if labelled:
            batch["labels"] = self._labels(labelled, width)
        return batch

    def _inputs(self, items: Sequence[Mapping[str, Any]], prefix: str, pad_id: int) -> dict[str, Tensor]:
        sizes = [len(item[f"{prefix}input_ids"]) for item in items]
        longest = max(sizes)
        width = -(-longest // self.multiple_of) * self.multiple_of
        if self.max_length is not None:
            width = max(longest, min(width, self.max_length))
        lengths = torch.tensor(sizes)
        found = {
            f"{prefix}input_ids": self._padded(items, f"{prefix}input_ids", width, pad_id),
            f"{prefix}attention_mask": (torch.arange(width) < lengths[:, None]).long(),
        }
        if (segments := f"{prefix}token_type_ids") in items[0]:
            found[segments] = self._padded(items, segments, width, 0)
        return found

    def _labels(self, items: Sequence[Mapping[str, Any]], width: int) -> Tensor:
        first = items[0]["labels"]
        if isinstance(first, np.ndarray) and first.dtype == np.int64:
            return self._padded(items, "labels", width, IGNORED)
        if isinstance(first, np.ndarray):
            return torch.from_numpy(np.stack([item["labels"] for item in items]))
        kind = torch.float32 if isinstance(first, float) else torch.int64
        return torch.tensor([item["labels"] for item in items], dtype=kind)

    @staticmethod
    def _padded(items: Sequence[Mapping[str, Any]], name: str, width: int, fill: int) -> Tensor:
        out = np.full((len(items), width), fill, np.int64)
        for row, item in zip(out, items, strict=True):
            row[: len(item[name])] = item[name]
        return torch.from_numpy(out)


def examples_of(batch: Mapping[str, Tensor]) -> int:
    """Examples of a labelled batch, whose tensors have as many rows or twice as many (``sentence-similarity``)."""
    return min(len(tensor) for tensor in batch.values())


def pieces_of(batch: Mapping[str, Tensor], size: int) -> Iterator[dict[str, Tensor]]:
    """The batch in pieces of at most ``size`` examples, in order; the sides of an example stay together."""
    count = examples_of(batch)
    for at in range(0, count, size):
        yield {
            name: tensor[at * (len(tensor) // count) : (at + size) * (len(tensor) // count)]
            for name, tensor in batch.items()
        }
