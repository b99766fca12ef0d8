"""The frozen model that a student learns from: run live, or its outputs read from a cache on disk.

With its outputs cached, an epoch of distillation costs about as much as one of plain fine-tuning.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from bertpress.encoder.slots import Tape
from bertpress.training.cache import TOKENS, Floats, OutputCache, Piece
from bertpress.training.objectives import Reads
from bertpress.training.precision import autocast, in_float32, resolve_dtype

_PREFIX = "teacher_"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of every tensor of a model, with its name, and of its configuration."""
    digest = hashlib.sha256()
    blueprint = getattr(model, "blueprint", None)
    digest.update((blueprint.model_dump_json() if blueprint is not None else type(model).__name__).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_inputs(batch: dict[str, Tensor], *, teacher: bool = False) -> dict[str, Tensor]:
    """What a model reads of a batch; a teacher with a tokenizer of its own has ``teacher_*`` inputs."""
    prefix = _PREFIX if teacher and f"{_PREFIX}input_ids" in batch else ""
    return {name: batch[prefix + name] for name in INPUTS if prefix + name in batch}


class Teacher:
    """A model in eval mode whose weights are never touched.

    Args:
        model: the trained model.
        cache: folder for caches of its outputs; None: always run the model.
        cache_bytes: a cache that would be larger is not made, and the model runs live; None: half of what the disk
            has free.
        answer: gives the logits, from the model's output and the batch, in place of the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        cache: Path | None = None,
        cache_bytes: int | None = None,
        answer: nn.Module | None = None,
    ) -> None:
        self.model, self.folder, self.cache_bytes, self.answer = model, cache, cache_bytes, answer
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.cache: OutputCache | None = None
        self.reads: Reads = {}
        self._digest: str | None = None

    @property
    def digest(self) -> str:
        """Content hash of the weights, computed once."""
        if self._digest is None:
            self._digest = weights_digest(self.model)
            if self.answer is not None:
                self._digest += weights_digest(self.answer)
        return self._digest

    def place(self, device: torch.device, precision: Any = "auto") -> None:
        """Move the model to ``device`` and choose the arithmetic of its matrix products."""
        self.model.to(device)
        if self.answer is not None:
            self.answer.to(device)
        self.device, self.dtype = device, resolve_dtype(precision, device)

    def prepare(
        self,
        data: Any,
        rows: Sequence[int],
        collate: Callable[[list[Any]], dict[str, Tensor]],
        report: Callable[[int, int], None] = lambda done, total: None,
        *,
        reads: Reads | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> bool:
        """Have the outputs for ``rows`` of ``data`` in a cache, if there is a folder and they fit.

        Args:
            data: items with an ``index`` that stays.
            rows: of the data.
            collate: pads items to a batch.
            report: told rows done and rows in all.
            reads: what to keep of the tape beside the logits.
            say: told in one line why there is no cache where it would be too large.

        Returns:
            Whether later calls read the cache.
        """
        self.cache, self.reads = None, reads or {}
        if self.folder is None or not self._constant(data):
            return False
        asked = [(name, None if places is None else sorted(places)) for name, places in sorted(self.reads.items())]
        cache = OutputCache(self.folder, f"{self.digest} {self.dtype} {asked}", data, rows)
        room = _half_of_what_is_free(self.folder) if self.cache_bytes is None else self.cache_bytes
        if cache.fill(lambda part: self._rows([data[i] for i in part], collate), cap_bytes=room, report=report):
            self.cache = cache
        else:
            say(f"the teacher runs live: its outputs would take {cache.size_bytes} of {room} bytes on disk")
        return self.cache is not None

    def __call__(self, batch: dict[str, Tensor], captures: frozenset[str] = frozenset()) -> Any:
        """The output for a batch, in float32 and without gradient; from the cache if that has all that is asked.

        Of what the cache leaves out, layers that no term reads, ``captured`` has None in its place.
        """
        if self.cache is None or not captures <= self.reads.keys():
            return self._run(batch, captures)
        found = self.cache.read(batch["index"].tolist(), batch["input_ids"].shape[1])
        tensors = {piece: torch.from_numpy(array).to(self.device) for piece, array in found.items()}
        logits = next(tensor for piece, tensor in tensors.items() if piece.name == "logits")
        output = with_spans(ModelOutput(logits=logits))
        if captures:
            output["captured"] = {name: _in_place(name, tensors) for name in captures}
        return output

    def _constant(self, data: Any) -> bool:
        """Whether an example always has the same output, one row for each of the student's tokens."""
        if self.answer is not None or getattr(data, "masking", None) is not None:  # masks are drawn anew each epoch
            return False
        head = getattr(getattr(self.model, "blueprint", None), "head", None)
        of_tokens = self.reads or head is None or head.kind not in ("sequence", "embedding")
        other = getattr(data, "teacher", None)
        return other is None or not of_tokens or other.lengths == data.lengths

    def _run(self, batch: dict[str, Tensor], captures: frozenset[str]) -> Any:
        self.model.eval()
        asked = {"capture": captures} if captures else {}
        with torch.no_grad(), autocast(self.dtype, self.device):
            output = self.model(**model_inputs(batch, teacher=True), **asked)
            if self.answer is not None:
                output.logits = self.answer(output, batch)
            return in_float32(output)

    def _rows(
        self, items: list[Any], collate: Callable[[list[Any]], dict[str, Tensor]]
    ) -> tuple[list[Piece], list[Floats]]:
        """What the cache keeps of these items, pads left out."""
        batch = {name: value.to(self.device) for name, value in collate(items).items()}
        kept = list(self._kept(self._run(batch, frozenset(self.reads))))
        lengths = [len(item["input_ids"]) for item in items]
        rows = [
            np.concatenate([array[piece.within(row, tokens)].reshape(-1) for piece, array in kept])
            for row, tokens in enumerate(lengths)
        ]
        return [piece for piece, _ in kept], rows

    def _kept(self, output: Any) -> Iterator[tuple[Piece, Floats]]:
        logits = output["logits"]
        yield _piece("logits", 0, logits, (1,) if logits.ndim == 3 else ())
        for name, places in sorted(self.reads.items()):
            for place, tensor in enumerate(output["captured"][name]):
                if places is None or place in places:
                    yield _piece(name, place, tensor, Tape.TOKEN_AXES[name])


def _half_of_what_is_free(folder: Path) -> int:
    """Bytes on the disk of a folder, which may not be there yet."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free // 2


def _piece(name: str, place: int, tensor: Tensor, token_axes: tuple[int, ...]) -> tuple[Piece, Floats]:
    shape = tuple(TOKENS if axis in token_axes else size for axis, size in enumerate(tensor.shape))
    return Piece(name, place, shape[1:]), tensor.cpu().numpy()


def _in_place(name: str, tensors: dict[Piece, Tensor]) -> tuple[Tensor | None, ...]:
    """The tensors of one name in the order of the tape, None where there is none."""
    found = {piece.place: tensor for piece, tensor in tensors.items() if piece.name == name}
    return tuple(found.get(place) for place in range(max(found, default=-1) + 1))


def with_spans(output: Any) -> Any:
    """Add ``start_logits`` and ``end_logits`` where the logits are those of answer spans, (batch, tokens, 2)."""
    logits = output["logits"]
    if logits.ndim == 3 and logits.shape[-1] == 2:
        output["start_logits"], output["end_logits"] = logits[..., 0], logits[..., 1]
    return output
