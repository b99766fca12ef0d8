"""A state dict and its storage plan in one ``model.safetensors``, and back.

A weight without a plan is stored under its own name in its own dtype; a weight with one as parts
``<weight>::<part>``.  The plan (shapes, codecs, sizes that depend on the data, names that share a weight) is JSON in
the file's metadata, under one single key: safetensors writes several keys in an order that changes from process to
process, and the same weights must give the same bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bertpress.artifact.codecs import AnyCodec, Packed, Stored, TensorSpec, spec_of
from bertpress.errors import ArtifactError, BertpressError

KEY = "bertpress"
SEPARATOR = "::"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Natural = Annotated[int, Field(ge=0)]


class WeightPlan(BaseModel):
    """How one weight is packed: its shape (its dtype is float32), its codecs, and their data-dependent sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Natural, ...]
    codecs: tuple[AnyCodec, ...] = Field(min_length=1)
    counts: tuple[dict[str, Natural], ...]

    @property
    def spec(self) -> TensorSpec:
        """The weight in memory."""
        return TensorSpec(torch.float32, self.shape)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Names of the parts that the codecs were handed."""
        return tuple(name for codec in self.codecs for name in codec.fixed())


class Plan(BaseModel):
    """Everything about a file that its tensors do not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    weights: dict[str, WeightPlan] = {}
    ties: dict[str, str] = Field({}, description="Name of a shared weight -> the name under which it is stored.")


@dataclass(frozen=True)
class Listing:
    """What a file holds, from its header alone: ``weights`` as they are in memory, ``parts`` of each as stored."""

    path: Path
    plan: Plan
    weights: dict[str, TensorSpec]
    parts: dict[str, dict[str, TensorSpec]]

    @property
    def elements(self) -> int:
        """Values in memory, shared ones once."""
        return sum(spec.elements for spec in self.weights.values())

    def bytes(self) -> dict[str, int]:
        """Bytes on disk of each weight."""
        return {name: sum(spec.bytes for spec in parts.values()) for name, parts in self.parts.items()}


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


def _key(weight: str, part: str) -> str:
    return weight + SEPARATOR + part


def planned_bytes(weights: Mapping[str, TensorSpec], storage: Mapping[str, Stored]) -> dict[str, int]:
    """Bytes that each weight will take, without packing anything.

    Codecs whose parts depend on the data count those at zero here; :meth:`Listing.bytes` is the count after writing.
    """
    plain = {name: spec.bytes for name, spec in weights.items()}
    packed = {
        name: sum(part.bytes for part in stored.layout(weights[name]).values())
        for name, stored in storage.items()
        if name in weights
    }
    return plain | packed


def pack(state: Mapping[str, Tensor], storage: Mapping[str, Stored]) -> tuple[dict[str, Tensor], Plan]:
    """All tensors of the file by key, and the plan.

    Raises:
        BertpressError: a weight does not lie on the grid of its codec, so the file would hold another model.
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
        if name not in plans:
            tensors[name] = weight
            continue
        packed = _packed(name, weight, plans[name])
        tensors |= {_key(name, part): value.contiguous() for part, value in packed.parts.items()}
        weights[name] = WeightPlan(shape=tuple(weight.shape), codecs=plans[name].codecs, counts=packed.counts)
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


def _packed(name: str, weight: Tensor, stored: Stored) -> Packed:
    chain = "+".join(codec.kind for codec in stored.codecs)
    if weight.dtype != torch.float32:
        raise BertpressError(f"{name}: codec {chain} packs float32, got {spec_of(weight)}")
    try:
        packed = stored.encode(weight)
        decoded = stored.decode(packed, spec_of(weight))
    except ValueError as error:
        raise BertpressError(f"{name}: {error}") from error
    if not torch.equal(decoded, weight):
        change = float((decoded - weight).abs().max())
        raise BertpressError(
            f"{name}: codec {chain} would change a value by {change:.3g}, must be 0: "
            "the method must leave the weight on its grid"
        )
    return packed


def write(path: Path, state: Mapping[str, Tensor], storage: Mapping[str, Stored]) -> None:
    """Pack and write; the same state and plan give the same bytes."""
    tensors, plan = pack(state, storage)
    empty = not plan.weights and not plan.ties
    metadata = {"format": "pt"} if empty else {KEY: plan.model_dump_json()}
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, str(path), metadata=metadata)
    path.chmod(mode)  # safetensors makes files that their owner alone may read


def inspect(path: Path) -> Listing:
    """Check the whole header against the plan and the file's length, allocating nothing.

    Raises:
        ArtifactError: the file is cut short, is not safetensors, or its header and plan contradict each other.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            plan = _plan(path, file.metadata() or {})
            found = {key: _spec(path, key, file.get_slice(key)) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: not a whole safetensors file ({_one_line(error)})") from None
    return _listing(path, plan, found)


def _spec(path: Path, key: str, view: Any) -> TensorSpec:
    if (dtype := DTYPES.get(view.get_dtype())) is None:
        raise ArtifactError(f"{path}: {key} has dtype {view.get_dtype()}, must be one of {', '.join(DTYPES)}")
    return TensorSpec(dtype, tuple(view.get_shape()))


def _plan(path: Path, metadata: Mapping[str, str]) -> Plan:
    try:
        return Plan.model_validate_json(metadata[KEY]) if KEY in metadata else Plan()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: storage plan, {place}: {_one_line(first['msg'])}") from None


def _listing(path: Path, plan: Plan, found: dict[str, TensorSpec]) -> Listing:
    """Every tensor of the header must be a plain weight or a part that the plan foresees, of the planned spec."""
    weights: dict[str, TensorSpec] = {}
    parts: dict[str, dict[str, TensorSpec]] = {}
    left = dict(found)
    for name, entry in plan.weights.items():
        weights[name] = entry.spec
        parts[name] = _layout(path, name, entry)
        for part, expected in parts[name].items():
            key = _key(name, part)
            if (spec := left.pop(key, None)) != expected:
                raise ArtifactError(f"{path}: {key} is {spec or 'missing'}, must be {expected} by the storage plan")
    for name, spec in left.items():
        if SEPARATOR in name or name in weights:
            raise ArtifactError(f"{path}: {name} is not in the storage plan")
        weights[name], parts[name] = spec, {"": spec}
    for alias, owner in plan.ties.items():
        if owner not in weights or alias in weights:
            raise ArtifactError(f"{path}: storage plan, ties: {alias} -> {owner} must name a new and a stored weight")
    return Listing(path, plan, weights, parts)


def _layout(path: Path, name: str, entry: WeightPlan) -> dict[str, TensorSpec]:
    """The parts that a plan promises."""
    if len(entry.counts) != len(entry.codecs):
        raise ArtifactError(f"{path}: storage plan, {name}: {len(entry.counts)} counts for {len(entry.codecs)} codecs")
    fixed = dict.fromkeys(entry.fixed, torch.empty(0))
    try:
        return Stored(entry.codecs, fixed).layout(entry.spec, entry.counts)
    except (ValueError, KeyError) as error:
        raise ArtifactError(f"{path}: storage plan, {name}: {_one_line(error)}") from None


def read(path: Path, listing: Listing | None = None) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """The decoded state dict and the storage plan of a file written by :func:`write`.

    Args:
        path: the file.
        listing: what :func:`inspect` gave for it; looked at again when None.

    Raises:
        ArtifactError: as :func:`inspect`, or a part holds what its codec cannot decode.
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
            parts = {part: file.get_tensor(_key(name, part)) for part in listing.parts[name]}
            storage[name] = Stored(entry.codecs, {part: parts[part] for part in entry.fixed})
            try:
                state[name] = storage[name].decode(Packed(parts, entry.counts), entry.spec)
            except (ValueError, RuntimeError, IndexError) as error:
                raise ArtifactError(f"{path}: {name} cannot be decoded: {_one_line(error)}") from None
            if (found := spec_of(state[name])) != entry.spec:
                raise ArtifactError(f"{path}: {name} decodes to {found}, must be {entry.spec}")
    for alias, owner in listing.plan.ties.items():
        state[alias] = state[owner]
    return state, storage


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
