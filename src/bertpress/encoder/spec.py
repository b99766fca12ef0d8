"""What all shapes of the blueprint share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=1, le=2**20)]
Width = Annotated[int, Field(ge=0, le=2**20)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "tanh", "none"]
Norm = Literal["layer", "affine"]


class Spec(BaseModel):
    """Base of all shapes: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
