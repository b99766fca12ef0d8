"""Several processes, one model: gradients are summed by hand, so that losses may run any module in any order.

A launcher (torchrun, ``accelerate launch``) starts the same command several times.  All of them do what decides the
model; the first alone writes, times and reports, and the others wait for it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bertpress.errors import UserError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=7)
"""For what the first process does alone."""

_alone = False


def launched() -> int:
    """How many processes a launcher has started, this one among them; 1 without any."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the processes that a launcher has started, if one has."""
    if launched() == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def first() -> bool:
    """Whether this is the process that writes and reports."""
    return rank() == 0


@contextmanager
def _by_itself() -> Iterator[None]:
    """A block in which a process waits for no other."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def by_first(do: Callable[[], T]) -> T | None:
    """What the first process does alone, while the others wait; None in those."""
    if world_size() == 1:
        return do()
    found = None
    if first():
        with _by_itself():
            found = do()
    barrier()
    return found


def there(path: Path) -> bool:
    """Whether the first process sees a file or folder."""
    return bool(same_everywhere(float(path.exists())))


def share_weights(modules: Sequence[nn.Module]) -> None:
    """Give all processes the weights of the first, of which theirs may differ in last bits on other processors.

    Raises:
        UserError: they differ in more than bits.
    """
    if world_size() == 1:
        return
    weights = [each for module in modules for each in (*module.parameters(), *module.buffers())]
    count = sum(each.numel() for each in weights)
    if same_everywhere(float(count)) != count:
        raise UserError(f"process {rank()}: its model has {count} weights, which is not what the first one has")
    for each in weights:
        dist.broadcast(each.data, 0)


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
