"""What a ``model.safetensors`` says before its tensors are read: its header, and the storage plan in its metadata.

Both are checked against each other and against the file's length, so that nothing is allocated on a lie.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from bertpress.artifact.codecs import AnyCodec, Stored, TensorSpec
from bertpress.errors import ArtifactError

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
    """How one weight is packed: its shape and dtype, its codecs, and their data-dependent sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[Natural, ...]
    dtype: Literal["F32", "U8"] = "F32"
    codecs: tuple[AnyCodec, ...] = Field(min_length=1)
    counts: tuple[dict[str, Natural], ...]

    @property
    def spec(self) -> TensorSpec:
        """The weight in memory."""
        return TensorSpec(DTYPES[self.dtype], self.shape)

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


def part_key(weight: str, part: str) -> str:
    """The name of a part in the file."""
    return weight + SEPARATOR + part


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
        raise ArtifactError(f"{path}: not a whole safetensors file ({one_line(error)})") from None
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
        raise ArtifactError(f"{path}: storage plan, {place}: {one_line(first['msg'])}") from None


def _listing(path: Path, plan: Plan, found: dict[str, TensorSpec]) -> Listing:
    """Every tensor of the header must be a plain weight or a part that the plan foresees, of the planned spec."""
    weights: dict[str, TensorSpec] = {}
    parts: dict[str, dict[str, TensorSpec]] = {}
    left = dict(found)
    for name, entry in plan.weights.items():
        weights[name] = entry.spec
        parts[name] = _layout(path, name, entry)
        for part, expected in parts[name].items():
            key = part_key(name, part)
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
        raise ArtifactError(f"{path}: storage plan, {name}: {one_line(error)}") from None


def one_line(error: object) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())
