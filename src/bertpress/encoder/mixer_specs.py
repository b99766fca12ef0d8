"""Shapes of what mixes tokens in place of attention (:mod:`bertpress.encoder.mixers`)."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from bertpress.encoder.spec import Norm, Spec


class MixerSpec(Spec):
    """What mixes the tokens of a layer in place of attention, and how the sub-unit closes."""

    residual: bool = Field(True, description="Add the sub-unit's input to its output.")
    norm: Norm | Literal["none"] = Field("layer", description="What follows that sum.")


class LstmSpec(MixerSpec):
    """A bidirectional LSTM; each direction has half of the hidden dimensions, forward ones first."""

    kind: Literal["lstm"]


class ConvolutionSpec(MixerSpec):
    """A convolution over the tokens, as many out as in, and the layer's activation."""

    kind: Literal["convolution"]
    kernel: int = Field(3, ge=1, le=63, description="Tokens that each output sees; odd.")
    dilation: int = Field(1, ge=1, le=512, description="Distance of neighbouring tokens that it sees.")

    @model_validator(mode="after")
    def _centred(self) -> "ConvolutionSpec":
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel} must be odd")
        return self


Operation = Literal[
    "zero", "skip", "average3", "maximum3", "conv3", "conv5", "conv7", "dilated3", "dilated5", "dilated7"
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
CONVOLUTIONS: Mapping[Operation, tuple[int, int]] = {
    "conv3": (3, 1),
    "conv5": (5, 1),
    "conv7": (7, 1),
    "dilated3": (3, 2),
    "dilated5": (5, 2),
    "dilated7": (7, 2),
}
"""Kernel and dilation of the operations that have weights."""


class CellSpec(MixerSpec):
    """A small graph (AdaBERT): nodes that are sums of their edges, and as its output a learned mix of the nodes.

    An edge applies one operation to an earlier state: to the output of the layer before the last (state 0), to that of
    the last (state 1), to that of an earlier node (states 2, 3, ...).  ``zero`` is an edge that is not there.
    """

    kind: Literal["cell"]
    edges: tuple[tuple[Operation, ...], ...] = Field(
        min_length=1, description="For each node the operation on each state before it: two for the first, then three."
    )

    @model_validator(mode="after")
    def _acyclic(self) -> "CellSpec":
        for node, operations in enumerate(self.edges):
            if len(operations) != node + 2:
                raise ValueError(f"edges.{node} must have {node + 2} operations, not {len(operations)}")
        return self


class ShorteningSpec(Spec):
    """All layers work on a shorter sequence, whose states are each made of ``stride`` neighbouring tokens (WaLDORf).

    Before the layers a convolution whose kernel is its stride, after them the transposed one; what entered is added.
    """

    stride: int = Field(4, ge=2, le=64)


AnyMixer = Annotated[LstmSpec | ConvolutionSpec | CellSpec, Field(discriminator="kind")]
