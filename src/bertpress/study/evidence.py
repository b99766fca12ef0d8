"""What claims are weighed by: the finished runs, where the time of a model goes, how words fill a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from bertpress.methods.base import Trait
from bertpress.methods.registry import find
from bertpress.report.reading import items, mapping, number, numbers, text

Cell: TypeAlias = "tuple[str, str, int]"
"""Model, task and seed: what two runs must share to be compared."""

UNSTRUCTURED = frozenset({"prune/magnitude", "prune/lottery_ticket", "prune/movement", "prune/rpp", "prune/obert"})
NO_TARGETS = frozenset({"distill/augment", "distill/unfreeze"})
ATTENTION = frozenset({"distill/attention", "distill/minilm", "distill/minilmv2", "distill/emd", "distill/progressive"})
STATES = frozenset({"distill/hidden", "distill/pkd", "distill/features", "distill/codir"})


@dataclass(frozen=True)
class Run:
    """One entry of ``study.json``, read by what claims ask of it."""

    data: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Line of the table."""
        return text(self.data, "label") or ""

    @property
    def cell(self) -> Cell:
        """What a run that is compared with this one must have in common."""
        return (text(self.data, "model") or "", text(self.data, "task") or "", int(number(self.data, "seed") or 0))

    @cached_property
    def stages(self) -> list[Mapping[str, Any]]:
        """Of the recipe."""
        return [mapping(stage) for stage in items(self.data, "recipe", "stages")]

    @cached_property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        """Fields of every method of the recipe by its name; of the last one where a name occurs twice."""
        used = (use for stage in self.stages for use in items(stage, "use"))
        return {name: mapping(fields) for use in used for name, fields in mapping(use).items()}

    @cached_property
    def families(self) -> frozenset[str]:
        """Folders of its methods, such as ``prune``."""
        return frozenset(name.partition("/")[0] for name in self.methods)

    @cached_property
    def ways(self) -> frozenset[str]:
        """Families that compress; a student and what it is taught are one."""
        return frozenset("distill" if family == "student" else family for family in self.families)

    @cached_property
    def targets(self) -> frozenset[str]:
        """What a teacher is asked for."""
        return frozenset(name for name in self.methods if name.startswith("distill/")) - NO_TARGETS

    @property
    def follows_attention(self) -> bool:
        """Whether a target lies inside attention."""
        return bool(self.targets & ATTENTION)

    @property
    def integers(self) -> bool:
        """Whether it leaves 8-bit integers for integer kernels."""
        return any(Trait.INT8 in find(name).provides for name in self.methods)

    @property
    def unstructured(self) -> bool:
        """Whether it prunes, and single weights alone."""
        pruning = {name for name in self.methods if name.startswith("prune/")}
        return bool(pruning) and pruning <= UNSTRUCTURED

    @property
    def structured(self) -> bool:
        """Whether it prunes parts of the architecture alone."""
        pruning = {name for name in self.methods if name.startswith("prune/")}
        return bool(pruning) and not pruning & UNSTRUCTURED

    @property
    def score(self) -> float | None:
        """The metric in percent."""
        return number(self.data, "artifact", "metric", "value")

    @property
    def drop(self) -> float | None:
        """Points lost to the teacher."""
        return number(self.data, "artifact", "drop", "value")

    @property
    def percent(self) -> float | None:
        """Size of the packed file, in percent of the teacher's."""
        return self._share("weight_bytes")

    @property
    def percent_without(self) -> float | None:
        """The same without embeddings."""
        return self._share("weight_bytes_without_embeddings")

    def _share(self, key: str) -> float | None:
        whole, left = number(self.data, "baseline", key), number(self.data, "artifact", "engines", "torch", key)
        return None if not whole or left is None else 100 * left / whole

    @property
    def macs(self) -> float | None:
        """Multiply-accumulates of a text of mean length."""
        return number(self.data, "artifact", "macs")

    @property
    def parameters_without(self) -> float | None:
        """Parameters outside the embeddings."""
        return number(self.data, "artifact", "parameters_without_embeddings")

    @property
    def latency(self) -> float | None:
        """Median milliseconds of the model alone, on the first engine."""
        return number(self.data, "artifact", "model_latency_ms", "median")

    @property
    def speedups(self) -> list[float]:
        """Paired ratios of blocks of texts: the teacher's time over its own, on the same engine."""
        return numbers(self.data, "artifact", "speedup_samples")

    @property
    def peak_bytes(self) -> float | None:
        """Resident memory of a fresh process that runs it."""
        return number(self.data, "artifact", "peak_memory_bytes")

    @cached_property
    def layers(self) -> list[tuple[int, int, str]]:
        """Heads, neurons and mixer of every layer."""
        return list(_layers(self.data, "artifact"))

    @cached_property
    def cut(self) -> frozenset[str]:
        """Which dimensions are smaller than the teacher's: depth, heads, neurons, hidden size."""
        before, after = list(_layers(self.data, "baseline")), self.layers
        if not before or not after:
            return frozenset()
        smaller = {
            "depth": len(after) < len(before),
            "heads": min(layer[0] for layer in after) < min(layer[0] for layer in before),
            "neurons": min(layer[1] for layer in after) < min(layer[1] for layer in before),
            "hidden size": (number(self.data, "artifact", "hidden_size") or 0)
            < (number(self.data, "baseline", "hidden_size") or 0),
        }
        return frozenset(name for name, is_smaller in smaller.items() if is_smaller)

    @property
    def uneven(self) -> bool:
        """Whether its layers differ from each other."""
        return len(set(self.layers)) > 1

    def mixes(self, kind: str) -> bool:
        """Whether all its layers mix words in this way: ``attention``, ``lstm``, ``convolution``, ..."""
        return bool(self.layers) and all(layer[2] == kind for layer in self.layers)


def _layers(data: Mapping[str, Any], side: str) -> Iterator[tuple[int, int, str]]:
    for layer in items(data, side, "layers"):
        widths = numbers(layer, "ffn")
        yield len(items(layer, "heads")), int(sum(widths)), text(layer, "mixer") or "attention"


@dataclass(frozen=True)
class Evidence:
    """All that a study has found.

    Attributes:
        runs: finished ones.
        profiles: of the models, as :func:`bertpress.measure.profile.profile` gives them, by name, for each device.
        vocabularies: of each teacher's task, as :func:`bertpress.study.vocabulary.coverage` gives them.
    """

    runs: Sequence[Run]
    profiles: Mapping[str, Sequence[Mapping[str, Any]]]
    vocabularies: Mapping[str, Mapping[str, Any]]

    def on(self, device: str) -> list[Mapping[str, Any]]:
        """Profiles that were measured on a device."""
        return [each for found in self.profiles.values() for each in found if each.get("device") == device]
