"""Weights of three values, 1.6 bits each, trained under a full-precision teacher.

Source: TernaryBERT, Zhang et al. 2020, arXiv:2009.12812, section 3, approximation-based ternarization (TWN):
``threshold = 0.7 mean |W|``, ``a = mean |W|`` over what is larger, values -a, 0, a; a scale for each row of the token
table and one for each matrix.  Distillation: soft cross-entropy of the logits, squared error of all
hidden states and of the attention scores before the softmax, against the fine-tuned model.
Departs from it: the loss-aware variant is left out; 8-bit activations take their range from a moving average, frozen
afterwards, where the paper looks at each batch anew; attention maps stay float.  Position and segment tables and the
classifier stay float, as in the authors' code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bertpress.encoder.grids import block_of
from bertpress.encoder.surgery import rebuild
from bertpress.encoder.transforms import put
from bertpress.methods.base import Context, Model
from bertpress.methods.low_bits import LowBits, Ternarizer
from bertpress.methods.transform import WeightTransform


def without_activation_grids(model: Model) -> Model:
    """The model with float activations."""
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if ".quantizer." not in name}
    return rebuild(model, model.blueprint.with_float_activations(), state, model.storage)


class Ternary(LowBits):
    """Train weights of three values, -a, 0 and a, towards the answers and the insides of the full-precision model."""

    cite: ClassVar[str] = "Zhang et al., 2020"

    granularity: Literal["tensor", "channel"] = Field("tensor", description="Weights of a matrix that share a scale.")
    latent: bool = Field(
        False,
        description="Leave the float weights that were trained, for a later stage that splits them or trains on.",
    )

    def attach_matrix(self, model: Model, name: str) -> None:
        """Ternary from now on."""
        block = block_of(model.get_parameter(name).shape, self.granularity)
        put(model, name, self._lasting(Ternarizer(block, self.clip)))

    def table_transform(self, bits: int) -> WeightTransform:
        """As for all methods of few bits."""
        return self._lasting(super().table_transform(bits))

    def _lasting(self, transform: WeightTransform) -> WeightTransform:
        transform.latent = self.latent
        return transform

    def finish(self, model: Model, ctx: Context) -> Model:
        """Keep the ranges of the activations, unless the model is to be trained on."""
        if self.latent and self.activations:
            return without_activation_grids(model)
        return super().finish(model, ctx)
