"""How one weight is stored: its chain of codecs, and what they need."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec, spec_of
from bertpress.encoder.grids import Grid


@dataclass(frozen=True)
class Packed:
    """A weight as it goes to the file: parts by name, and the sizes that depend on the data, one dict a codec."""

    parts: dict[str, Tensor]
    counts: tuple[dict[str, int], ...]


@dataclass(frozen=True)
class Stored:
    """A chain of codecs and their fixed parts: ``Stored((Uniform(bits=4, block=(1, 0)), Bits(bits=4)), parts)``.

    The first codec takes the weight, each further one the ``values`` of the one before.  Part names are shared by the
    chain, so no two codecs of it may use the same name (but for ``values``).
    """

    codecs: tuple[Codec, ...]
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.codecs:
            raise ValueError("a chain of codecs must have at least one")
        wanted = {name for codec in self.codecs for name in codec.fixed()}
        if wanted != set(self.parts):
            chain = "+".join(codec.kind for codec in self.codecs)
            raise ValueError(f"codec {chain}: fixed parts must be {sorted(wanted)}, got {sorted(self.parts)}")

    def layout(self, given: TensorSpec, counts: Sequence[Mapping[str, int]] | None = None) -> dict[str, TensorSpec]:
        """Spec of every part in the file for a weight of spec ``given``; ``counts`` as in :class:`Packed`."""
        return {name: spec for stage in self._stages(given, counts) for name, spec in stage[1].items()}

    def _stages(
        self, given: TensorSpec, counts: Sequence[Mapping[str, int]] | None
    ) -> list[tuple[TensorSpec, dict[str, TensorSpec]]]:
        """What each codec is given, and the parts that it leaves to the file."""
        stages: list[tuple[TensorSpec, dict[str, TensorSpec]]] = []
        names: set[str] = set()
        for i, codec in enumerate(self.codecs):
            layout = codec.layout(given, counts[i] if counts else {})
            following = layout.pop(VALUES) if i + 1 < len(self.codecs) else given
            _disjoint(codec, names, layout)
            names |= set(layout)
            stages.append((given, layout))
            given = following
        return stages

    def bytes(self, weight: Tensor) -> int:
        """What ``weight`` will take in the file, by the layout, its zeros and its outliers; nothing is packed.

        Raises:
            ValueError: as :meth:`layout`.
        """
        counts: list[dict[str, int]] = []
        values = weight.detach()
        for codec in self.codecs:
            found, values = codec.foretell(values, {name: self.parts[name] for name in codec.fixed()})
            counts.append(found)
        return sum(part.bytes for part in self.layout(spec_of(weight), counts).values())

    def encode(self, weight: Tensor) -> Packed:
        """All parts of ``weight``.

        Raises:
            ValueError: a codec cannot pack it, or a fixed part has a wrong shape.
        """
        parts: dict[str, Tensor] = {}
        counts: list[dict[str, int]] = []
        carried = weight.detach()
        for i, codec in enumerate(self.codecs):
            given = spec_of(carried)
            codec.layout(given, {})  # refuses what the codec cannot pack at all
            try:
                made = codec.encode(carried, {name: self.parts[name] for name in codec.fixed()})
            except RuntimeError as error:
                raise ValueError(f"codec {codec.kind}: {error}") from error
            counts.append(codec.counts(made))
            expected = codec.layout(given, counts[-1])
            if (found := {name: spec_of(part) for name, part in made.items()}) != expected:
                raise ValueError(f"codec {codec.kind} gave {_listed(found)}, must be {_listed(expected)}")
            if i + 1 < len(self.codecs):
                carried = made.pop(VALUES)
            _disjoint(codec, parts, made)
            parts.update(made)
        return Packed(parts, tuple(counts))

    def decode(self, packed: Packed, given: TensorSpec) -> Tensor:
        """The weight of spec ``given``, bit for bit as it was encoded."""
        stages = self._stages(given, packed.counts)
        values: Tensor | None = None
        for codec, (spec, layout) in zip(reversed(self.codecs), reversed(stages), strict=True):
            parts = {name: packed.parts[name] for name in layout}
            values = codec.decode(parts if values is None else {**parts, VALUES: values}, spec)
        assert values is not None
        return values

    def grid(self) -> Grid | None:
        """The integer grid of the weight's values, where its first codec has one."""
        return self.codecs[0].grid(self.parts)


def _disjoint(codec: Codec, taken: Iterable[str], names: Iterable[str]) -> None:
    if twice := set(taken) & set(names):
        raise ValueError(f"codec {codec.kind}: part {min(twice)} is used twice in one chain")


def _listed(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in sorted(specs.items()))
