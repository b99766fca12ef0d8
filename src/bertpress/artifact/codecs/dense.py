"""Every value by itself, in a float format of 32 or 16 bits."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from bertpress.artifact.codecs.base import VALUES, Codec, TensorSpec

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Dense(Codec):
    """Plain values.  With 16 bits, the method must have rounded the weight in memory to that format."""

    kind: Literal["dense"] = "dense"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def layout(self, given: TensorSpec, counts: Mapping[str, int]) -> dict[str, TensorSpec]:
        """One part, of the tensor's own shape."""
        return {VALUES: TensorSpec(DTYPES[self.dtype], given.shape)}

    def encode(self, tensor: Tensor, fixed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cast."""
        return {VALUES: tensor.to(DTYPES[self.dtype])}

    def decode(self, parts: Mapping[str, Tensor], given: TensorSpec) -> Tensor:
        """Cast back."""
        return parts[VALUES].to(given.dtype)
