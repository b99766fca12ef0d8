"""bfloat16 where the processor has instructions for it: about twice as fast, with float32 weights and optimizer."""

import contextlib
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def resolve_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of matrix products that ``precision`` means on ``device``."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Context in which matrix products run in ``dtype``."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def in_float32(output: Any) -> Any:
    """The same output with its floating-point tensors in float32, so that losses lose no digits."""
    return _in_float32(output, {})


def _in_float32(output: Any, known: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """``known`` holds tensors that were seen with their copies, as outputs name some tensors twice."""
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            return output
        if id(output) not in known:
            known[id(output)] = (output, output.float())  # the tensor too: its id must not be used again meanwhile
        return known[id(output)][1]
    if isinstance(output, dict):
        for key in list(output):
            output[key] = _in_float32(output[key], known)
        return output
    if isinstance(output, tuple | list):
        return type(output)(_in_float32(item, known) for item in output)
    return output
