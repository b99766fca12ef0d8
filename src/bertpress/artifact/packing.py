"""A state dict and its storage plan in one ``model.safetensors``, and back.

A weight without a plan is stored under its own name in its own dtype; a weight with one as parts
``<weight>::<part>``.  Zeros take a bit each wherever that is less, whatever made them, and integers of 8 bits no more
bits than the largest needs: no method has to ask for it.
The plan (shapes, codecs, sizes that depend on the data, names that share a weight) is JSON in the file's metadata,
under one single key: safetensors writes several keys in an order that changes from process to process, and the same
weights must give the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bertpress.artifact.codecs import Packed, Stored, spec_of
from bertpress.artifact.codecs.bitmap import thinned
from bertpress.artifact.codecs.bits import as_codes
from bertpress.artifact.header import KEY, SEPARATOR, Listing, Plan, WeightPlan, inspect, one_line, part_key
from bertpress.encoder.checkpoint import is_finite
from bertpress.errors import ArtifactError, BertpressError


def shared(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names that hold the very tensor of an earlier name -> that name."""
    owners: dict[tuple[Any, ...], str] = {}
    ties: dict[str, str] = {}
    for name, tensor in state.items():
        if tensor.numel() == 0:
            continue
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if (owner := owners.setdefault(key, name)) != name:
            ties[name] = owner
    return ties


def planned_bytes(state: Mapping[str, Tensor], storage: Mapping[str, Stored]) -> dict[str, int]:
    """Bytes that each weight will take, shared ones once: in closed form, from its shape, its zeros and its outliers.

    Raises:
        BertpressError: as :func:`pack`, as far as shapes tell.
    """
    ties = shared(state)
    plans = _owned(storage, state, ties)
    sizes: dict[str, int] = {}
    for name, tensor in state.items():
        if name in ties:
            continue
        weight = tensor.detach().cpu()
        try:
            stored = _least(weight, plans.get(name))
            sizes[name] = weight.nbytes if stored is None else stored.bytes(weight)
        except ValueError as error:
            raise BertpressError(f"{name}: {error}") from error
    return sizes


def pack(state: Mapping[str, Tensor], storage: Mapping[str, Stored]) -> tuple[dict[str, Tensor], Plan]:
    """All tensors of the file by key, and the plan.

    Raises:
        BertpressError: a weight is not finite, or does not lie on the grid of its codec, so that the file would hold
            another model.
    """
    ties = shared(state)
    plans = _owned(storage, state, ties)
    tensors: dict[str, Tensor] = {}
    weights: dict[str, WeightPlan] = {}
    for name, tensor in state.items():
        if name in ties:
            continue
        if SEPARATOR in name:
            raise BertpressError(f"{name}: a weight's name must not contain {SEPARATOR!r}")
        weight = tensor.detach().cpu().contiguous()
        if not is_finite(weight):
            raise BertpressError(f"{name}: holds values that are not finite")
        if (made := _packed(name, weight, plans.get(name))) is None:
            tensors[name] = weight
            continue
        stored, packed = made
        tensors |= {part_key(name, part): value.contiguous() for part, value in packed.parts.items()}
        dtype = "U8" if weight.dtype == torch.uint8 else "F32"
        weights[name] = WeightPlan(shape=tuple(weight.shape), dtype=dtype, codecs=stored.codecs, counts=packed.counts)
    return tensors, Plan(weights=weights, ties=ties)


def _owned(storage: Mapping[str, Stored], state: Mapping[str, Tensor], ties: Mapping[str, str]) -> dict[str, Stored]:
    """The plan of each stored weight; an entry under any name of a shared weight counts."""
    owned: dict[str, Stored] = {}
    for name, stored in storage.items():
        if name not in state:
            raise BertpressError(f"storage plan names {name}, which the model does not have")
        owner = ties.get(name, name)
        if owned.setdefault(owner, stored) is not stored:
            raise BertpressError(f"{name} shares the weight of {owner}, but their storage plans differ")
    return owned


def _least(weight: Tensor, stored: Stored | None) -> Stored | None:
    """The chain with which a weight takes least room; None: as it is."""
    return as_codes(weight) if weight.dtype == torch.uint8 else thinned(weight, stored)


def _packed(name: str, weight: Tensor, stored: Stored | None) -> tuple[Stored, Packed] | None:
    """The chain with which a weight takes least room, and its parts; None: as it is."""
    if stored is not None and weight.dtype not in (torch.float32, torch.uint8):
        raise BertpressError(f"{name}: codec {_chain(stored)} packs float32, got {spec_of(weight)}")
    try:
        stored = _least(weight, stored)
        if stored is None:
            return None
        packed = stored.encode(weight)
        decoded = stored.decode(packed, spec_of(weight))
    except ValueError as error:
        raise BertpressError(f"{name}: {error}") from error
    if not torch.equal(decoded, weight):
        change = float((decoded.float() - weight.float()).abs().max())
        raise BertpressError(
            f"{name}: codec {_chain(stored)} would change a value by {change:.3g}, must be 0: "
            "the method must leave the weight on its grid"
        )
    return stored, packed


def _chain(stored: Stored) -> str:
    return "+".join(codec.kind for codec in stored.codecs)


def write(path: Path, state: Mapping[str, Tensor], storage: Mapping[str, Stored]) -> None:
    """Pack and write; the same state and plan give the same bytes."""
    tensors, plan = pack(state, storage)
    empty = not plan.weights and not plan.ties
    metadata = {"format": "pt"} if empty else {KEY: plan.model_dump_json()}
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, str(path), metadata=metadata)
    path.chmod(mode)  # safetensors makes files that their owner alone may read


def read(path: Path, listing: Listing | None = None) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """The decoded state dict and the storage plan of a file written by :func:`write`.

    Args:
        path: the file.
        listing: what :func:`inspect` gave for it; looked at again when None.

    Raises:
        ArtifactError: as :func:`inspect`, or a part holds what its codec cannot decode, or a weight is not finite.
    """
    listing = listing or inspect(path)
    state: dict[str, Tensor] = {}
    storage: dict[str, Stored] = {}
    with safe_open(str(path), framework="pt") as file:
        for name in listing.weights:
            entry = listing.plan.weights.get(name)
            if entry is None:
                state[name] = file.get_tensor(name)
                continue
            parts = {part: file.get_tensor(part_key(name, part)) for part in listing.parts[name]}
            storage[name] = Stored(entry.codecs, {part: parts[part] for part in entry.fixed})
            try:
                state[name] = storage[name].decode(Packed(parts, entry.counts), entry.spec)
            except (ValueError, RuntimeError, IndexError) as error:
                raise ArtifactError(f"{path}: {name} cannot be decoded: {one_line(error)}") from None
            if (found := spec_of(state[name])) != entry.spec:
                raise ArtifactError(f"{path}: {name} decodes to {found}, must be {entry.spec}")
    for name, weight in state.items():  # NaN would end as NaN, or on some engines as an answer that means nothing
        if not is_finite(weight):
            raise ArtifactError(f"{path}: {name} holds values that are not finite")
    for alias, owner in listing.plan.ties.items():
        state[alias] = state[owner]
    return state, storage
