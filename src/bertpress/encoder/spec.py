"""What all shapes of the blueprint share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Norm = Literal["layer", "affine"]


class Spec(BaseModel):
    """Base of all shapes: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
