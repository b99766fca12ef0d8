"""Weights of a transformers checkpoint: read from safetensors, renamed and checked, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bertpress.encoder.blueprint import Blueprint
from bertpress.encoder.families.base import BASE, Family
from bertpress.errors import ModelError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_BUFFERS = ("position_ids", "token_type_ids")
_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}  # of norms in checkpoints that came from TensorFlow
_OTHER_FORMATS = ("pytorch_model*.bin", "tf_model.h5", "flax_model.msgpack", "model.ckpt*")
_CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file({{k: v.contiguous().clone() for k, v in torch.load('{old}', weights_only=True).items()}}, "
    "'{new}')\""
)


def read_weights(folder: Path) -> dict[str, Tensor] | None:
    """All tensors of ``model.safetensors`` or of its shards, mapped into memory; None if there are no weights.

    Raises:
        ModelError: a file is corrupt or missing, or the weights are in another format.
    """
    if (folder / WEIGHTS).is_file():
        return _load(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            paths = [folder / Path(shard).name for shard in sorted(set(index["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(f"{folder / INDEX}: no index of weights ({error})") from None
        return {name: tensor for path in paths for name, tensor in _load(path).items()}
    for path in sorted(path for pattern in _OTHER_FORMATS for path in folder.glob(pattern)):
        raise ModelError(f"{path}: {_refusal(path)}")
    return None


def is_finite(weight: Tensor) -> bool:
    """Whether it holds neither NaN nor infinities; takes no memory, as loading a large table should not.

    >>> is_finite(torch.tensor([1.0, torch.nan])), is_finite(torch.tensor([3e38, -3e38])), is_finite(torch.ones(0))
    (False, True, True)
    """
    return not weight.numel() or all(bool(end.isfinite()) for end in weight.aminmax())


def _refusal(path: Path) -> str:
    """Why a file is not read, and the command that converts it once."""
    if path.name == "pytorch_model.bin":
        command = _CONVERT.format(old=path, new=path.with_name(WEIGHTS))
        return f"only safetensors are read; convert it once: {command}"
    return f"only safetensors are read; load it with transformers and write {WEIGHTS} with save_pretrained"


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read, corrupt or cut short ({_one_line(error)})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True)
class Checkpoint:
    """Weights by the name that they have in a model without a head (``bert.`` and the like taken off)."""

    place: str
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], family: Family, place: str) -> Checkpoint:
        """Take the base prefix off and mend old names; buffers are left out."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            name = name.removeprefix(family.base + ".")
            for old, new in _OLD_ENDINGS.items():
                name = name.removesuffix(old) + new if name.endswith(old) else name
            if name.rpartition(".")[2] not in _BUFFERS:
                renamed[name] = tensor
        return cls(place, renamed)

    def holds(self, modules: Mapping[str, str]) -> bool:
        """Whether anything of these modules (ours to theirs) is there that is not the base model's."""
        own = [name for name in modules.values() if name.split(".")[0] not in BASE]
        return any(name in self.weights or name + ".weight" in self.weights for name in own)

    def holds_all(self, modules: Mapping[str, str]) -> bool:
        """Whether all of these modules are there."""
        return all(name in self.weights or name + ".weight" in self.weights for name in modules.values())

    def state(
        self, family: Family, blueprint: Blueprint, config: Any, wanted: Mapping[str, Tensor], *, head: bool
    ) -> dict[str, Tensor]:
        """Copies of the weights in float32 under our names; every weight of the checkpoint is used or known.

        Args:
            family: that names them.
            blueprint: of our model.
            config: of theirs.
            wanted: our state dict, for names and shapes.
            head: the checkpoint's head is ours; otherwise of our head only the pooler is taken, if there.

        Raises:
            ModelError: a weight is missing, misshapen, no float, unknown, or untied.
        """
        taken: dict[str, Tensor] = {}
        used: set[str] = set()
        aliases = {ours: theirs for theirs, ours in family.copies.items()}
        for theirs, ours in family.weights(blueprint, config, wanted).items():
            ours_alone = ours.startswith("head.") and not head
            if ours_alone and theirs.split(".")[0] not in BASE:
                continue
            name = theirs if theirs in self.weights else aliases.get(ours, theirs)
            if name not in self.weights:
                if ours_alone:
                    continue
                raise ModelError(f"{self.place}: weight {theirs} is missing")
            taken[ours] = self._checked(name, wanted[ours])
            used.add(name)
        needed = {name for name in wanted if head or not name.startswith("head.")}
        if forgotten := sorted(needed - taken.keys()):
            raise ModelError(f"{self.place}: no weight of {family.model_type} is {forgotten[0]}")
        if unknown := sorted(self.weights.keys() - used - family.known_leftovers(blueprint)):
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise ModelError(f"{self.place}: weight {unknown[0]}{more} is not known for {family.model_type}")
        if head:
            self._tied(family, taken)
        return {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in taken.items()}

    def _checked(self, name: str, wanted: Tensor) -> Tensor:
        tensor = self.weights[name]
        if tensor.shape != wanted.shape:
            shapes = f"{list(tensor.shape)}, must be {list(wanted.shape)} by its config"
            raise ModelError(f"{self.place}: weight {name} has shape {shapes}")
        if tensor.dtype not in FLOATS:
            kinds = ", ".join(map(str, FLOATS))
            raise ModelError(f"{self.place}: weight {name} is of {tensor.dtype}, must be one of {kinds}")
        if not is_finite(tensor):
            raise ModelError(f"{self.place}: weight {name} holds values that are not finite")
        return tensor

    def _tied(self, family: Family, taken: Mapping[str, Tensor]) -> None:
        """A second copy of a tied weight must be the same; a free decoder is not among our shapes."""
        for theirs, ours in family.copies.items():
            copy = self.weights.get(theirs)
            if copy is not None and ours in taken and not torch.equal(copy, taken[ours]):
                raise ModelError(f"{self.place}: weight {theirs} must be tied (equal to {ours})")
