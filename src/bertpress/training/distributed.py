"""Several processes, one model: gradients are summed by hand, so that losses may run any module in any order."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def sum_gradients(weights: Sequence[nn.Parameter], flags: Tensor) -> Tensor:
    """Sum gradients over the processes, in one message.

    Args:
        weights: the same, in the same order, in every process; a gradient that no process has stays None.
        flags: (n,), float: summed too (who wants to stop, who wants a checkpoint).

    Returns:
        The summed flags.
    """
    if world_size() == 1:
        return flags
    device = weights[0].device
    present = torch.tensor([float(weight.grad is not None) for weight in weights], device=device)
    parts = [flags.to(device), present]
    parts += [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights]
    message = torch.cat(parts)
    dist.all_reduce(message)
    sizes = [flags.numel(), len(weights), *(weight.numel() for weight in weights)]
    summed, present, *gradients = torch.split(message, sizes)
    for weight, somewhere, gradient in zip(weights, present.tolist(), gradients, strict=True):
        if somewhere:
            if weight.grad is None:
                weight.grad = gradient.view_as(weight).clone()
            else:
                weight.grad.copy_(gradient.view_as(weight))
    return summed


def same_everywhere(value: float) -> float:
    """What process 0 says."""
    if world_size() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    message = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(message, 0)
    return float(message.item())


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
